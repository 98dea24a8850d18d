"""Rows that a thread appends."""

from __future__ import annotations

import threading
from itertools import chain

import pyarrow as pa
import pytest

from setr_lib.spaces.row_writer import RowWriter


class Table:
    """Keeps what is appended; waits where it is told to, and fails where it is told to."""

    def __init__(self) -> None:
        self.appended: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.error: Exception | None = None
        self.may_go_on.set()

    def add(self, rows: pa.Table) -> None:
        self.may_go_on.wait()
        if self.error is not None:
            raise self.error
        self.appended.append(rows["number"].to_pylist())


def rows(*numbers: int) -> pa.Table:
    return pa.table({"number": pa.array(numbers, pa.int64())})


def test_what_comes_during_an_append_is_the_next_append_in_order() -> None:
    table = Table()
    table.may_go_on.clear()
    with RowWriter(table) as writer:
        for number in range(20):
            writer.add(rows(number), 1)
        assert writer.done == 0
        table.may_go_on.set()
    assert writer.done == 20
    assert [*chain(*table.appended)] == list(range(20))
    assert len(table.appended) <= 3


def test_a_block_that_fails_has_written_what_was_added() -> None:
    table = Table()
    with pytest.raises(KeyboardInterrupt), RowWriter(table) as writer:
        writer.add(rows(1, 2), 2)
        writer.add(rows(), 3)
        writer.add(rows(3), 1)
        raise KeyboardInterrupt
    assert [*chain(*table.appended)] == [1, 2, 3]
    assert writer.done == 6


def test_an_append_that_fails_ends_the_block() -> None:
    table = Table()
    table.error = OSError("no space left")
    with pytest.raises(OSError, match="no space left"), RowWriter(table) as writer:
        writer.add(rows(1), 1)
    assert writer.done == 0
