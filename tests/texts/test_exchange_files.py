"""Carried files: what is written is read back the same, and what is not right is refused with file, row and
reason.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setr_lib.datasets import DatasetError
from setr_lib.errors import SetrError
from setr_lib.tables import IMPORTED_CAPTIONS, IMPORTED_COMPOSITIONS
from setr_lib.texts.answers import LISTS
from setr_lib.texts.exchange_files import (
    ImportRefusedError,
    KnownQuery,
    caption_line,
    composition_line,
    read_captions,
    read_compositions,
    time_text,
)

IMAGES = {"cirr": {"a", "b", "c"}, "mine": {"x/1.png"}}
QUERIES = {("cirr", "val"): {str(n): KnownQuery("a", f"text {n}") for n in range(4)}}
PICTURE, OTHER = "0" * 31 + "a", "0" * 31 + "b"
CAPTION = {"dataset": "cirr", "image_id": "a", "caption": "A dog.", "model": "m", "prompt_hash": "p"}
COMPOSITION = {
    "dataset": "cirr",
    "split": "val",
    "query_id": "0",
    "composition": {"keep": ["dog"], "add": [], "remove": [], "drop": ["snow"], "target_caption": "a dog"},
    "model": "m",
    "prompt_hash": "p",
}


def picture_here(dataset: str, image_id: str) -> str | None:
    return PICTURE if image_id == "a" else None


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def captions_of(path: Path, **options: Any) -> dict[str, pl.DataFrame]:
    return read_captions(path, IMAGES.get, picture_here, **options)


def compositions_of(path: Path, **options: Any) -> dict[tuple[str, str], pl.DataFrame]:
    return read_compositions(path, lambda *key: QUERIES.get(key), picture_here, **options)


def refusals(read: Any, path: Path, **options: Any) -> list[DatasetError]:
    with pytest.raises(ImportRefusedError) as caught:
        read(path, **options)
    assert all(problem.file == path and problem.row and problem.reason for problem in caught.value.problems)
    return caught.value.problems


characters = st.characters(codec="utf-8", exclude_characters="\x00")
texts = st.text(characters, min_size=1, max_size=12).filter(str.strip)
phrases = texts.map(lambda text: " ".join(text.split()))
fingerprints = st.sampled_from(["", PICTURE])
times = st.just("") | st.datetimes(max_value=datetime(2020, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.isoformat(timespec="microseconds").replace("+00:00", "Z")
)
origins = st.fixed_dictionaries(
    {"model": texts, "prompt_hash": texts, "fingerprint": fingerprints, "made_at": times}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.tuples(phrases, origins), min_size=1))
def test_captions_come_back_as_they_were(tmp_path: Path, made: dict[str, tuple[str, dict[str, str]]]) -> None:
    rows = [{"image_id": name, "caption": text, **origin} for name, (text, origin) in made.items()]
    frame = pl.DataFrame(rows, schema=IMPORTED_CAPTIONS)
    lines = [caption_line("cirr", row) for row in frame.iter_rows(named=True)]
    assert not any("\n" in line for line in lines)
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    (read,) = captions_of(path).items()
    assert read[0] == "cirr"
    assert read[1].equals(frame)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["0", "1", "2"]),
        st.tuples(*[st.lists(phrases, max_size=3)] * 4, phrases, origins),
        min_size=1,
    )
)
def test_compositions_come_back_as_they_were(tmp_path: Path, made: dict[str, Any]) -> None:
    rows = [
        {
            "query_id": name,
            **dict(zip(LISTS, lists, strict=True)),
            "target_caption": caption,
            "reference_id": "a",
            "modification": f"text {name}",
            **origin,
        }
        for name, (*lists, caption, origin) in made.items()
    ]
    frame = pl.DataFrame(rows, schema=IMPORTED_COMPOSITIONS)
    path = tmp_path / "compositions.jsonl"
    lines = [composition_line("cirr", "val", row) for row in frame.iter_rows(named=True)]
    path.write_text("\n".join(lines), encoding="utf-8")
    (read,) = compositions_of(path).items()
    assert read[0] == ("cirr", "val")
    assert read[1].equals(frame)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "coco"}, "'coco' is not configured"),
        ({"dataset": 3}, "'dataset' must be text"),
        ({"image_id": "zebra"}, "unknown image 'zebra': it is not in the galleries of cirr"),
        ({"image_id": 7}, "'image_id' must be text"),
        ({"caption": " \n "}, "'caption' is empty"),
        ({"caption": ["a dog"]}, "'caption' must be text"),
        ({"caption": "half \ud800"}, "lone surrogate"),
        ({"caption": "nul \x00"}, "NUL"),
        ({"model": ""}, "'model' is empty"),
        ({"model": None}, "'model' must be text"),
        ({"caption": None, "text": "a dog"}, "unknown key 'text'"),
        ({"fingerprint": OTHER}, "made from another picture"),
        ({"fingerprint": "md5"}, "32 hexadecimal digits"),
        ({"made_at": "yesterday"}, "a time with its zone"),
        ({"made_at": "2020-01-01T00:00:00"}, "a time with its zone"),
        ({"made_at": 1700000000}, "'made_at' must be text"),
        ({"made_at": "9999-12-31T23:59:59-23:00"}, "a time with its zone"),
        ({"made_at": (datetime.now(UTC) + timedelta(days=9)).isoformat()}, "lies in the future"),
    ],
)
def test_a_caption_that_is_not_right_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "c.jsonl", CAPTION | {"image_id": "b"}, "", CAPTION | change)
    (problem,) = refusals(captions_of, path)
    assert problem.row == "line 3"
    assert reason in problem.reason


@pytest.mark.parametrize("key", list(CAPTION))
def test_no_key_of_a_caption_may_be_missing(tmp_path: Path, key: str) -> None:
    row = {name: value for name, value in CAPTION.items() if name != key}
    (problem,) = refusals(captions_of, write(tmp_path / "c.jsonl", row))
    assert problem.reason == f"the key {key!r} is missing"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "test1"}, "split 'test1' of data set 'cirr' is not configured"),
        ({"dataset": "coco"}, "data set 'coco' is not configured"),
        ({"query_id": "99"}, "'99' is not a query of cirr val"),
        ({"query_id": 0}, "'query_id' must be text"),
        ({"composition": "a dog"}, "'composition' must be an object"),
        ({"composition": {"target_caption": "a dog"}}, "keys missing"),
        ({"composition": {**COMPOSITION["composition"], "target_caption": " "}}, "target_caption is empty"),
        ({"composition": {**COMPOSITION["composition"], "keep": "dog"}}, "keep is not a list"),
        ({"composition": {**COMPOSITION["composition"], "keep": ["d\x00g"]}}, "NUL"),
        ({"composition": {**COMPOSITION["composition"], "also": []}}, "unknown ['also']"),
        ({"reference_id": "b"}, "made for reference 'b'; the query's is 'a'"),
        ({"modification": "text 1"}, "made for the text 'text 1'; the query's is 'text 0'"),
        ({"fingerprint": OTHER}, "made from another picture"),
        ({"image_id": "a"}, "unknown key 'image_id'"),
    ],
)
def test_a_composition_that_is_not_right_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    (problem,) = refusals(compositions_of, write(tmp_path / "c.jsonl", COMPOSITION | change))
    assert reason in problem.reason


def test_white_space_of_a_modification_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", COMPOSITION | {"modification": " text  0 ", "reference_id": "a"})
    assert compositions_of(path)["cirr", "val"]["modification"].to_list() == ["text 0"]


def test_every_row_at_fault_is_told_and_nothing_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.jsonl", CAPTION, "{", [1], CAPTION, CAPTION | {"image_id": "?"}, '{"a": 1, "a": 2}'
    )
    problems = refusals(captions_of, path)
    assert [problem.row for problem in problems] == ["line 2", "line 3", "line 4", "line 5", "line 6"]
    reasons = [
        "not valid JSON",
        "must be an object",
        "line 1 has it already",
        "unknown image",
        "occurs twice",
    ]
    assert all(reason in problem.reason for reason, problem in zip(reasons, problems, strict=True))


def test_many_rows_at_fault_are_not_all_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", *["{"] * 50)
    with pytest.raises(ImportRefusedError) as caught:
        captions_of(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 50 rows cannot be taken, so nothing was imported:"
    assert len(lines) == 22 and lines[-1] == "  and 30 more"


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe"])
def test_a_file_that_holds_nothing_is_an_error_of_its_own(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "c.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        captions_of(path)
    assert caught.value.file == path and caught.value.row is None


def test_a_data_set_that_cannot_be_read_is_no_rows_fault(tmp_path: Path) -> None:
    def broken(dataset: str) -> set[str]:
        raise DatasetError("not valid JSON", file=tmp_path / "split.json")

    path = write(tmp_path / "c.jsonl", CAPTION, CAPTION)
    with pytest.raises(DatasetError, match=r"split\.json"):
        read_captions(path, broken, picture_here)


def test_rows_may_be_taken_as_those_of_another_name_and_of_other_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", CAPTION | {"dataset": "theirs", "fingerprint": OTHER})
    frames = captions_of(path, dataset="cirr", other_pictures=True)
    assert frames["cirr"]["fingerprint"].to_list() == [""]
    absent = write(tmp_path / "d.jsonl", CAPTION | {"image_id": "b", "fingerprint": OTHER})
    assert captions_of(absent)["cirr"]["fingerprint"].to_list() == [OTHER], "kept to be compared later"


def test_times_are_compared_in_utc(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", CAPTION | {"made_at": "2020-01-01T02:00:00.5+02:00"})
    made_at = captions_of(path)["cirr"]["made_at"][0]
    assert made_at == "2020-01-01T00:00:00.500000Z"
    assert made_at == time_text(datetime(2020, 1, 1, 0, 0, 0, 500_000, UTC).timestamp())
    assert time_text(1e9) < time_text(1e9 + 1e-3)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.sampled_from([CAPTION, COMPOSITION]),
    key=st.sampled_from([*COMPOSITION, "image_id", "caption", "fingerprint", "made_at", "modification"]),
    value=json_values,
)
def test_a_damaged_value_is_refused_or_harmless(
    tmp_path: Path, row: dict[str, Any], key: str, value: object
) -> None:
    path = write(tmp_path / "c.jsonl", json.dumps(row | {key: value}))
    read: Any = captions_of if row is CAPTION else compositions_of
    try:
        frames = read(path)
    except SetrError as error:
        assert str(path) in str(error) and "line 1" in str(error)
    else:
        (frame,) = frames.values()
        assert frame.height == 1
        frame.write_parquet(tmp_path / "c.parquet")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(content)
    for read in (captions_of, compositions_of):
        with pytest.raises(SetrError, match=r"c\.jsonl"):
            read(path)


def test_a_composition_without_a_split_is_of_the_one_that_knows_its_query(tmp_path: Path) -> None:
    line = {key: value for key, value in COMPOSITION.items() if key != "split"}
    path = write(tmp_path / "c.jsonl", line)
    found = compositions_of(path, splits_of=lambda dataset: ["val", "test1"])
    assert list(found) == [("cirr", "val")]
    both = refusals(compositions_of, path, splits_of=lambda dataset: ["val", "val"])
    assert "add the key 'split'" in str(both[0])
    none = refusals(compositions_of, path, splits_of=lambda dataset: ["test1"])
    assert "not a query of any configured split" in str(none[0])
