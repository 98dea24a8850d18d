"""The Yes/No judge, the re-ranker of stage 2: a multimodal LLM, as it is or with an adapter, and its one
judge prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from setr_lib.models.multimodal import MultimodalModel, RenderedPrompt
from setr_lib.reranking.scorer import JudgedQuery, score_queries
from setr_lib.texts.prompts import PromptTemplate


@dataclass(frozen=True)
class YesNoJudge:
    """A loaded model together with the prompt that asks it whether a candidate satisfies a query.

    The same prompt is used at training, measurement, evaluation, search and serving, on all data sets: the
    same model under another prompt is another re-ranker.

    Attributes:
        model: The multimodal LLM, with its adapter if it has one.
        template: The judge prompt: of the prompt set that the settings name for the base model, of the
            registered bundle for an adapter.
    """

    model: MultimodalModel
    template: PromptTemplate

    @property
    def id(self) -> str:
        """What identifies the re-ranker: the model's id and the prompt's hash."""
        return f"{self.model.id}|{self.prompt_hash}"

    @property
    def prompt_hash(self) -> str:
        """Digest of the judge prompt's text."""
        return self.template.hash

    def prompt(self, query: JudgedQuery) -> RenderedPrompt:
        """The prompt of ``query``; the same for all its candidates.

        It sees the modification text only, whatever raw captions a data set has. Raises ``PromptError``.
        """
        return self.template.render(modification=query.modification, captions=[query.modification])

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        """The scores of every query's candidates.

        Args:
            queries: Queries with the pictures to judge. Several small ones share a forward pass of up to
                ``model.pair_batch_size`` pairs; a larger one takes several. Batches halve when memory is
                short.

        Returns:
            For each query, float32 [candidates]: logit(Yes) - logit(No).

        Raises:
            PictureError: A picture cannot be opened.
            PromptError: The prompt uses an unknown variable.
        """
        return score_queries(self, queries)
