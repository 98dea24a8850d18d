"""Forward passes over prompts that are going to be answered: what several prompts begin with is run once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from setr_lib.models.multimodal.forward import LanguageModelPass, PrefixCache
from setr_lib.models.multimodal.token_rows import TokenRow

if TYPE_CHECKING:
    from torch import Tensor

_TOKENS = 8192
"""Tokens of prompts in one pass at most, padding included; a longer prompt has a pass of its own."""
_SHORTEST = 8
"""A beginning of fewer tokens is run with each prompt: a pass of its own would cost more."""


class PromptPasses:
    """Runs whole prompts in passes of similar length.

    The text that all prompts begin with is run once for many passes. A picture that several prompts of a pass
    begin with, such as the reference image of several queries, is run once for these.

    Args:
        forward: The forward pass over token rows.
        image_token_id: The id of the image placeholder.
    """

    def __init__(self, forward: LanguageModelPass, image_token_id: int) -> None:
        self._forward = forward
        self._image_token_id = image_token_id
        self._start: PrefixCache | None = None

    def planned(self, prompts: Sequence[TokenRow], most: int) -> Iterator[list[int]]:
        """Which prompts are run together.

        Args:
            prompts: Whole prompts.
            most: Prompts of one pass at most, unless more begin with one picture.

        Yields:
            The places of the prompts of a pass.
        """
        self._keep_start(prompts)
        groups = _by_picture(prompts, self._image_token_id)
        groups.sort(key=lambda group: (len(group) > 1, max(len(prompts[place].ids) for place in group)))
        taken: list[int] = []
        alone = True
        for group in groups:
            longest = max(len(prompts[place].ids) for place in (*taken, *group))
            rows = len(taken) + len(group)
            if taken and (rows > most or rows * longest > _TOKENS or alone != (len(group) == 1)):
                yield taken
                taken = []
            taken, alone = [*taken, *group], len(group) == 1
        if taken:
            yield taken

    def run(self, prompts: Sequence[TokenRow]) -> tuple[Tensor, PrefixCache]:
        """One pass.

        Args:
            prompts: Whole prompts.

        Returns:
            The hidden state of each prompt's last token ([prompts, hidden], the model's dtype), and the keys
            and values of the whole prompts.
        """
        start = self._start if self._start and _begins(prompts, self._start.rows[0]) else None
        groups = _by_picture(prompts, self._image_token_id)
        if len(groups) == len(prompts):
            return self._continued(prompts, start, [0] * len(prompts))
        shared = [shared_beginning([prompts[n] for n in group], self._image_token_id) for group in groups]
        begun = len(start.rows[0].ids) if start else 0
        if any(len(beginning.ids) <= begun for beginning in shared):
            return self._continued(prompts, start, [0] * len(prompts))
        group_of = {place: number for number, group in enumerate(groups) for place in group}
        prefixes = self._continued(shared, start, [0] * len(shared))[1]
        return self._continued(prompts, prefixes, [group_of[place] for place in range(len(prompts))])

    def _continued(
        self, rows: Sequence[TokenRow], prefixes: PrefixCache | None, owners: Sequence[int]
    ) -> tuple[Tensor, PrefixCache]:
        if prefixes is None:
            return self._forward.run(rows)
        ends = [_after(row, prefixes.rows[owner]) for row, owner in zip(rows, owners, strict=True)]
        return self._forward.run(ends, prefixes, owners)

    def _keep_start(self, prompts: Sequence[TokenRow]) -> None:
        """Run what all prompts begin with, unless that is kept."""
        if len(prompts) < 2 or (self._start and _begins(prompts, self._start.rows[0])):
            return
        start = shared_beginning(prompts, self._image_token_id)
        self._start = self._forward.run([start])[1] if len(start.ids) >= _SHORTEST else None


def shared_beginning(rows: Sequence[TokenRow], image_token_id: int) -> TokenRow:
    """The longest beginning of several rows that is the same in all: tokens and pictures, each picture whole.

    Args:
        rows: The rows.
        image_token_id: The id of the image placeholder.

    Returns:
        The beginning; at least a token shorter than each row.
    """
    cut = min(_common_length([row.ids for row in rows]), min(len(row.ids) for row in rows) - 1)
    first = rows[0]
    places = iter([place for place, token in enumerate(first.ids) if token == image_token_id])
    for number, image in enumerate(first.images):
        shown = list(islice(places, image.embeds.shape[0]))
        if shown[0] >= cut:
            return TokenRow(first.ids[:cut], first.images[:number])
        if shown[-1] >= cut or any(row.images[number] is not image for row in rows):
            return TokenRow(first.ids[: shown[0]], first.images[:number])
    return TokenRow(first.ids[:cut], first.images)


def _common_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """How many tokens at the beginning are the same in all sequences."""
    low, high = min(sequences), max(sequences)  # those between begin as these two do
    different = (place for place, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return next(different, min(len(low), len(high)))


def _by_picture(rows: Sequence[TokenRow], image_token_id: int) -> list[list[int]]:
    """The places of rows, those together that begin with the same text and picture."""
    groups: dict[object, list[int]] = {}
    for place, row in enumerate(rows):
        key: object = place
        if row.images:  # the outputs of one picture are one object, which the rows keep alive
            key = (id(row.images[0]), row.ids[: row.ids.index(image_token_id)])
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _begins(rows: Sequence[TokenRow], start: TokenRow) -> bool:
    length, images = len(start.ids), len(start.images)
    return all(
        len(row.ids) > length
        and row.ids[:length] == start.ids
        and all(a is b for a, b in zip(row.images[:images], start.images, strict=False))
        for row in rows
    )


def _after(row: TokenRow, beginning: TokenRow) -> TokenRow:
    return TokenRow(row.ids[len(beginning.ids) :], row.images[len(beginning.images) :])
