"""CIRR's and CIRCO's official sizes without a model: everything after stage 1, step by step, on random
numbers; and how the bootstrap grows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.speed.figure import BenchSetting, Figure, Growth, Step
from benchmarks.speed.memory import measured_step
from benchmarks.speed.real_material import CIRCO, CIRR, RandomScores, RealSize, random_score, real_size
from benchmarks.speed.timing import in_turns
from setr_lib.content_cache import ContentCache
from setr_lib.evaluation.charts import PairedDifference
from setr_lib.evaluation.intervals import bootstrap_intervals, paired_differences
from setr_lib.evaluation.metrics import PER_QUERY, Evaluation, evaluate
from setr_lib.evaluation.report import ReportData, write_report
from setr_lib.evaluation.row import Row
from setr_lib.evaluation.submissions import write_submission
from setr_lib.evaluation.summary import floor_rows, metric_rows
from setr_lib.reranking.fusion import fuse
from setr_lib.reranking.held_out import pictures_of
from setr_lib.reranking.rerank import CACHE_KIND, rerank
from setr_lib.tables import digest_table, write_parquet_atomically

NAMES = ("real-cirr", "real-circo", "bootstrap")
K = 50
"""Candidates that are re-ranked."""
BEFORE, AFTER = Row("intersection"), Row("intersection", "random scores")
STORED = (
    "a transaction for each batch of at most 128 pairs, so that a killed run loses only the batch in flight: "
    "half of the time is SQLite's"
)
"""What the slowest step is about."""
SAMPLES = 2000
"""Draws of the bootstrap, as settings have them."""
BOOTSTRAPPED = (1_000, 4_181, 16_000)
"""Queries; those of CIRR among them."""
METRICS = 12
"""Of the bootstrap that is measured alone: about as many as CIRR and CIRCO report."""


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the named figures.

    Args:
        setting: How they are run.
        names: Of :data:`NAMES`.

    Yields:
        The figures.
    """
    folder = setting.folder / "real-sizes"
    if "real-cirr" in names:
        yield _steps("real-cirr", real_size(CIRR, folder / "pictures"), folder)
    if "real-circo" in names:
        yield _steps("real-circo", real_size(CIRCO, folder / "pictures"), folder)
    if "bootstrap" in names:
        yield _bootstrap()


def _steps(name: str, material: RealSize, folder: Path) -> Figure:
    """All steps of one size, in their order."""
    run = _Run(material, folder / name)
    faults = [check for check, holds in run.checks() if not holds]
    size = material.size
    return Figure(
        name,
        f"{size.queries:,} queries, {size.images:,} images, lists of 100, K = {K}: everything after "
        "the ranking of stage 1, with a re-ranker that gives random numbers",
        ours_s=sum(step.seconds for step in run.steps),
        alternative="",
        alternative_s=None,
        equal=not faults,
        checked="; ".join(faults)
        or "order of every list, kept scores and recall against plain NumPy; the submission, read back",
        note="Peak memory is above what the process held before the step",
        steps=run.steps,
    )


