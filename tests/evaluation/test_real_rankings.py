"""Ranking files for the official annotation files: perfect, random and submitted ones. Skipped where those
are absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.benchmarks.kinds.cirr import CIRR_FILE_LIMIT
from setr_lib.benchmarks.loading import read_queries
from setr_lib.datasets import EvaluationSet, set_of_split
from setr_lib.evaluation.external import ExternalScores, listed_gallery, score_files
from setr_lib.evaluation.floor import random_intervals, random_rankings
from setr_lib.evaluation.ranking_files import RankingFileError
from setr_lib.evaluation.submissions import write_submission
from setr_lib.settings import EvaluationSettings, Settings

REAL = Path(__file__).parents[3] / "shared" / "data"
FEW = EvaluationSettings(bootstrap_samples=100)
COCO_IDS = [str(number) for number in range(1, 600_000, 5)]
"""Stands for COCO's image list, which is not among the annotation files: about as many ids."""

Lists = dict[str, list[str]]


@pytest.fixture(scope="module")
def real() -> Path:
    if not (REAL / "cirr" / "captions").is_dir():
        pytest.skip(f"the real annotation files are not at {REAL}")
    return REAL


def set_of(root: Path, kind: str, split: str, gallery: str | None = None) -> EvaluationSet:
    settings = Settings.model_validate({"datasets": {kind: {"root": root / kind}}})
    return set_of_split(settings, kind, split, gallery)


def gallery_of(each: EvaluationSet) -> pl.DataFrame:
    listed = listed_gallery(each)
    if listed is not None:
        return listed
    queries = read_queries(each)
    known = {*queries["reference_id"], *queries["target_ids"].explode().drop_nulls()}
    ids = sorted({*COCO_IDS, *known})
    return pl.DataFrame({"image_id": ids, "galleries": [["all"]] * len(ids)})


def write_lists(path: Path, kind: str, lists: Lists, metric: str = "recall") -> Path:
    content: dict[str, Any] = {"version": "rc2", "metric": metric} if kind == "cirr" else {}
    content |= {q: [int(each) for each in ids] if kind == "circo" else ids for q, ids in lists.items()}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_rankings(folder: Path, kind: str, rankings: pl.DataFrame) -> list[Path]:
    """The files that a person would have: one, or CIRR's two."""
    files: list[Path] = []
    for metric, pool, depth in (("recall", "gallery", 50), ("recall_subset", "subset", 3)):
        chosen = rankings.filter((pl.col("pool") == pool) & (pl.col("rank") <= depth)).sort("rank")
        lists = dict(chosen.group_by("query_id", maintain_order=True).agg("image_id").iter_rows())
        if lists:
            files.append(write_lists(folder / f"{metric}.json", kind, lists, metric))
    return files


def summary(found: ExternalScores) -> dict[str, float]:
    return dict(found.rows.select("metric", "value").iter_rows())


@pytest.mark.parametrize(
    ("kind", "gallery", "metrics"),
    [("cirr", None, 8), ("circo", None, 8 + 9), ("fashioniq", "original", 8), ("fashioniq", "val", 8)],
)
def test_perfect_rankings_score_100(
    real: Path, tmp_path: Path, kind: str, gallery: str | None, metrics: int
) -> None:
    each = set_of(real, kind, "val", gallery)
    images = {
        str(name): frame["image_id"].to_list()
        for (name,), frame in gallery_of(each).explode("galleries").group_by("galleries")
    }
    lists: Lists = {}
    subsets: Lists = {}
    for query in read_queries(each).iter_rows(named=True):
        targets, taken_out = query["target_ids"], [query["reference_id"]] if kind == "cirr" else []
        rest = [name for name in images[query["gallery"]][:80] if name not in (*targets, *taken_out)]
        lists[query["query_id"]] = [*targets, *rest][:50]
        others = [member for member in query["subset_ids"] if member not in targets]
        subsets[query["query_id"]] = [*targets, *others][:3]
    files = [write_lists(tmp_path / "lists.json", kind, lists)]
    if kind == "cirr":
        files.append(write_lists(tmp_path / "subsets.json", kind, subsets, "recall_subset"))
    found = score_files(each, files, FEW)
    assert summary(found) == dict.fromkeys(summary(found), 100.0)
    assert found.rows.height == metrics
    assert found.rows["comparable"].all() == (gallery != "val")
    absent = listed_gallery(each) is None
    assert [note for note in found.notes if "image list is absent" not in note] == []
    assert len(found.notes) == absent


def test_a_whole_category_stands_beside_published_ones(real: Path, tmp_path: Path) -> None:
    each = set_of(real, "fashioniq", "val")
    dresses = read_queries(each).filter(gallery="dress")
    files = write_rankings(tmp_path, "fashioniq", random_rankings(dresses, gallery_of(each)))
    rows = score_files(each, files, FEW).rows
    assert rows["metric"].to_list() == ["R@10/dress", "R@50/dress"]
    assert rows["n_queries"].to_list() == [2017, 2017]
    assert rows["comparable"].all()


