"""The rest time that progress tells."""

from __future__ import annotations

import pytest

from setr_lib import progress
from setr_lib.progress import Pace, duration_words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_what_is_done_once_does_not_count(clock: list[float]) -> None:
    pace = Pace()
    assert pace.rest(500, 1_000) is None, "what was kept"
    clock[0] += 60
    assert pace.rest(510, 1_000) is None, "a minute of loading, then ten units"
    clock[0] += 2
    assert pace.rest(550, 1_000) == pytest.approx(450 / 20)
    clock[0] += 4
    assert pace.rest(610, 1_000) == pytest.approx(390 * 6 / 100)
    assert pace.rest(1_000, 1_000) is None


def test_reports_without_news_tell_nothing(clock: list[float]) -> None:
    pace = Pace()
    for _ in range(3):
        clock[0] += 5
        assert pace.rest(0, 10) is None
    clock[0] += 5
    assert pace.rest(1, 10) is None, "the first unit"
    assert pace.rest(1, 10) is None
    clock[0] += 5
    assert pace.rest(2, 10) == pytest.approx(8 * 5)


@pytest.mark.parametrize(("seconds", "words"), [(40, "40 s"), (180, "3 min"), (5_400, "1.5 h")])
def test_words(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words
