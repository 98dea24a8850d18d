"""What the search benchmark takes for equal: the same ids, except where scores leave the order open."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.speed.search import K, _compared, _Measured

IDS = [f"image-{number}" for number in np.random.default_rng(0).permutation(500)[: 2 * K]]
SCORES = [1 - 0.01 * (place % K) for place in range(2 * K)]


def measured(ids: list[str], scores: list[float]) -> _Measured:
    return _Measured(1.0, 1.0, 1.0, ids, scores)


def with_ids(changed: dict[int, str]) -> list[str]:
    return [changed.get(place, name) for place, name in enumerate(IDS)]


@pytest.mark.parametrize(
    ("ids", "differing", "equal"),
    [
        (IDS, 0, True),
        (with_ids({K - 1: "tied with the last"}), 1, True),
        (with_ids({K - 2: "another"}), 1, False),
        (with_ids({3: IDS[4], 4: IDS[3]}), 2, False),
        (with_ids({3: IDS[4]}), K, False),
        (IDS[K:] + IDS[:K], 2 * K, False),
    ],
)
def test_ids_count_and_not_their_scores_alone(ids: list[str], differing: int, equal: bool) -> None:
    assert _compared(measured(ids, SCORES), measured(IDS, SCORES)) == (differing, equal)


def test_ids_of_nearly_equal_scores_may_change_places_and_scores_may_not_differ() -> None:
    near = [*SCORES]
    near[4] = near[3] - 1e-8
    swapped = with_ids({3: IDS[4], 4: IDS[3]})
    assert _compared(measured(swapped, near), measured(IDS, near)) == (2, True)
    assert _compared(measured(IDS, [score + 1e-5 for score in SCORES]), measured(IDS, SCORES)) == (0, False)
