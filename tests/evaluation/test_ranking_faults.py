"""All faults of ranking files are counted, by kind, and the first five of each are shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setr_lib.benchmarks import EvaluationSet, benchmark_of
from setr_lib.benchmarks.ranking_lists import Kind
from setr_lib.evaluation.ranking_files import RankingFileError, read_ranking_files
from setr_lib.evaluation.submissions import SubmissionError, write_submission
from setr_lib.tables import QUERIES, RANKINGS

DEPTH, QUERY_COUNT = 50, 9
IMAGES = [str(number) for number in range(10, 70)]
CIRCO = EvaluationSet("circo-test", "circo", benchmark_of("circo"), "test", "all", Path("root"), None)
CIRR = EvaluationSet("cirr-val", "cirr", benchmark_of("cirr"), "val", "all", Path("root"), None)
FOLDER = EvaluationSet("mine", "folder", benchmark_of("folder"), "all", "all", Path("root"), None)


def queries(subset: bool = False) -> pl.DataFrame:
    rows = [
        {
            "query_id": str(number),
            "reference_id": "11",
            "modification": "x",
            "captions": ["x"],
            "target_ids": ["12"],
            "subset_ids": IMAGES[3:8] if subset else [],
            "gallery": "all",
            "aspects": [],
        }
        for number in range(QUERY_COUNT)
    ]
    return pl.DataFrame(rows, schema=QUERIES)


GALLERY = pl.DataFrame({"image_id": IMAGES, "galleries": [["all"]] * len(IMAGES)})


def refusal(evaluated: EvaluationSet, file: Path, subset: bool = False) -> RankingFileError:
    with pytest.raises(RankingFileError) as caught:
        read_ranking_files(evaluated, [file], queries(subset), GALLERY)
    return caught.value


def counted(error: RankingFileError) -> Counter[Kind]:
    found: Counter[Kind] = Counter()
    for fault in error.faults:
        found[fault.kind] += fault.count
    return found


def ranked(number: Callable[[str], Any] = str) -> dict[str, list[Any]]:
    images = [number(image) for image in IMAGES if image != "11"]
    return {str(query): images[:DEPTH] for query in range(QUERY_COUNT)}


def _twice(lists: dict[str, list[Any]], query: str, place: int) -> None:
    lists[query][place] = lists[query][place - 1]


def _unknown_image(lists: dict[str, list[Any]], query: str, place: int) -> None:
    lists[query][place] = 1000 + place


def _wrong_type(lists: dict[str, list[Any]], query: str, place: int) -> None:
    lists[query][place] = float("nan")


def _too_few(lists: dict[str, list[Any]], query: str, place: int) -> None:
    del lists[query][place]


def _no_list(lists: dict[str, list[Any]], query: str, place: int) -> None:
    lists[query] = f"{place}"  # pyright: ignore[reportArgumentType]


def _missing(lists: dict[str, list[Any]], query: str, place: int) -> None:
    del lists[query]


def _unknown_query(lists: dict[str, list[Any]], query: str, place: int) -> None:
    lists[f"x{query}"] = list(lists[query])


INJECTED = {
    Kind.TWICE: _twice,
    Kind.UNKNOWN_IMAGE: _unknown_image,
    Kind.NO_ID: _wrong_type,
    Kind.LENGTH: _too_few,
    Kind.NO_LIST: _no_list,
    Kind.MISSING_QUERY: _missing,
    Kind.UNKNOWN_QUERY: _unknown_query,
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.dictionaries(st.integers(0, QUERY_COUNT - 2), st.sampled_from(list(INJECTED)), min_size=2))
def test_as_many_faults_are_counted_as_were_made(tmp_path: Path, chosen: dict[int, Kind]) -> None:
    lists = {query: list(images) for query, images in ranked(int).items()}
    for query, kind in chosen.items():
        INJECTED[kind](lists, str(query), 20 + query)
    file = tmp_path / "file.json"
    file.write_text(json.dumps(lists))
    error = refusal(CIRCO, file)
    assert counted(error) == Counter(chosen.values())
    assert str(error).startswith(f"{file}: {len(chosen)} faults:\n")
    for kind, count in Counter(chosen.values()).items():
        shown = str(error).partition(f"  {kind.value}: {count}\n")[2].partition("\n  q")[0]
        assert shown.count("    query '") >= min(count, 5)


def test_the_first_five_of_a_kind_are_shown(tmp_path: Path) -> None:
    lists = {query: [*images[:-2], "x", None] for query, images in ranked(int).items()}
    file = tmp_path / "file.json"
    file.write_text(json.dumps(lists))
    lines = str(refusal(CIRCO, file)).splitlines()
    assert lines[1] == "  entries that are no image id: 18"
    assert [line.startswith("    query '") for line in lines[2:]] == [True] * 5 + [False]
    assert lines[-1] == "    and 13 more"


def test_repeated_queries_and_images_are_counted_as_often_as_they_are_too_many(tmp_path: Path) -> None:
    lists = {query: [*images[:-3], images[0], images[0], images[1]] for query, images in ranked(int).items()}
    text = json.dumps({"0": lists["0"]})[:-1]
    file = tmp_path / "file.json"
    file.write_text("".join([text, *(f', "0": {lists["0"]}' for _ in range(3)), ",", json.dumps(lists)[1:]]))
    found = counted(refusal(CIRCO, file))
    assert found == {Kind.REPEATED_QUERY: 4, Kind.TWICE: 3 * QUERY_COUNT}


def test_the_reference_and_a_wrong_version_are_counted_with_the_rest(tmp_path: Path) -> None:
    lists = {query: [*images[:-1], "11"] for query, images in ranked().items()}
    file = tmp_path / "file.json"
    file.write_text(json.dumps({"version": "rc1", "metric": "recall", **lists}))
    found = counted(refusal(CIRR, file, subset=True))
    assert found == {Kind.FILE: 1, Kind.REFERENCE: QUERY_COUNT}
    file.write_text(json.dumps({"version": "rc1", "metric": "recal", **lists}))
    assert counted(refusal(CIRR, file)) == {Kind.FILE: 2}


def parquet(file: Path, rows: list[tuple[Any, ...]]) -> Path:
    schema = {"query_id": pl.String, "rank": pl.Int64, "image_id": pl.String, "score": pl.Float64}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(file)
    return file


def test_faults_of_a_parquet_file_are_counted_too(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = [
        (query, rank, image, 1 / rank)
        for query, images in ranked().items()
        for rank, image in enumerate(images, start=1)
    ]
    rows[3] = ("0", 4, "zebra", 0.5)
    rows[4] = ("0", 5, rows[5][2], float("nan"))
    rows[60] = ("1", 7, rows[60][2], float("nan"))
    rows[61] = ("1", 7, rows[61][2], float("nan"))
    error = refusal(FOLDER, parquet(tmp_path / "file.parquet", rows))
    wanted = {Kind.NO_NUMBER: 3, Kind.RANKS: 1, Kind.TWICE: 1, Kind.UNKNOWN_IMAGE: 1}
    assert counted(error) == wanted
    rows[100] = ("2", 1, None, 0.5)
    rows[101] = ("2", 2, None, 0.5)
    rows[60:62] = [("1", 11, "69", 0.5), ("1", 12, "68", 0.5)]
    error = refusal(FOLDER, parquet(tmp_path / "file.parquet", rows))
    assert counted(error)[Kind.EMPTY_CELLS] == 2
    assert counted(error)[Kind.UNKNOWN_IMAGE] == 1


def test_columns_that_are_missing_or_of_a_wrong_type_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "file.parquet"
    pl.DataFrame({"query_id": ["0"], "rank": [1.5]}).write_parquet(file)
    said = str(refusal(FOLDER, file))
    assert "'rank' must hold whole numbers" in said
    assert "the column 'image_id' is missing" in said


def test_faults_of_two_files_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        lists: dict[str, Any] = {query: images[:7] for query, images in ranked().items()}
        lists |= {"0": ["zebra"]} if name == "a.json" else {}
        (tmp_path / name).write_text(json.dumps(lists))
    with pytest.raises(RankingFileError) as caught:
        read_ranking_files(FOLDER, [tmp_path / "a.json", tmp_path / "b.json"], queries(), GALLERY)
    assert "    a.json: query '0': the gallery of mine has no image 'zebra'" in str(caught.value)
    assert f"    b.json: query '0': {tmp_path / 'a.json'} has its gallery ranking already" in str(
        caught.value
    )
    assert counted(caught.value) == {Kind.SECOND_ANSWER: QUERY_COUNT, Kind.UNKNOWN_IMAGE: 1}


def test_a_refused_submission_writes_nothing(tmp_path: Path) -> None:
    rows = [
        {"query_id": query, "pool": "gallery", "rank": rank, "image_id": image}
        for query, images in ranked().items()
        for rank, image in enumerate(images[: DEPTH - int(query)], start=1)
    ]
    empty = pl.lit(None, pl.Float64)
    rankings = pl.DataFrame(rows).with_columns(score=empty, coarse_score=empty, judge_score=empty)
    rankings = rankings.select([pl.col(name).cast(kind) for name, kind in RANKINGS.items()])
    with pytest.raises(SubmissionError, match="lists of a wrong length: 8") as caught:
        write_submission(CIRCO, queries(), rankings, GALLERY, tmp_path / "new" / "out", "name")
    assert "and 3 more" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
