"""The page of several worlds: every world a line, the least gain of all, and nothing compared that differs
otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.material import MEASURED
from benchmarks.seeds import PAGE, World, page, worlds_of
from setr_lib.errors import SetrError

RUNGS = {"sum": 10.0, "union_text": 5.0, "intersection": 40.0, "base judge": 45.0, "adapter": 60.0}
VALUES = {
    (kind, rung, metric): value
    for kind, metrics in MEASURED.items()
    for metric in metrics
    for rung, value in RUNGS.items()
}
WORLD = World(3, "a world", 0.7, 0.9, VALUES)
OTHER = World(1, "a world", 0.7, 0.9, {**VALUES, ("cirr", "adapter", "R@1"): 55.5})


def test_each_world_has_a_line_and_the_least_gain_is_told() -> None:
    lines = page([WORLD, OTHER]).splitlines()
    (first,), (second,) = ([line for line in lines if line.startswith(f"| {seed} |")] for seed in (1, 3))
    assert lines.index(first) < lines.index(second)
    assert "0.700 → 0.900" in first
    assert "40.0 / 45.0 / **55.5**" in first and "10.0 / 5.0 / **40.0**" in first
    assert "| intersection, over sum | 30.0 | 30.0 | 30.0 |" in lines
    assert "| intersection + adapter, over intersection | 15.5 | 20.0 | 20.0 |" in lines
    assert "| intersection + adapter, over intersection + base judge | 10.5 | 15.0 | 15.0 |" in lines


def test_worlds_that_differ_in_more_than_the_seed_are_not_compared() -> None:
    with pytest.raises(SetrError, match="another world"):
        page([WORLD, replace(OTHER, made_by="another world")])


def test_a_page_gives_its_worlds_back() -> None:
    worlds = [WORLD, OTHER, replace(WORLD, seed=90210)]
    text = page(worlds)
    found = {world.seed: world for world in worlds_of(text)}
    assert set(found) == {1, 3, 90210}
    assert found[1].values["cirr", "adapter", "R@1"] == 55.5 and found[3].made_by == "a world"
    assert page(list(found.values())) == text
    seen, _, unseen = text.partition("## Worlds that were not looked at before")
    assert "| 90210 |" in unseen and "| 90210 |" not in seen


def test_the_committed_page_can_be_added_to() -> None:
    worlds = worlds_of(PAGE.read_text(encoding="utf-8"))
    assert page(worlds) == PAGE.read_text(encoding="utf-8")
