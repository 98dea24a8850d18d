"""Greedy answers to any number of requests: side by side where that is exact, else by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from setr_lib.models.device import iterate_as_finished, iterate_in_batches
from setr_lib.models.multimodal.caching_check import attends_to_all_tokens, caches_reproduce_plain_scores
from setr_lib.models.multimodal.forward import LanguageModelPass
from setr_lib.models.multimodal.generation import GreedyGeneration
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.plain_pass import PlainPass
from setr_lib.models.multimodal.prompt import Request
from setr_lib.models.multimodal.token_rows import RowBuilder
from setr_lib.models.multimodal.vision import VisionTower

_PLAIN_BATCH = 16
"""Requests per batch of transformers' ``generate``: each runs its images through the vision tower anew."""


class Answering:
    """Chooses how answers are generated, and does it.

    Args:
        loaded: The model.
        forward: Its forward pass over token rows.
        rows: Prompts and pictures to token rows.
        plain: Its uncached forward pass.
        vision: Its vision tower.

    Attributes:
        generation: Generation side by side.
        exact: Whether that reproduces this architecture's own forward pass; ``None`` until the first request,
            which finds it out. Where not, transformers' ``generate`` answers.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        forward: LanguageModelPass,
        rows: RowBuilder,
        plain: PlainPass,
        vision: VisionTower,
    ) -> None:
        self.generation = GreedyGeneration(loaded, forward, rows)
        self.exact: bool | None = None
        self._loaded = loaded
        self._plain = plain
        self._vision = vision

    def answers(
        self, requests: Sequence[Request], limit: int, batch_size: int, *, side_by_side: bool = True
    ) -> Iterator[tuple[int, str]]:
        """Answers, each as soon as it has ended, in any order.

        Args:
            requests: Prompts with their pictures. Where none has any, transformers' ``generate`` answers:
                there is no vision output to reuse, nor to find out by whether reuse is exact.
            limit: Tokens at most in each answer.
            batch_size: Answers in work at a time.
            side_by_side: Whether vision outputs may be reused at all.

        Yields:
            The place of a request, and its answer without special tokens.

        Raises:
            PictureError: A picture cannot be read; answers that were begun come before.
            JudgeError: A prompt shows a picture that was not given.
            DeviceError: Not even one request fits in memory; with fewer at a time it is tried before.
        """
        shown = any(pictures for _, pictures in requests)
        if side_by_side and shown and self._is_exact(requests):
            yield from iterate_as_finished(
                requests, lambda left, size: self.generation.answers(left, limit, size), batch_size
            )
            return
        batches = iterate_in_batches(
            requests, lambda batch: self._plain.generate(batch, limit), min(batch_size, _PLAIN_BATCH)
        )
        yield from enumerate(answer for _, answers in batches for answer in answers)

    def _is_exact(self, requests: Sequence[Request]) -> bool:
        if self.exact is None:
            self.exact = attends_to_all_tokens(self._loaded) and caches_reproduce_plain_scores(
                requests,
                self._loaded,
                self._vision,
                self._plain_scores,
                self.generation.differences,
                "answers",
            )
        return self.exact

    def _plain_scores(self, requests: Sequence[Request]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._plain.answer_differences(requests).cpu().numpy()
