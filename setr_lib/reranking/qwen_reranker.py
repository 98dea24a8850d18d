"""Qwen3-VL-Reranker as a re-ranker: a model that was trained to judge, under its own prompt, without an
adapter.

Its convention (QwenLM/Qwen3-VL-Embedding): a system text, the instruction, the query (here reference image
and modification text) and the document (the candidate) in one user turn; the relevance is sigmoid(logit(yes)
- logit(no)) of the lower-case answers after it. The score here is that logit, in float32. A reconstruction:
the texts and their order are those of that repository's code, read in copies of it; the instruction is ours,
pictures have the sizes of the checkpoint's own processor, and scores were not compared with any of the
published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from setr_lib.hashing import digest_strings
from setr_lib.methods.method import TRAINED_ELSEWHERE
from setr_lib.models.multimodal import MultimodalModel, RenderedPrompt
from setr_lib.models.multimodal.loading import load_model
from setr_lib.reranking.reranker import JudgedQuery, ModelSource, Reranker, RerankerError
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import QWEN_RERANKER, JudgeSettings, RerankerModelSettings
from setr_lib.texts.prompts import PromptTemplate

ANSWERS = (("yes", "no"),)
"""The answers that the model was trained to give."""
_PROMPT = Path(__file__).with_name("qwen_reranker.jinja")
_SECTION = "models.reranker"


@dataclass(frozen=True)
class InstructedJudge(YesNoJudge):
    """The opened re-ranker: a Yes/No judge whose prompt names the task, too.

    Attributes:
        instruction: What the prompt says of the task.
    """

    instruction: str = ""

    @property
    def prompt_hash(self) -> str:
        """Digest of the prompt's text and of the instruction."""
        return digest_strings([self.template.hash, self.instruction])

    def prompt(self, query: JudgedQuery) -> RenderedPrompt:
        """The prompt of a query, with the instruction."""
        return self.template.render(modification=query.modification, instruction=self.instruction)


def judge_settings(options: RerankerModelSettings) -> JudgeSettings:
    """The settings of the re-ranker's model as those of a multimodal LLM.

    Args:
        options: The section ``models.reranker``.

    Returns:
        What loads the model.
    """
    return JudgeSettings(
        name=options.name,
        revision=options.revision,
        dtype=options.dtype,
        pair_batch_size=options.pair_batch_size,
    )


class QwenReranker(Reranker):
    """The model of ``[models.reranker]`` under Qwen3-VL-Reranker's prompt."""

    name = QWEN_RERANKER
    label = TRAINED_ELSEWHERE
    is_logit = True
    source = "Qwen3-VL-Reranker (QwenLM, 2026), its prompt and score; a reconstruction"

    def open(self, models: ModelSource) -> Reranker:
        """Load the model; JudgeError where it has no single tokens for yes and no."""
        options = models.settings.models.reranker
        loaded = load_model(
            judge_settings(options),
            adapter=None,
            device=models.settings.models.device,
            name=models.settings.reranker_name,
            merge_adapter=False,
            answers=ANSWERS,
            section=_SECTION,
        )
        model = MultimodalModel(loaded, pair_batch_size=options.pair_batch_size)
        template = PromptTemplate.read(_PROMPT)
        return InstructedJudge(model, template, self.name, self.label, options.instruction)

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        """Refuse to score: the model is not loaded yet."""
        raise RerankerError(f"re-ranker {self.name!r} scores once it is opened")


BUILT_IN = (QwenReranker(),)