class _Run:
    """The steps of one size, each measured; what they gave is kept for the checks.

    Args:
        material: What is worked on.
        folder: Emptied, and written to.
    """

    def __init__(self, material: RealSize, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.material, self.folder, self.steps = material, folder, list[Step]()
        self.reranked = self._store_and_rerank()
        self.scores = self._cache()
        self._step(f"fusion of {material.size.queries:,} lists of {K}, alone", self._fuse)
        self.evaluation = self._measure()
        self._write()

    def _step(self, name: str, work: Callable[[], Any], note: str = "") -> Any:
        step, result = measured_step(name, work, note)
        self.steps.append(step)
        return result

    def _store_and_rerank(self) -> pl.DataFrame:
        frame, path = self.material.rankings, self.folder / "rankings.parquet"
        rows = f"{frame.height:,} rows of a ranking"
        self._step(f"{rows}: written", partial(write_parquet_atomically, frame, path))
        frame = self._step(f"{rows}: read", partial(pl.read_parquet, path))
        self._step(f"{rows}: digest", partial(digest_table, frame))
        cache = ContentCache(self.folder / "scores.sqlite", CACHE_KIND)
        again = partial(
            rerank,
            frame,
            self.material.queries,
            self.material.gallery,
            RandomScores(),
            cache,
            fusion="cosine_judge",
            k=K,
        )
        made = self._step("re-ranking, every score made and stored", again, STORED)
        kept = self._step("re-ranking, every score kept", again)
        assert kept.equals(made)
        return kept

    def _cache(self) -> bool:
        """Whether what comes out of the cache is what went in."""
        count = self.material.size.queries * K
        cache = ContentCache(self.folder / "numbers.sqlite", CACHE_KIND)
        values = {ContentCache.key_of("pair", str(number)): number / 7 for number in range(count)}
        keys = list(values)
        batches = [{key: values[key] for key in keys[start : start + 128]} for start in range(0, count, 128)]
        self._step(
            f"cache: {count:,} scores in, 128 at a time",
            lambda: [cache.put_numbers(each) for each in batches],
        )
        return self._step(f"cache: {count:,} scores out", partial(cache.get_numbers, keys)) == values

    def _fuse(self) -> None:
        rng = np.random.default_rng(0)
        ids = [f"{number:012d}" for number in range(K)]
        for _ in range(self.material.size.queries):
            fuse("cosine_judge", rng.random(K), rng.random(K), ids)

    def _measure(self) -> Evaluation:
        material = self.material
        benchmark, queries, gallery = material.evaluation_set.benchmark, material.queries, material.gallery
        frames = {BEFORE: material.rankings, AFTER: self.reranked}
        found: dict[Row, Evaluation] = {
            row: self._step(
                f"metrics of {row.title}",
                partial(evaluate, benchmark, queries, frame, gallery, unranked="miss"),
            )
            for row, frame in frames.items()
        }
        floor = self._step(
            "random floor, 1,000 random rankers",
            partial(floor_rows, material.evaluation_set, queries, gallery),
        )
        rows = [
            self._step(
                f"rows of {row.title}: {SAMPLES:,} bootstrap draws of {len(found[row].summary)} metrics",
                partial(
                    metric_rows,
                    material.evaluation_set,
                    queries,
                    frame,
                    gallery,
                    row=row,
                    evaluation=found[row],
                ),
            )
            for row, frame in frames.items()
        ]
        self.rows = pl.concat([floor, *rows])
        self.paired = self._step(
            f"paired differences, {SAMPLES:,} draws",
            partial(paired_differences, found[AFTER].per_query, found[BEFORE].per_query),
        )
        return found[BEFORE]

    def _write(self) -> None:
        material = self.material
        paired = [
            PairedDifference(AFTER.title, BEFORE.title, metric, *(100 * number for number in found))
            for metric, found in self.paired.items()
        ]
        data = ReportData(
            material.evaluation_set.key,
            material.size.kind,
            material.queries,
            material.gallery,
            {BEFORE: material.rankings, AFTER: self.reranked},
            self.rows,
            paired=paired,
        )
        self._step("report page", partial(write_report, self.folder / "report", data))
        submitted = partial(
            write_submission,
            material.evaluation_set,
            material.queries,
            self.reranked,
            material.gallery,
            self.folder / "submission",
            "random",
        )
        self._step("submission: written, and read back", submitted)

    def checks(self) -> Iterator[tuple[str, bool]]:
        """What must hold, and whether it does."""
        yield "scores come out of the cache as they went in", self.scores
        yield "the order of candidates is that of cosine + P(Yes)", self._is_ordered()
        yield "recall is what counting gives", self._recall_is_counted()

    def _is_ordered(self) -> bool:
        identities = {
            image: picture.identity for image, picture in pictures_of(self.material.gallery).items()
        }
        texts = dict(self.material.queries.select("query_id", "modification").iter_rows())
        lists = self.material.rankings.filter(pl.col("pool") == "gallery", pl.col("rank") <= K)
        wanted: dict[str, list[str]] = {}
        for (query,), rows in lists.group_by("query_id", maintain_order=True):
            scored = [
                (score + 1 / (1 + np.exp(-random_score(texts[query], identities[image]))), score, image)
                for image, score in rows.select("image_id", "coarse_score").iter_rows()
            ]
            wanted[str(query)] = [
                image for *_, image in sorted(scored, key=lambda one: (-one[0], -one[1], one[2]))
            ]
        kept = self.reranked.filter(pl.col("pool") == "gallery", pl.col("rank") <= K).sort("rank")
        return dict(kept.group_by("query_id").agg("image_id").iter_rows()) == wanted

    def _recall_is_counted(self) -> bool:
        first = dict(self.material.queries.select("query_id", pl.col("target_ids").list.first()).iter_rows())
        top = self.material.rankings.filter(pl.col("pool") == "gallery", pl.col("rank") <= 10)
        hits = sum(first[query] == image for query, image in top.select("query_id", "image_id").iter_rows())
        return bool(np.isclose(self.evaluation.summary["R@10"], hits / len(first), rtol=0, atol=1e-12))


def _bootstrap() -> Figure:
    """The bootstrap at several sizes, against a loop over draws."""
    growth: list[float] = []
    shown: dict[int, tuple[float, float, bool]] = {}
    for queries in BOOTSTRAPPED:
        values = np.random.default_rng(1).random((queries, METRICS))
        ways = {
            "ours": partial(bootstrap_intervals, _per_query(values), samples=SAMPLES, seed=5),
            "loop": partial(_loop, values),
        }
        found = in_turns(ways, rounds=2)
        ours = np.array([found["ours"].output[f"m{column:02d}"] for column in range(METRICS)])
        equal = bool(np.allclose(ours, found["loop"].output.T, rtol=0, atol=1e-12))
        growth.append(found["ours"].seconds)
        shown[queries] = (found["ours"].seconds, found["loop"].seconds, equal)
    seconds, loop, _ = shown[CIRR.queries]
    return Figure(
        "bootstrap",
        f"intervals of {METRICS} metrics over {CIRR.queries:,} queries, {SAMPLES:,} draws",
        seconds,
        "NumPy, one draw of queries after the other",
        loop,
        equal=all(equal for *_, equal in shown.values()),
        checked="both ends of every interval, within 1e-12, at every size",
        growth=Growth("queries", BOOTSTRAPPED, growth),
    )


def _per_query(values: np.ndarray) -> pl.DataFrame:
    queries, metrics = values.shape
    ids = [f"{number:06d}" for number in range(queries)]
    return pl.concat(
        pl.DataFrame(
            {
                "query_id": ids,
                "stratum": ["all"] * queries,
                "metric": [f"m{column:02d}"] * queries,
                "value": values[:, column],
            },
            schema=PER_QUERY,
        )
        for column in range(metrics)
    )


def _loop(values: np.ndarray) -> np.ndarray:
    """Low and high ends of each metric."""
    rng = np.random.default_rng(5)
    draws = [values[rng.integers(len(values), size=len(values))].mean(axis=0) for _ in range(SAMPLES)]
    return np.quantile(draws, (0.025, 0.975), axis=0)
