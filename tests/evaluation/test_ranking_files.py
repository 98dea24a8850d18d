"""Ranking files by property: whatever a file holds, it is read as it is or refused with its name and a
reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setr_lib.benchmarks import EvaluationSet, benchmark_of
from setr_lib.benchmarks.kinds.cirr import CIRR_FILE_LIMIT
from setr_lib.evaluation.ranking_files import (
    RankingFileError,
    ReadRankings,
    read_ranking_files,
)
from setr_lib.tables import QUERIES

KINDS = ("cirr", "circo", "fashioniq", "folder")
SETS = {
    kind: EvaluationSet(key, kind, benchmark_of(kind), split, gallery, Path("root"), None)
    for kind, key, split, gallery in (
        ("cirr", "cirr-val", "val", "all"),
        ("circo", "circo-val", "val", "all"),
        ("fashioniq", "fashioniq-val", "val", "original"),
        ("folder", "mine", "all", "all"),
    )
}
FIVE = ["12", "13", "14", "15", "16"]
IMAGES = [str(number) for number in range(10, 70)]

fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def queries_of(kind: str) -> pl.DataFrame:
    galleries = {"dress-0": "dress", "dress-1": "dress", "shirt-0": "shirt"}
    names = list(galleries) if kind == "fashioniq" else ["0", "1", "2"]
    rows = [
        {
            "query_id": name,
            "reference_id": "11",
            "modification": "x",
            "captions": ["x"],
            "target_ids": ["12"],
            "subset_ids": FIVE if kind == "cirr" else [],
            "gallery": galleries.get(name, "all"),
            "aspects": [],
        }
        for name in names
    ]
    return pl.DataFrame(rows, schema=QUERIES)


def read(kind: str, *files: Path, hidden: bool = False, listed: bool = True) -> ReadRankings:
    split = {"cirr": "test1", "circo": "test"}[kind] if hidden else SETS[kind].split
    each = replace(SETS[kind], split=split)
    galleries = ["dress", "shirt"] if kind == "fashioniq" else ["all"]
    gallery = pl.DataFrame({"image_id": IMAGES, "galleries": [galleries] * len(IMAGES)})
    return read_ranking_files(each, list(files), queries_of(kind), gallery if listed else None)


def good(kind: str, depth: int = 50) -> dict[str, Any]:
    images = [image for image in IMAGES if image != "11"][:depth]
    content: dict[str, Any] = {"version": "rc2", "metric": "recall"} if kind == "cirr" else {}
    entries = [int(image) for image in images] if kind == "circo" else images
    return content | {query: list(entries) for query in queries_of(kind)["query_id"]}


def good_parquet(path: Path, **columns: Any) -> Path:
    rows = [(query, "gallery", rank, str(rank + 11)) for query in ("0", "1", "2") for rank in range(1, 6)]
    frame = pl.DataFrame(rows, schema=["query_id", "pool", "rank", "image_id"], orient="row")
    frame.with_columns(**columns).write_parquet(path)
    return path


def written(folder: Path, content: object) -> Path:
    path = folder / "file.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*IMAGES, 11, 12]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["0", "1", "2", "dress-0", "dress-1", "shirt-0", "version", "metric"]) | st.text(
    max_size=4
)


def refused_or_read(kind: str, path: Path, *, listed: bool) -> None:
    try:
        found = read(kind, path, listed=listed or kind != "circo")
    except RankingFileError as error:
        assert str(error).startswith(f"{path}: ")
        assert error.reason
        assert "\n" not in error.reason or len(error.faults) > 1 or path.suffix == ".parquet"
        return
    lists = found.rankings.group_by("query_id", "pool").agg("image_id")
    assert lists["image_id"].list.n_unique().to_list() == lists["image_id"].list.len().to_list()
    assert set(found.rankings["query_id"]) <= set(queries_of(kind)["query_id"])


@fuzz
@given(
    kind=st.sampled_from(KINDS),
    content=json_values | st.dictionaries(keys, json_values),
    listed=st.booleans(),
)
def test_any_json_is_read_or_refused(tmp_path: Path, kind: str, content: object, listed: bool) -> None:
    refused_or_read(kind, written(tmp_path, content), listed=listed)


@fuzz
@given(
    kind=st.sampled_from(KINDS),
    key=keys,
    value=json_values,
    listed=st.booleans(),
    depth=st.sampled_from([3, 50]),
)
def test_any_change_of_one_entry_is_read_or_refused(
    tmp_path: Path, kind: str, key: str, value: object, listed: bool, depth: int
) -> None:
    refused_or_read(kind, written(tmp_path, {**good(kind, depth), key: value}), listed=listed)


@fuzz
@given(kind=st.sampled_from(KINDS), content=st.binary(max_size=60), magic=st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path: Path, kind: str, content: bytes, magic: bool) -> None:
    path = tmp_path / "file.parquet"
    path.write_bytes(b"PAR1" * magic + content + b"PAR1" * magic)
    refused_or_read(kind, path, listed=True)


@fuzz
@given(data=st.data())
def test_a_damaged_parquet_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = good_parquet(tmp_path / "file.parquet")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(4, len(content)))])
    refused_or_read("folder", path, listed=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), depth=st.integers(1, 50), data=st.data())
def test_what_is_written_is_what_is_read(tmp_path: Path, kind: str, depth: int, data: st.DataObject) -> None:
    content = good(kind, depth)
    for query in queries_of(kind)["query_id"]:
        content[query] = data.draw(st.permutations(content[query]))
    found = read(kind, written(tmp_path, content)).rankings
    for query in queries_of(kind)["query_id"]:
        ranked = found.filter(query_id=query).sort("rank")
        assert ranked["image_id"].to_list() == [str(image) for image in content[query]]
        assert ranked["rank"].to_list() == list(range(1, depth + 1))


def test_repeated_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"0": [10], "0": [12], "1": [10], "2": [10]}', encoding="utf-8")
    with pytest.raises(RankingFileError, match="'0' occurs twice"):
        read("circo", path)


def test_ids_as_text_are_read_as_numbers_and_noted(tmp_path: Path) -> None:
    content = {query: [f"{image:012d}" for image in ids] for query, ids in good("circo").items()}
    found = read("circo", written(tmp_path, content), hidden=True)
    assert found.rankings["image_id"].to_list()[:2] == ["10", "12"]
    assert any("written as text" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["cirr", "circo"])
def test_a_submission_to_a_server_has_its_exact_length(tmp_path: Path, kind: str) -> None:
    assert read(kind, written(tmp_path, good(kind)), hidden=True).notes == []
    with pytest.raises(
        RankingFileError, match=r"lists of a wrong length: 3\n    query '0': has 49 images, and"
    ):
        read(kind, written(tmp_path, good(kind, 49)), hidden=True)
    found = read(kind, written(tmp_path, good(kind, 49)))
    assert found.notes == [f"{tmp_path / 'file.json'}: every list has 49 images; a submission's have 50"]
    ragged = good(kind)
    ragged["1"] = ragged["1"][:-1]
    with pytest.raises(RankingFileError, match=r"query '1': has 49 images, and the format takes 50$"):
        read(kind, written(tmp_path, ragged))


def test_a_file_too_large_for_the_server_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, good("cirr"))
    path.write_text(path.read_text() + " " * CIRR_FILE_LIMIT, encoding="utf-8")
    assert read("cirr", path).rankings.height == 150
    with pytest.raises(RankingFileError, match="and the server takes 5,000,000"):
        read("cirr", path, hidden=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop("image_id"), "the column 'image_id' is missing"),
        (
            lambda frame: frame.with_columns(rank=pl.col("rank").cast(pl.Float64)),
            "'rank' must hold whole numbers",
        ),
        (lambda frame: frame.with_columns(image_id=pl.lit(None, pl.String)), "'image_id' is empty in 15 row"),
        (lambda frame: frame.with_columns(image_id=pl.lit([1])), "'image_id' must hold text"),
        (lambda frame: frame.with_columns(pool=pl.lit("other")), "has the pool 'other'"),
        (lambda frame: frame.with_columns(pool=pl.lit("subset")), "has the pool 'subset'"),
        (lambda frame: frame.with_columns(rank=pl.lit(1)), "query '0': ranks must run 1, 2, 3"),
        (lambda frame: frame.with_columns(rank=pl.col("rank") + 1), "query '0': ranks must run 1, 2, 3"),
        (lambda frame: frame.with_columns(image_id=pl.lit("12")), "query '0': '12' is ranked 5 times"),
        (lambda frame: frame.filter(pl.col("query_id") != "1"), "query '1': is missing"),
        (lambda frame: frame.clear(), "holds no ranking"),
    ],
)
def test_parquet_refusals(tmp_path: Path, change: Callable[[pl.DataFrame], pl.DataFrame], said: str) -> None:
    path = good_parquet(tmp_path / "file.parquet")
    change(pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(RankingFileError) as refused:
        read("folder", path)
    assert said in str(refused.value)


def test_parquet_needs_no_pool_and_takes_numbers_for_ids(tmp_path: Path) -> None:
    path = good_parquet(tmp_path / "file.parquet")
    frame = pl.read_parquet(path).drop("pool").with_columns(pl.col("query_id", "image_id").cast(pl.Int64))
    frame.write_parquet(path)
    found = read("circo", path).rankings
    assert found.schema == {"query_id": pl.String, "pool": pl.String, "rank": pl.Int32, "image_id": pl.String}
    assert found.filter(query_id="0")["image_id"].to_list() == ["12", "13", "14", "15", "16"]


def test_circo_ids_in_parquet_are_positive_whole_numbers_too(tmp_path: Path) -> None:
    path = good_parquet(tmp_path / "file.parquet", image_id=pl.col("rank").cast(pl.String) + "1")
    assert read("circo", path, listed=False).rankings.height == 15
    for wrong in ("x", "0", "-1", "007"):
        pl.read_parquet(path).with_columns(
            image_id=pl.when(pl.col("rank") == 3).then(pl.lit(wrong)).otherwise("image_id")
        ).write_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(RankingFileError, match="query '0': an image id must be a positive whole number"):
            read("circo", tmp_path / "wrong.parquet", listed=False)


def test_queries_of_a_folder_without_targets_may_be_left_out(tmp_path: Path) -> None:
    queries = queries_of("folder").with_columns(
        target_ids=pl.when(pl.col("query_id") == "2")
        .then(pl.lit([], pl.List(pl.String)))
        .otherwise("target_ids")
    )
    gallery = pl.DataFrame({"image_id": IMAGES, "galleries": [["all"]] * len(IMAGES)})
    content = good("folder", 5)
    del content["2"]
    assert read_ranking_files(SETS["folder"], [written(tmp_path, content)], queries, gallery).notes == []
    del content["1"]
    with pytest.raises(RankingFileError, match="query '1': is missing"):
        read_ranking_files(SETS["folder"], [written(tmp_path, content)], queries, gallery)