@pytest.mark.parametrize("kind", ["cirr", "circo", "fashioniq"])
def test_random_rankings_score_as_chance_does(real: Path, tmp_path: Path, kind: str) -> None:
    each = set_of(real, kind, "val")
    queries, gallery = read_queries(each), gallery_of(each)
    files = write_rankings(tmp_path, kind, random_rankings(queries, gallery, seed=3))
    found = summary(score_files(each, files, FEW))
    chance = random_intervals(kind, queries, gallery, samples=200)
    assert found.keys() == chance.keys()
    outside = [
        name
        for name, value in found.items()
        if not chance[name].low - 0.005 <= value / 100 <= chance[name].high + 0.005
    ]
    assert len(outside) <= max(1, len(found) // 10), outside  # of many 95 % intervals a few are missed


def test_scores_agree_with_the_official_definitions(real: Path, tmp_path: Path) -> None:
    for kind in ("cirr", "circo", "fashioniq"):
        each = set_of(real, kind, "val")
        queries = read_queries(each)
        rankings = lucky(queries, random_rankings(queries, gallery_of(each), seed=5))
        files = write_rankings(tmp_path, kind, rankings)
        official = defined(kind, queries.to_dicts(), [json.loads(file.read_text()) for file in files])
        found = summary(score_files(each, files, FEW))
        assert found == pytest.approx(official, abs=1e-9, rel=0)


def lucky(queries: pl.DataFrame, rankings: pl.DataFrame) -> pl.DataFrame:
    """Every third query gets its targets near the top, so that there is something to agree on."""
    target_of = {
        query: targets
        for row, (query, targets) in enumerate(queries.select("query_id", "target_ids").iter_rows())
        if row % 3 == 0
    }
    rows: list[tuple[str, str, int, str]] = []
    lists = rankings.sort("rank").group_by("query_id", "pool", maintain_order=True).agg("image_id")
    for query, pool, images in lists.iter_rows():
        targets = target_of.get(query, [])
        others = [image for image in images if image not in targets]
        for place, target in enumerate(targets if pool == "gallery" else []):
            others.insert((int.from_bytes(query.encode()) + 7 * place) % 49, target)
        ranked = others if pool == "gallery" else images
        rows += [(query, pool, rank, image) for rank, image in enumerate(ranked[:50], start=1)]
    return pl.DataFrame(rows, schema=["query_id", "pool", "rank", "image_id"], orient="row")


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return 100 * sum(listed) / len(listed)


def precision(ranked: list[str], truths: list[str], depth: int) -> float:
    hits, total = 0, 0.0
    for rank, image in enumerate(ranked[:depth], start=1):
        if image in truths:
            hits += 1
            total += hits / rank
    return total / min(len(truths), depth)


def defined(kind: str, queries: list[dict[str, Any]], files: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics by plain loops over the files themselves."""
    lists = {
        query: [str(image) for image in files[0][query]] for query in (each["query_id"] for each in queries)
    }

    def recall(depth: int, chosen: list[dict[str, Any]], source: dict[str, Any]) -> float:
        return mean(each["target_ids"][0] in source[each["query_id"]][:depth] for each in chosen)

    if kind == "cirr":
        found = {f"R@{k}": recall(k, queries, lists) for k in (1, 5, 10, 50)}
        found |= {f"R_subset@{k}": recall(k, queries, files[1]) for k in (1, 2, 3)}
        return found | {"Avg": (found["R@5"] + found["R_subset@1"]) / 2}
    if kind == "fashioniq":
        parts = {
            f"R@{k}/{name}": recall(k, [each for each in queries if each["gallery"] == name], lists)
            for k in (10, 50)
            for name in ("dress", "shirt", "toptee")
        }
        means = {
            f"R@{k}": sum(v for name, v in parts.items() if name.startswith(f"R@{k}/")) / 3 for k in (10, 50)
        }
        return means | parts
    found = {f"R@{k}": recall(k, queries, lists) for k in (5, 10, 25, 50)}
    for k in (5, 10, 25, 50):
        found[f"mAP@{k}"] = mean(
            precision(lists[each["query_id"]], each["target_ids"], k) for each in queries
        )
    for aspect in {aspect for each in queries for aspect in each["aspects"]}:
        having = [each for each in queries if aspect in each["aspects"]]
        found[f"mAP@10/{aspect}"] = mean(
            precision(lists[each["query_id"]], each["target_ids"], 10) for each in having
        )
    return found


@pytest.mark.parametrize(("kind", "split", "count"), [("cirr", "test1", 4148), ("circo", "test", 800)])
def test_a_submission_of_official_size_is_what_the_server_takes(
    real: Path, tmp_path: Path, kind: str, split: str, count: int
) -> None:
    each = set_of(real, kind, split)
    queries, gallery = read_queries(each), gallery_of(each)
    rankings = random_rankings(queries, gallery, seed=1)
    written = write_submission(each, queries, rankings, gallery, tmp_path, "mine")
    for file in written.files:
        content = json.loads(file.read_text())
        lists = [value for key, value in content.items() if key not in ("version", "metric")]
        assert len(lists) == count
        assert {len(each) for each in lists} == {3 if "subset" in file.name else 50}
        assert file.stat().st_size < CIRR_FILE_LIMIT
    found = score_files(each, written.files, FEW)
    assert found.rows.is_empty()
    assert found.read.rankings.height == sum(
        3 * count if "subset" in f.name else 50 * count for f in written.files
    )


def test_a_file_of_another_split_is_told_so(real: Path, tmp_path: Path) -> None:
    other = set_of(real, "cirr", "test1")
    queries = read_queries(other)
    files = write_rankings(tmp_path, "cirr", random_rankings(queries, gallery_of(other)))
    with pytest.raises(RankingFileError, match="cirr-val has no such query: is it for") as refused:
        score_files(set_of(real, "cirr", "val"), files, FEW)
    assert sum(fault.count for fault in refused.value.faults) == 2 * 4148
