"""Greedy generation: what prompts begin with is run once, answers that have ended make room for others.

The scheduling is continuous batching (Yu et al., "Orca", OSDI 2022): each pass of the language model makes
one token of every answer in work, and further prompts are taken in as answers end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.models.multimodal.answer_rows import AnswerRows
from setr_lib.models.multimodal.forward import LanguageModelPass
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.plain_pass import decode_answer
from setr_lib.models.multimodal.prompt import Request
from setr_lib.models.multimodal.prompt_passes import PromptPasses
from setr_lib.models.multimodal.token_rows import RowBuilder, TokenRow

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = 4
"""Prompts are taken in when such a part of the batch is free: few passes over prompts, few free places."""
_CHECKED = 2
"""So many last tokens of a prompt are run one by one to see that this gives the same."""


class GreedyGeneration:
    """Generation of the most probable token, one at a time, for many prompts side by side.

    Args:
        loaded: The model.
        forward: Its forward pass over token rows.
        rows: Prompts and pictures to token rows.
    """

    def __init__(self, loaded: LoadedModel, forward: LanguageModelPass, rows: RowBuilder) -> None:
        self._loaded = loaded
        self._forward = forward
        self._rows = rows

    def answers(
        self, requests: Sequence[Request], max_new_tokens: int, batch_size: int
    ) -> Iterator[tuple[int, str]]:
        """Answers to any number of prompts, each as soon as it has ended.

        Args:
            requests: Prompts with their pictures.
            max_new_tokens: Tokens at most in each answer.
            batch_size: Answers in work at a time at most; prompts are made ready in batches of this size.

        Yields:
            The place of a request, and its answer without special tokens.

        Raises:
            PictureError: Pictures cannot be read; the answers that were begun come before.
            RefusedTextError: The tokenizer refuses a text; so here.
            JudgeError: A prompt shows a picture that was not given.
        """
        passes = PromptPasses(self._forward, self._loaded.special_tokens.image_token_id)
        work = _Answers(self._loaded, self._forward, max_new_tokens, min(batch_size, len(requests)))
        order = _same_pictures_together(requests)
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            try:
                rows = self._rows.rows([requests[place] for place in batch])
            except SetrError:
                yield from work.run_down(0)
                raise
            for places in passes.planned(rows, max(1, batch_size // _PARTS)):
                yield from work.run_down(batch_size - len(places))
                yield from work.begin(passes, {batch[place]: rows[place] for place in places})
        yield from work.run_down(0)

    def differences(self, requests: Sequence[Request]) -> list[float]:
        """logit(Yes) - logit(No) after prompts whose last tokens are run one by one, as an answer's are.

        Args:
            requests: Prompts with their pictures; one batch.

        Returns:
            One for each.
        """
        import torch

        image, whole = self._loaded.special_tokens.image_token_id, self._rows.rows(requests)
        last = [_CHECKED if image not in row.ids[-_CHECKED:] else 1 for row in whole]
        cut = min(last)
        rows = [TokenRow(row.ids[:-cut], row.images) for row in whole]
        with torch.inference_mode():
            hidden, cache = PromptPasses(self._forward, image).run(rows)
            kept = AnswerRows(len(rows))
            kept.add(cache)
            for back in range(cut, 0, -1):
                tokens = [row.ids[-back] for row in whole]
                positions = [int(self._forward.positions.of_row(row)[..., -back].max()) for row in whole]
                hidden = self._forward.run_next(tokens, positions, kept)
            return self._forward.answer_differences(hidden).tolist()


def _same_pictures_together(requests: Sequence[Request]) -> list[int]:
    """The places of requests, those of one first picture behind one another, else in their order."""
    groups: dict[str, list[int]] = {}
    for place, (_, pictures) in enumerate(requests):
        groups.setdefault(next((each.identity for each in pictures.values()), ""), []).append(place)
    return [place for group in groups.values() for place in group]


@dataclass(eq=False)
class _Answer:
    """An answer in work: the place of its request, the position of its next token, its tokens so far."""

    request: int
    position: int
    tokens: list[int] = field(default_factory=list)


class _Answers:
    """The answers in work, one row of the key/value cache each."""

    def __init__(self, loaded: LoadedModel, forward: LanguageModelPass, limit: int, capacity: int) -> None:
        self._loaded = loaded
        self._forward = forward
        self._limit = limit
        self._rows = AnswerRows(capacity)
        self._answers: list[_Answer] = []

    def begin(self, passes: PromptPasses, prompts: dict[int, TokenRow]) -> list[tuple[int, str]]:
        """Run prompts, by the places of their requests; those answers that have ended at once."""
        import torch

        with torch.inference_mode():
            hidden, cache = passes.run([*prompts.values()])
            self._rows.add(cache)
            for request, row in prompts.items():
                self._answers.append(_Answer(request, int(self._forward.positions.of_row(row).max()) + 1))
            return self._with_next(hidden, len(self._answers) - len(prompts))

    def run_down(self, count: int) -> Iterator[tuple[int, str]]:
        """Go on until at most ``count`` answers are in work; those that end."""
        while len(self._answers) > count:
            yield from self._step()

    def _step(self) -> list[tuple[int, str]]:
        import torch

        with torch.inference_mode():
            tokens = [answer.tokens[-1] for answer in self._answers]
            positions = [answer.position for answer in self._answers]
            hidden = self._forward.run_next(tokens, positions, self._rows)
            for answer in self._answers:
                answer.position += 1
            return self._with_next(hidden, 0)

    def _with_next(self, hidden: Tensor, first: int) -> list[tuple[int, str]]:
        """Add its next token to each answer from the ``first`` on; those that end with it leave."""
        head, ends = self._loaded.model.get_output_embeddings(), self._loaded.special_tokens.eos_ids
        ended: list[int] = []
        for place, token in enumerate(head(hidden).argmax(-1).tolist(), first):
            tokens = self._answers[place].tokens
            if token not in ends:
                tokens.append(token)
            if token in ends or len(tokens) == self._limit:
                ended.append(place)
        found = [self._answers[place] for place in ended]
        if ended:
            for place, former in self._rows.drop(ended).items():
                self._answers[place] = self._answers[former]
            del self._answers[len(self._rows) :]
        return [(each.request, decode_answer(self._loaded.tokenizer, each.tokens)) for each in found]
