"""The Yes/No judge: a re-ranker that asks a multimodal LLM, as it is or with an adapter, one question."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from setr_lib.hashing import digest_strings
from setr_lib.models.multimodal import MultimodalModel, Picture, RenderedPrompt, VisionOutputsError
from setr_lib.models.multimodal.vision import VisionTower
from setr_lib.reranking.reranker import ZERO_SHOT, JudgedQuery, ModelSource, Reranker, RerankerError
from setr_lib.reranking.scorer import score_queries
from setr_lib.settings import ADAPTER, BASE_JUDGE
from setr_lib.texts.prompts import PromptTemplate, load_prompts


@dataclass(frozen=True)
class YesNoJudge(Reranker):
    """A loaded model together with the prompt that asks it whether a candidate satisfies a query.

    The same prompt is used at training, measurement, evaluation, search and serving, on all data sets: the
    same model under another prompt is another re-ranker.

    Attributes:
        model: The multimodal LLM, with its adapter if it has one.
        template: The judge prompt: of the prompt set that the settings name for the base model, of the
            registered bundle for an adapter.
        name: What rows call it.
        label: What it has learned from.
    """

    model: MultimodalModel
    template: PromptTemplate
    name: str = "yes/no judge"
    label: str = ZERO_SHOT
    is_logit = True
    source = "after LamRA-Rank (arXiv 2412.01720), a reconstruction"

    @property
    def id(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What identifies the re-ranker: the model's id and the prompt's hash."""
        return f"{self.model.id}|{self.prompt_hash}"

    @property
    def model_id(self) -> str:
        return self.model.id

    @property
    def prompt_hash(self) -> str:
        """Digest of the judge prompt's text."""
        return self.template.hash

    @property
    def vision(self) -> VisionTower:
        """The model's vision tower as the judge's prompts need it: they show several pictures."""
        return self.model.vision.among

    @property
    def pairs_per_batch(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Candidates whose queries' prefixes are run together."""
        return self.model.pairs_in_work

    def prompt(self, query: JudgedQuery) -> RenderedPrompt:
        """The prompt of a query; the same for all its candidates.

        It sees the modification text only, whatever raw captions a data set has.

        Args:
            query: The query.

        Returns:
            The prompt, filled in.

        Raises:
            PromptError: It cannot be filled in.
        """
        return self.template.render(modification=query.modification, captions=[query.modification])

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        """The scores of every query's candidates.

        Args:
            queries: Queries with the pictures to judge. Several small ones share a forward pass of up to
                ``model.pairs_in_work`` pairs; a larger one takes several. Batches halve when memory is
                short.

        Returns:
            For each query, float32 [candidates]: logit(Yes) - logit(No).

        Raises:
            PictureError: A picture cannot be opened.
            PromptError: The prompt uses an unknown variable.
            ScoreError: A score is not a finite number.
        """
        return score_queries(self, queries)

    def cache_parts(self, reference: Picture, modification: str, captions: Sequence[str]) -> tuple[str, ...]:
        """The model, the prompt, the reference and a digest of the query's text.

        The digest holds the raw captions, too: the prompt doesn't show them, but with them the scores of
        earlier runs are found. A prompt that uses ``captions`` was shown the raw ones by earlier versions;
        now it is shown the modification text in their place, and the key says so: such scores are made anew.
        """
        shown = [modification] if "captions" in self.template.variables else captions
        text = digest_strings([modification, *shown])
        return (self.model.id, self.prompt_hash, reference.identity, text)

    def has_seen(self, picture: Picture) -> bool:
        """Whether the image's vision features are kept, or of no use: the model runs over whole prompts."""
        return self.model.caches_are_exact is False or picture in self.vision

    def see(self, pictures: Sequence[Picture]) -> None:
        """Compute the images' vision features, where the model gives them; the first score finds that out."""
        with suppress(VisionOutputsError):
            self.vision.features(pictures)

    def announce(self, pictures: Sequence[Picture]) -> None:
        """Begin to read, decode and process the images."""
        self.vision.announce([pictures])


class BaseJudge(Reranker):
    """The configured multimodal LLM as it is, under ``judge.jinja`` of the prompt set that settings name."""

    name = BASE_JUDGE
    is_logit = True
    source = YesNoJudge.source

    def open(self, models: ModelSource) -> Reranker:
        """Load the configured model and prompt."""
        options = models.settings
        prompts = load_prompts(options.models.judge.prompts, options.base_dir)
        return YesNoJudge(models.multimodal(), prompts.get("judge"), self.name, self.label)

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        """Refuse to score: the judge is not opened yet."""
        raise RerankerError(f"re-ranker {self.name!r} scores once it is opened")


class AdaptedJudge(BaseJudge):
    """The configured multimodal LLM with a registered adapter, under the prompt that it was trained under."""

    name = ADAPTER
    trained = ADAPTER

    def open(self, models: ModelSource) -> Reranker:
        """Refuse to open without a version of the adapter."""
        raise RerankerError(f"re-ranker {self.name!r} is opened by its version: promote one first")


BUILT_IN = (BaseJudge(), AdaptedJudge())
