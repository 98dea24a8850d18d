"""The durable store of model calls: nothing is lost, whoever writes at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from setr_lib.content_cache import ContentCache


def test_what_is_put_is_found_by_another_cache_of_the_same_file(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "calls.sqlite", "captions")
    cache.put_many({"a": "1", "b": "2"})
    again = ContentCache(tmp_path / "calls.sqlite", "captions")
    assert again.get_many(["a", "b", "c"]) == {"a": "1", "b": "2"}
    assert again.times_of(["a", "c"]).keys() == {"a"}
    assert ContentCache(tmp_path / "calls.sqlite", "scores").get_many(["a"]) == {}


def test_several_threads_may_write_and_read_at_once(tmp_path: Path) -> None:
    caches = [ContentCache(tmp_path / "calls.sqlite", "captions") for _ in range(2)]

    def work(number: int) -> bool:
        values = {f"{number}/{place}": str(place) for place in range(50)}
        caches[number % 2].put_many(values)
        return caches[(number + 1) % 2].get_many(values) == values

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    assert len(caches[0].get_many(f"{n}/{place}" for n in range(40) for place in range(50))) == 2000


def test_a_dropped_cache_closes_its_file(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path / "calls.sqlite", "captions")
    cache.put_many({"a": "1"})
    assert (tmp_path / "calls.sqlite-wal").exists()
    del cache
    assert not (tmp_path / "calls.sqlite-wal").exists()


@given(values=strategies.dictionaries(strategies.text("abc"), strategies.floats(), max_size=8))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_finite_numbers_go_in_and_they_come_back_to_the_last_digit(
    tmp_path: Path, values: dict[str, float]
) -> None:
    cache = ContentCache(tmp_path / "calls.sqlite", "scores")
    finite = {key: value for key, value in values.items() if abs(value) < float("inf")}
    cache.put_numbers(finite)
    assert cache.get_numbers(values) | finite == cache.get_numbers(values)
    if finite.keys() != values.keys():
        before = cache.get_many(values)
        with pytest.raises(ValueError, match="not finite"):
            cache.put_numbers(values)
        assert cache.get_many(values) == before, "none of them was stored"


@pytest.mark.parametrize("text", ["nan", "inf", "-Infinity", "1e999", "", "yes", "0.5x"])
def test_what_is_kept_and_no_finite_number_is_absent(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ContentCache(tmp_path / "calls.sqlite", "scores")
    cache.put_many({"bad": text, "good": "0.25"})
    assert cache.get_numbers(["bad", "good", "none"]) == {"good": 0.25}
    assert "1 kept scores are not finite numbers" in caplog.text


@given(strategies.lists(strategies.text(), max_size=4), strategies.lists(strategies.text(), max_size=6))
def test_keys_that_share_their_first_parts_are_those_that_are_made_one_by_one(
    parts: list[str], last: list[str]
) -> None:
    assert ContentCache.keys_of(parts, last) == [ContentCache.key_of(*parts, each) for each in last]
