"""A small evaluation set with drawn pictures, known ranks and metric rows, for the tests of reports and
boards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw

from setr_lib.tables import CAPTIONS, COMPOSITIONS, GALLERY, METRICS, QUERIES, RANKINGS

IMAGES = 24


@dataclass(frozen=True)
class Sample:
    """What ``write_report`` takes. Query ``i`` has reference image ``i`` and target image ``i + 1``."""

    queries: pl.DataFrame
    gallery: pl.DataFrame
    captions: pl.DataFrame
    compositions: pl.DataFrame
    before: pl.DataFrame
    after: pl.DataFrame


def image_id(number: int) -> str:
    return f"img-{number:02d}"


def draw_images(folder: Path, side: int = 96) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        image = Image.new("RGB", (side, side - number), (10 * number, 120, 255 - 10 * number))
        ImageDraw.Draw(image).ellipse((5, 5, 20 + 2 * number, 20 + 2 * number), fill=(255, 10 * number, 0))
        image.save(folder / f"{image_id(number)}.png")


def ranking(target_ranks: list[int], *, judged: bool = False) -> pl.DataFrame:
    """Query ``i``'s target at rank ``target_ranks[i]``; the other images around it in order; no reference."""
    rows = []
    for query, target_rank in enumerate(target_ranks):
        order = [image_id(n) for n in range(IMAGES) if n not in (query, query + 1)]
        order.insert(target_rank - 1, image_id(query + 1))
        for rank, name in enumerate(order, start=1):
            judge = (target_rank + 0.5 - rank) if judged else None
            score = judge if judge is not None else 1 / rank
            rows.append((str(query), "gallery", rank, name, score, 1 / rank, judge))
    return pl.DataFrame(rows, schema=RANKINGS, orient="row")


def make_sample(folder: Path, before: list[int], after: list[int]) -> Sample:
    draw_images(folder)
    count = len(before)
    return Sample(
        queries=pl.DataFrame(
            [
                {
                    "query_id": str(n),
                    "reference_id": image_id(n),
                    "modification": f"make number {n} rounder",
                    "captions": [f"make number {n} rounder"],
                    "target_ids": [image_id(n + 1)],
                    "subset_ids": [],
                    "gallery": "all",
                    "aspects": [],
                }
                for n in range(count)
            ],
            schema=QUERIES,
        ),
        gallery=pl.DataFrame(
            [
                {
                    "image_id": image_id(n),
                    "path": str(folder / f"{image_id(n)}.png"),
                    "galleries": ["all"],
                    "status": "ok",
                    "detail": "",
                    "width": 96,
                    "height": 96 - n,
                    "fingerprint": None,
                    "pixels": "",
                }
                for n in range(IMAGES)
            ],
            schema=GALLERY,
        ),
        captions=pl.DataFrame(
            [(image_id(n), f"a disc, size {n}", "ok", "", "m", "p", f"f{n}") for n in range(count)],
            schema=CAPTIONS,
            orient="row",
        ),
        compositions=pl.DataFrame(
            [
                (
                    str(n),
                    ["a disc"],
                    ["round"],
                    ["square"],
                    ["on a table"],
                    f"a round disc {n}",
                    "ok",
                    "",
                    "m",
                    "p",
                )
                for n in range(count)
            ],
            schema=COMPOSITIONS,
            orient="row",
        ),
        before=ranking(before),
        after=ranking(after, judged=True),
    )


def metric_row(
    method: str,
    reranker: str,
    metric: str,
    value: float | None,
    *,
    dataset: str = "cirr",
    split: str = "val",
    interval: tuple[float, float] | None = None,
    comparable: bool = True,
    coverage: float = 1.0,
) -> pl.DataFrame:
    low, high = interval or (None, None)
    version = "setr-reranker 3" if reranker == "adapter" else None
    row = (
        dataset,
        split,
        method,
        reranker,
        metric,
        value,
        low,
        high,
        200,
        "original",
        coverage,
        comparable,
        "zero-shot",
    )
    return pl.DataFrame([(*row, version, None)], schema=METRICS, orient="row")


def metric_rows(*, comparable: bool = True, coverage: float = 1.0) -> pl.DataFrame:
    """R@1, R@10 and R_subset@1 of a floor, two methods and two re-rankers; every value is unlike any other
    number.
    """
    lines = (
        ("random", "", 0.04, 0.44, 20.12),
        ("sum", "", 12.31, 33.32, 31.33),
        ("intersection", "", 23.41, 51.42, 41.43),
        ("intersection", "base judge", 27.51, 57.52, 47.53),
        ("intersection", "adapter", 61.62, 81.63, 71.64),
    )
    names = ("R@1", "R@10", "R_subset@1")
    rows = []
    for method, reranker, *values in lines:
        for metric, value in zip(names, values, strict=True):
            interval = None if method == "random" else (value - 3.17, value + 4.19)
            rows.append(
                metric_row(
                    method,
                    reranker,
                    metric,
                    value,
                    interval=interval,
                    comparable=comparable,
                    coverage=coverage,
                )
            )
    return pl.concat(rows)
