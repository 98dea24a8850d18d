"""Items prepared ahead of a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import count

import pytest

from setr_lib.feeding import prepared


def test_items_come_in_order_and_an_error_is_its_items_own() -> None:
    def root(number: int) -> float:
        if number < 0:
            raise ValueError(f"{number} has no root")
        return number**0.5

    found = [
        future.exception() or future.result() for future in prepared([4, 9, -1, 16], root, ahead=2, threads=2)
    ]
    assert found[:2] == [2, 3] and found[3] == 4
    assert isinstance(found[2], ValueError) and "-1" in str(found[2])


def test_no_more_items_are_taken_than_may_be_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    feed = prepared(numbers(), lambda number: number, ahead=5, threads=3)
    for given in range(20):
        assert next(feed).result() == given
        assert len(taken) <= given + 1 + 5
    feed.close()
    assert len(taken) <= 25


def test_closing_cancels_what_has_not_begun() -> None:
    begun, go_on = [], threading.Event()

    def prepare(number: int) -> int:
        begun.append(number)
        if number:
            go_on.wait()
        return number

    feed = prepared(range(100), prepare, ahead=50, threads=1)
    assert next(feed).result() == 0
    go_on.set()
    feed.close()
    assert len(begun) < 100
    with pytest.raises(StopIteration):
        next(feed)


def test_at_least_one_item_is_ahead() -> None:
    with pytest.raises(ValueError, match="not 0"):
        next(prepared([1], lambda number: number, ahead=0))
