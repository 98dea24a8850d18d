"""The rank of held-out targets, against an independent count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from setr_lib.systems import held_out
from setr_lib.systems.held_out import ranks_of_targets, recall


def counted(
    queries: np.ndarray, images: np.ndarray, gallery: list[str], references: list[str], targets: list[str]
) -> list[int]:
    """How many images other than the reference are as near as the target or nearer, one by one."""
    found = []
    for query, reference, target in zip(queries, references, targets, strict=True):
        own = float(np.dot(query, images[gallery.index(target)]))
        scores = {image: float(np.dot(query, vector)) for image, vector in zip(gallery, images, strict=True)}
        found.append(sum(score >= own for image, score in scores.items() if image != reference))
    return found


@given(
    st.integers(2, 9).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=n, max_size=n),
            st.lists(
                st.tuples(
                    st.lists(st.integers(-2, 2), min_size=3, max_size=3),
                    st.integers(0, n),
                    st.integers(0, n - 1),
                ).filter(lambda row: row[1] != row[2]),
                min_size=1,
                max_size=6,
            ),
        )
    ),
    st.integers(1, 4),
)
def test_a_target_stands_behind_all_that_are_as_near_its_own_reference_left_out(
    world: tuple[list[list[int]], list[tuple[list[int], int, int]]], block: int
) -> None:
    """Small whole numbers give many ties; a reference may lie outside the gallery."""
    images = np.array(world[0], dtype=np.float32)
    gallery = [f"i{n}" for n in range(len(images))]
    queries = np.array([query for query, _, _ in world[1]], dtype=np.float32)
    references = [f"i{n}" for _, n, _ in world[1]]
    targets = [f"i{n}" for _, _, n in world[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "_BLOCK", block)
        ranks = ranks_of_targets(queries, images, gallery, references, targets)
    assert ranks.tolist() == counted(queries, images, gallery, references, targets)


def test_collapsed_vectors_are_no_hits() -> None:
    images, gallery = np.ones((30, 4), dtype=np.float32), [f"i{n}" for n in range(30)]
    ranks = ranks_of_targets(images[:2], images, gallery, ["i5", "elsewhere"], ["i0", "i0"])
    assert ranks.tolist() == [29, 30]
    assert recall(ranks) == 0


@pytest.mark.parametrize("of", ["queries", "target", "other"])
def test_vectors_that_are_not_numbers_count_against_the_system(of: str) -> None:
    """A comparison with NaN is never true: without care such a target would stand at rank 0, a hit."""
    images, gallery = np.eye(20, 24, dtype=np.float32), [f"i{n}" for n in range(20)]
    queries = images[:1].copy()
    if of == "queries":
        queries[:] = np.nan
    else:
        images[0 if of == "target" else 1 :] = np.nan
    (rank,) = ranks_of_targets(queries, images, gallery, ["elsewhere"], ["i0"])
    assert rank == 20


def test_recall_is_the_share_of_the_first_ten_in_percent() -> None:
    assert recall(np.array([1, 10, 11, 300])) == 50
    assert recall(np.array([3, 4, 5, 6]), 4) == 50
