"""Pictures read, decoded and processed by a thread ahead of the vision tower, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from setr_lib.models.multimodal.pictures import Picture

Inputs = TypeVar("Inputs")

_AHEAD = 1
"""Batches that are being prepared or lie ready, besides the one in work."""


class PreparedInputs(Generic[Inputs]):
    """A model's inputs of batches of pictures; announced ones are prepared while other work is done.

    Args:
        prepare: Makes the inputs of a batch. It runs in a thread, on one batch at a time.
    """

    def __init__(self, prepare: Callable[[Sequence[Picture]], Inputs]) -> None:
        self._prepare = prepare
        self._thread: ThreadPoolExecutor | None = None
        self._first: dict[tuple[str, ...], Sequence[Picture]] = {}
        self._later: dict[tuple[str, ...], Sequence[Picture]] = {}
        self._begun: dict[tuple[str, ...], Future[Inputs]] = {}

    def announce(self, batches: Iterable[Sequence[Picture]]) -> None:
        """Say which batches come next, in place of those announced before.

        Args:
            batches: Pictures, in the order in which :meth:`take` will ask for them.
        """
        self._first, self._later = {}, {_key(batch): batch for batch in batches}
        self._go_on()

    def announce_first(self, batches: Iterable[Sequence[Picture]]) -> None:
        """Say which batches come before those of :meth:`announce`, in place of those that were to come first.

        Args:
            batches: As of :meth:`announce`.
        """
        self._first = {_key(batch): batch for batch in batches}
        self._go_on()

    def take(self, batch: Sequence[Picture]) -> Inputs:
        """The inputs of a batch; they are made now where it was not announced.

        Where it was not, the plan no longer holds (memory was short, and batches are halved, say): what was
        to come first is not prepared ahead, nor is any other batch of these pictures.

        Args:
            batch: The pictures.

        Returns:
            What ``prepare`` gives.

        Raises:
            Exception: What ``prepare`` raises for this batch.
        """
        key = _key(batch)
        if key not in self._first:
            self._first = {}
        self._first.pop(key, None)
        self._later = {other: later for other, later in self._later.items() if not {*other} & {*key}}
        begun = self._begun.pop(key, None)
        try:
            return self._prepare(batch) if begun is None else begun.result()
        finally:
            self._go_on()

    def _go_on(self) -> None:
        coming = {**self._first, **self._later}
        for key in [key for key in self._begun if key not in coming]:
            self._begun.pop(key).cancel()
        for key, batch in coming.items():
            if len(self._begun) >= _AHEAD:
                return
            if key not in self._begun:
                self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="setr-see")
                self._begun[key] = self._thread.submit(self._prepare, batch)


def _key(batch: Sequence[Picture]) -> tuple[str, ...]:
    return tuple(picture.identity for picture in batch)
