"""A file of queries that is there is read, or refused, or named: never passed over in silence."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from setr_lib.cli import main
from setr_lib.datasets import DatasetError, evaluation_set, load_queries
from setr_lib.settings import Settings

Build = Callable[..., Settings]
CSV = "reference,modification,target\na.png,make it red,sub/b.JPG\n"
LINE = '{"reference": "a.png", "modification": "make it red", "target": "sub/b.JPG"}'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("queries.csv", CSV, ""),
        ("queries.tsv", CSV.replace(",", "\t"), ""),
        ("queries.json", f"[{LINE}]", ""),
        ("queries.jsonl", LINE, ""),
        ("queries.ndjson", LINE, ""),
        ("Queries.csv", CSV, "Queries.csv is read as the file of queries"),
        ("QUERIES.CSV", CSV, "QUERIES.CSV is read as the file of queries"),
        ("query.csv", CSV, "query.csv is read as the file of queries"),
    ],
)
def test_the_one_file_of_queries_is_read(
    settings_for: Build, folder_root: Path, name: str, content: str, said: str
) -> None:
    (folder_root / name).write_text(content)
    built = settings_for("folder", folder_root)
    assert load_queries(built, "folder")["target_ids"].to_list() == [["sub/b.JPG"]]
    notes = evaluation_set(built, "folder").benchmark.query_notes(evaluation_set(built, "folder"))
    assert notes == ([f"{folder_root}/{said}"] if said else [])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("queries.xlsx", "is a spreadsheet, which is not read: save it as CSV first"),
        ("Queries.XLS", "is a spreadsheet"),
        ("query.ods", "is a spreadsheet"),
        ("queries.csv.gz", "is a compressed file of queries, which is not read: unpack it first"),
        ("queries.zip", "is a compressed file"),
        ("queries.txt", "'.txt' files are not read: use .csv, .tsv"),
        ("queries", "a file without an ending is not read: use .csv"),
        ("queries_val.csv", "there is queries_val.csv, and no file queries.csv"),
        ("queries (1).csv", "there is queries (1).csv, and no file queries.csv"),
        ("my-queries.xlsx", "there is my-queries.xlsx"),
    ],
)
def test_a_file_of_queries_that_is_not_read_is_refused(
    settings_for: Build, folder_root: Path, name: str, said: str
) -> None:
    (folder_root / name).write_bytes(gzip.compress(CSV.encode()))
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("folder", folder_root), "folder")
    assert said in str(caught.value)


def test_two_files_of_queries_are_refused(settings_for: Build, folder_root: Path) -> None:
    (folder_root / "queries.csv").write_text(CSV)
    (folder_root / "queries.jsonl").write_text(LINE)
    with pytest.raises(DatasetError, match=r"there are 2 files of queries, queries\.csv and queries\.jsonl"):
        load_queries(settings_for("folder", folder_root), "folder")
    named = settings_for("folder", folder_root, queries=folder_root / "queries.jsonl")
    assert load_queries(named, "folder").height == 1


def test_the_spreadsheet_beside_its_export_is_said(settings_for: Build, folder_root: Path) -> None:
    (folder_root / "queries.csv").write_text(CSV)
    (folder_root / "queries.xlsx").write_bytes(b"PK\x03\x04")
    (folder_root / "~$queries.xlsx").write_bytes(b"")
    (folder_root / ".~lock.queries.csv#").write_bytes(b"")
    read = evaluation_set(settings_for("folder", folder_root), "folder")
    assert read.benchmark.query_notes(read) == [f"{folder_root}/queries.xlsx is not read: queries.csv is"]


def test_a_link_that_leads_nowhere_is_no_missing_file(settings_for: Build, folder_root: Path) -> None:
    (folder_root / "queries.csv").symlink_to(folder_root / "away.csv")
    with pytest.raises(DatasetError, match="no such file"):
        load_queries(settings_for("folder", folder_root), "folder")


@pytest.mark.parametrize("name", ["query.jpg", "readme.md", "captions.json", "sub/queries.txt"])
def test_a_folder_that_is_only_searched_stays_one(settings_for: Build, folder_root: Path, name: str) -> None:
    (folder_root / name).write_bytes((folder_root / "a.png").read_bytes())
    built = settings_for("folder", folder_root)
    read = evaluation_set(built, "folder")
    assert load_queries(built, "folder").is_empty()
    assert read.benchmark.query_notes(read) == []


@pytest.fixture
def doctor(
    tmp_path: Path, folder_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], dict[str, Any]]:
    monkeypatch.delenv("SETR_CONFIG", raising=False)
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.mine]\nkind = "folder"\nroot = "pictures"\n')

    def found() -> dict[str, Any]:
        main(["--config", str(config), "doctor", "mine", "--quick", "--json"])
        return json.loads(capsys.readouterr().out)["evaluation_sets"][0]

    return found


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pictures/queries.xlsx", "", "is a spreadsheet, which is not read"),
        ("pictures/queries.csv", CSV.replace("target", "target_id"), "rename 'target_id' to 'targets'"),
        ("pictures/queries.csv", "reference,modification,target\n", "holds no query"),
        ("pictures/queries.csv", CSV.replace("a.png", "A.png"), "did you mean 'a.png'?"),
    ],
)
def test_doctor_tells_it_before_a_run(
    tmp_path: Path, doctor: Callable[[], dict[str, Any]], name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    found = doctor()
    assert found["status"] == "incomplete"
    assert found["queries"] is None
    assert [said in problem for problem in found["problems"]] == [True]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pictures/queries.csv", CSV.replace("sub/b.JPG", ""), "no query names a target, so nothing can be"),
        ("pictures/queries.csv", CSV.replace(",", ";"), "columns are separated by ';'"),
        ("queries.csv", CSV, "queries.csv is not read: name it as [datasets.mine] queries to use it"),
        ("pictures/sub/queries.csv", CSV, "queries.csv is not read: name it as [datasets.mine] queries"),
        (
            "pictures/queries.csv.bak",
            CSV,
            "queries.csv.bak is not read: name it as [datasets.mine] queries if",
        ),
        (
            "pictures/queries.csv~",
            CSV,
            "queries.csv~ is not read: name it as [datasets.mine] queries if it is",
        ),
        (
            "pictures/query_log.csv",
            CSV,
            "query_log.csv is not read: name it as [datasets.mine] queries if it is",
        ),
        ("pictures/quries.csv", CSV, "quries.csv is not read: name it as [datasets.mine] queries if it is"),
        ("pictures/triplets.json", "[]", "triplets.json is not read: name it as [datasets.mine] queries if"),
    ],
)
def test_doctor_says_what_was_assumed_and_what_is_not_read(
    tmp_path: Path, doctor: Callable[[], dict[str, Any]], name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    found = doctor()
    assert found["status"] == "ok"
    assert sum(said in warning for warning in found["warnings"]) == 1


def test_doctor_says_which_captions_are_spelt_otherwise(
    folder_root: Path, doctor: Callable[[], dict[str, Any]]
) -> None:
    (folder_root / "queries.csv").write_text(CSV)
    rows = [{"candidate": name, "captions": ["red"]} for name in ("a.png", "SUB\\b.jpg", "elsewhere.png")]
    (folder_root / "image_captions.json").write_text(json.dumps(rows))
    said = "image_captions.json: 1 of its images are spelt otherwise than the gallery's"
    (warning,) = [each for each in doctor()["warnings"] if said in each]
    assert "did you mean 'sub/b.JPG'? (the two differ in back-slashes in place of '/' and upper" in warning


def test_a_named_pipe_or_a_folder_in_place_of_the_file_is_told_and_nothing_waits(
    folder_root: Path, doctor: Callable[[], dict[str, Any]]
) -> None:
    file = folder_root / "queries.csv"
    os.mkfifo(file)
    assert f"{file}: is a named pipe, not a file" in " ".join(doctor()["problems"])
    file.unlink()
    file.mkdir()
    assert f"{file}: is a folder, not a file" in " ".join(doctor()["problems"])
