"""LaSCo in its official layout, drawn: scenes under COCO's names, and two files for each split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.miniature.worlds import Plan, look_alike_of, scaled, scene_query

if TYPE_CHECKING:
    from setr_lib.miniature.scenes import Scene

QUERIES = 50
"""Queries of val, at size 1."""
LOOK_ALIKES = 3
"""Pictures of val's corpus that were drawn along with each query."""


def plan_lasco(plan: Plan, size: float) -> None:
    """Val: every query with its reference, its target and some look-alikes of that.

    Args:
        plan: Is filled.
        size: Scales the number of queries.
    """
    taken: set[object] = set()
    pictures: list[Scene] = []
    triplets: list[tuple[int, int, str]] = []
    for _ in range(scaled(QUERIES, size)):
        query = scene_query(plan, taken, two_edits=0.2)
        triplets.append((len(pictures), len(pictures) + 1, query.modification.text))
        pictures += [query.reference, query.target]
        pictures += [look_alike_of(plan, query, taken, query.target) for _ in range(LOOK_ALIKES)]
    lasco_documents(plan, "val", pictures, triplets)


def lasco_documents(
    plan: Plan, split: str, pictures: list[Scene], triplets: list[tuple[int, int, str]]
) -> None:
    """Name the pictures of a split as COCO's, and write its query file and its corpus.

    Args:
        plan: Is filled.
        split: ``train`` or ``val``.
        pictures: What the corpus shows.
        triplets: (reference, target, text) by place in ``pictures``.
    """
    ids = plan.rng.sample(range(1, 580_000), len(pictures))
    paths = [f"{split}2014/COCO_{split}2014_{number:012d}.jpg" for number in ids]
    for path, picture in zip(paths, pictures, strict=True):
        plan.draw(path, picture)
    asked: dict[int, int] = {}
    entries: list[dict[str, object]] = []
    for reference, target, text in triplets:
        # VQA's question ids: the image's, and the question's number for it.
        number = asked[ids[reference]] = asked.get(ids[reference], -1) + 1
        entries.append(
            {
                "qid": 1000 * ids[reference] + number,
                "query-image": [ids[reference], paths[reference]],
                "query-text": text,
                "target-image": [ids[target], paths[target]],
            }
        )
    plan.documents[plan.root / f"lasco_{split}.json"] = entries
    listed = sorted(zip(ids, paths, strict=True))
    corpus: object = (
        [{"id": number, "path": f"val/{path}"} for number, path in listed]
        if split == "val"
        else {str(number): path for number, path in listed}
    )
    plan.documents[plan.root / f"lasco_{split}_corpus.json"] = corpus
