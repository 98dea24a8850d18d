"""Rows of vectors appended to a LanceDB table by a thread, while the model works on the next ones."""

from __future__ import annotations

from threading import Condition, Thread
from time import monotonic
from types import TracebackType
from typing import Any

import pyarrow as pa

SHARE = 40
"""How many times as long as the last append took passes until the next: a fortieth of the time is spent on
appends of small models, each a commit, and every batch of a large one is appended at once."""
_LONGEST = 2.0
"""Seconds between two appends, at most."""
_MOST_ROWS = 8192
"""Rows that wait for their append, at most; more are appended at once."""


class RowWriter:
    """Appends rows in the order in which they are added; each append is one commit.

    What was added is written when the block ends, however it ends. A kill loses what was added within the
    last two seconds, at most.

    Args:
        handle: LanceDB's handle of the table; nothing else uses it meanwhile.

    Attributes:
        done: The sum of what :meth:`add` was told, of all that is written.
    """

    def __init__(self, handle: Any) -> None:
        self._handle, self.done = handle, 0
        self._waiting: list[tuple[pa.Table, int]] = []
        self._due = monotonic()
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

    def add(self, rows: pa.Table, count: int) -> None:
        """Have rows appended soon.

        Args:
            rows: As the table has them; there may be none.
            count: What ``done`` rises by once they are written.

        Raises:
            Exception: What an earlier append raised.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._waiting.append((rows, count))
            self._changed.notify()

    def _write(self) -> None:
        while added := self._next():
            begun = monotonic()
            try:
                rows = pa.concat_tables(table for table, _ in added).combine_chunks()
                if rows.num_rows:
                    self._append(rows)
            except BaseException as error:  # raised again where rows are added
                with self._changed:
                    self._error = error
                return
            now = monotonic()
            self._due = now + min(SHARE * (now - begun), _LONGEST)
            self.done += sum(count for _, count in added)

    def _append(self, rows: pa.Table) -> None:
        try:
            self._handle.add(rows)
        except ImportError:
            # Before it appends, LanceDB looks once at each optional package that is imported, and fails on a
            # folder of that name (`datasets`) in the package's place.
            self._handle.add(rows)

    def _next(self) -> list[tuple[pa.Table, int]]:
        """All that waits, once it is time; nothing at the end."""
        with self._changed:
            while not self._is_time():
                self._changed.wait(self._due - monotonic() if self._waiting else None)
            added, self._waiting = self._waiting, []
        return added

    def _is_time(self) -> bool:
        if self._is_ended:
            return True
        rows = sum(table.num_rows for table, _ in self._waiting)
        return bool(self._waiting) and (rows >= _MOST_ROWS or monotonic() >= self._due)
