"""Rows of vectors appended to a LanceDB table by a thread, while the model works on the next ones."""

from __future__ import annotations

from threading import Condition, Thread
from time import monotonic
from types import TracebackType
from typing import Any

import pyarrow as pa

_EVERY = 1.0
"""Seconds between two appends, at least: each is a commit, which costs as much as some hundred rows."""
_MOST_ROWS = 8192
"""Rows that wait for their append, at most; more are appended at once."""


class RowWriter:
    """Appends rows in the order in which they are added; each append is one commit.

    What was added is written when the block ends, however it ends. A kill loses what was added within the
    last second or so.

    Args:
        handle: LanceDB's handle of the table; nothing else uses it meanwhile.
        every: Seconds between two appends, at least.
    """

    def __init__(self, handle: Any, every: float = _EVERY) -> None:
        self._handle, self._every = handle, every
        self._waiting: list[pa.Table] = []
        self._changed, self._is_ended = Condition(), False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._write, name="setr-rows", daemon=True)

    def __enter__(self) -> RowWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_ended = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def add(self, rows: pa.Table) -> None:
        """Have rows appended soon.

        Args:
            rows: As the table has them.

        Raises:
            Exception: What an earlier append raised.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._waiting.append(rows)
            self._changed.notify()

    def _write(self) -> None:
        last = monotonic()
        while (rows := self._next(last)) is not None:
            try:
                self._handle.add(rows)
            except BaseException as error:  # raised again where rows are added
                with self._changed:
                    self._error = error
                return
            last = monotonic()

    def _next(self, last: float) -> pa.Table | None:
        """All rows that wait, once it is time; None at the end."""
        with self._changed:
            while not self._is_due(last):
                left = self._every - (monotonic() - last) if self._waiting else None
                self._changed.wait(left)
            rows, self._waiting = self._waiting, []
        return pa.concat_tables(rows).combine_chunks() if rows else None

    def _is_due(self, last: float) -> bool:
        if self._is_ended:
            return True
        waiting = sum(rows.num_rows for rows in self._waiting)
        return waiting > 0 and (waiting >= _MOST_ROWS or monotonic() - last >= self._every)
