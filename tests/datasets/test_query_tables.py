"""Tables of queries as spreadsheets and programs write them: read where they mean one thing, else refused."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from setr_lib.benchmarks.query_tables import read_query_table
from setr_lib.datasets import DatasetError, evaluation_set, load_queries
from setr_lib.settings import Settings, load_settings

Build = Callable[..., Settings]
HEADER = "reference,modification,targets\n"


def queries_of(
    settings_for: Build, root: Path, name: str, content: bytes | str
) -> tuple[pl.DataFrame, list[str]]:
    """The queries that a file of a folder holds, and what is said of it."""
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    built = settings_for("folder", root, queries=root / name)
    read = evaluation_set(built, "folder")
    return load_queries(built, "folder"), read.benchmark.query_notes(read)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.csv", "reference;modification;targets\na.png;make it red;sub/b.JPG\n", "separated by ';'"),
        ("q.csv", "reference\tmodification\ttargets\na.png\tmake it red\tsub/b.JPG\n", "separated by a tab"),
        ("q.csv", 'reference|modification|targets\na.png|make it red|"sub/b.JPG"\n', "separated by '|'"),
        ("q.tsv", "reference\tmodification\ttargets\na.png\tmake it red\tsub/b.JPG\n", ""),
        ("q.tsv", HEADER + "a.png,make it red,sub/b.JPG\n", "separated by ','"),
        ("q.csv", "sep=;\nreference;modification;targets\na.png;make it red;sub/b.JPG\n", ""),
        ("q.csv", '"sep=;"\r\nreference;modification;targets\r\na.png;make it red;sub/b.JPG\r\n', ""),
        (
            "q.csv",
            " Reference ,MODIFICATION,Targets\na.png,make it red,sub/b.JPG\n",
            "'Targets' is read as 'targets'",
        ),
        (
            "q.csv",
            "Reference,Modification,Query ID,Target\na.png,make it red,0,sub/b.JPG\n",
            "'Query ID' is read",
        ),
        ("q.csv", codecs.BOM_UTF8 + (HEADER + "a.png,make it red,sub/b.JPG\n").encode(), ""),
        ("q.csv", (HEADER + "a.png,make it red,sub/b.JPG\n").encode("utf-16"), "read as UTF-16"),
        (
            "q.csv",
            codecs.BOM_UTF16_BE + (HEADER + "a.png,make it red,sub/b.JPG\n").encode("utf-16-be"),
            "read as UTF-16",
        ),
        ("q.csv", HEADER.replace("\n", "\r") + "a.png,make it red,sub/b.JPG\r", ""),
        ("q.csv", "\n\n" + HEADER + "\n\na.png,make it red,sub/b.JPG\n,,\n", "1 rows of empty cells"),
        ("q.csv", HEADER + 'a.png,make it red,"[""sub/b.JPG""]"\n', "ids a list in brackets"),
        (
            "q.csv",
            "reference,modification,note,target\na.png,make it red,x,sub/b.JPG\n",
            "not read: the columns 'note'",
        ),
        ("q.csv", ",reference,modification,targets\n0,a.png,make it red,sub/b.JPG\n", ""),
        ("q.json", '[{"reference": "a.png", "modification": "make it red", "targets": ["sub/b.JPG"]}]', ""),
        (
            "q.json",
            '{"queries": [{"reference": "a.png", "modification": "make it red", "target": "sub/b.JPG"}]}',
            "list",
        ),
        ("q.json", '{"reference": "a.png", "modification": "make it red", "target": "sub/b.JPG"}\n', ""),
        (
            "q.jsonl",
            '[{"reference": "a.png", "modification": "make it red", "targets": "sub/b.JPG"}]',
            "one list",
        ),
        (
            "q.jsonl",
            b'\xef\xbb\xbf{"Reference": "a.png", "modification": "make it red", "targets": ["sub/b.JPG"]}',
            "",
        ),
    ],
)
def test_one_reading_is_read_and_said(
    settings_for: Build, folder_root: Path, name: str, content: bytes | str, said: str
) -> None:
    queries, notes = queries_of(settings_for, folder_root, name, content)
    wanted = [("0", "a.png", "make it red", ["sub/b.JPG"])]
    assert queries.select("query_id", "reference_id", "modification", "target_ids").rows() == wanted
    assert said in " ".join(notes)
    if not said and "Reference" not in str(content):
        assert notes == []


def test_json_lines_in_a_json_file_are_read(settings_for: Build, folder_root: Path) -> None:
    line = '{"reference": "a.png", "modification": "red", "target": "sub/b.JPG"}\n'
    queries, notes = queries_of(settings_for, folder_root, "q.json", 2 * line)
    assert queries.height == 2
    assert notes == [f"{folder_root / 'q.json'}: is read as JSON Lines, one query a line"]


def test_windows_1252_is_read_and_said(settings_for: Build, folder_root: Path) -> None:
    (folder_root / "caf\u00e9.png").write_bytes((folder_root / "a.png").read_bytes())
    content = (HEADER + "caf\u00e9.png,d\u00e9j\u00e0 \u2013 vu,\n").encode("cp1252")
    queries, notes = queries_of(settings_for, folder_root, "q.csv", content)
    assert queries["reference_id"][0] == "caf\u00e9.png"
    assert queries["modification"][0] == "d\u00e9j\u00e0 \u2013 vu"
    assert notes[0] == f"{folder_root / 'q.csv'}: is read as Windows-1252"
    assert "no query names a target, so nothing can be scored" in notes[1]


def test_utf_8_with_a_byte_that_is_none_is_not_taken_for_windows_1252(
    settings_for: Build, folder_root: Path
) -> None:
    content = (HEADER + "a.png,caf\u00e9,\n").encode() + b"a.png,caf\xe9,\n"
    with pytest.raises(DatasetError, match=r"q\.csv: not UTF-8 text: .*in line 3"):
        queries_of(settings_for, folder_root, "q.csv", content)


def test_nan_among_numbers_is_no_target(settings_for: Build, folder_root: Path) -> None:
    rows = {"reference": ["a.png", "a.png"], "modification": ["x", "y"]}
    nothing = float("nan")
    for targets in ({"target": [nothing, nothing]}, {"targets": [[nothing], [nothing]]}):
        pl.DataFrame({**rows, **targets}).write_parquet(folder_root / "q.parquet")
        content = (folder_root / "q.parquet").read_bytes()
        queries, _ = queries_of(settings_for, folder_root, "q.parquet", content)
        assert queries["target_ids"].to_list() == [[], []]


TARGETS = [
    ("sub/b.JPG|sub/c.webp", ["sub/b.JPG", "sub/c.webp"]),
    ("sub/b.JPG;sub/c.webp", ["sub/b.JPG", "sub/c.webp"]),
    ("sub/b.JPG, sub/c.webp", ["sub/b.JPG", "sub/c.webp"]),
    ('["sub/b.JPG", "sub/c.webp"]', ["sub/b.JPG", "sub/c.webp"]),
    ("['sub/b.JPG', 'sub/c.webp']", ["sub/b.JPG", "sub/c.webp"]),
    ("['sub/b.JPG' 'sub/c.webp']", ["sub/b.JPG", "sub/c.webp"]),
    ("[sub/b.JPG]", ["sub/b.JPG"]),
    ("sub/b.JPG\nsub/c.webp", ["sub/b.JPG", "sub/c.webp"]),
    ("", []),
    ("[]", []),
    ("NaN", []),
]


def test_nulls_in_a_list_of_targets_are_passed_over(settings_for: Build, folder_root: Path) -> None:
    line = '{"reference": "a.png", "modification": "red", "targets": [null, "sub/b.JPG", ""]}'
    queries, notes = queries_of(settings_for, folder_root, "q.jsonl", line)
    assert queries["target_ids"].to_list() == [["sub/b.JPG"]]
    assert notes == [f"{folder_root / 'q.jsonl'}: empty entries of 'targets' are passed over"]


@pytest.mark.parametrize(("cell", "targets"), TARGETS)
@pytest.mark.parametrize("column", ["target", "targets"])
def test_targets_of_a_cell(
    settings_for: Build, folder_root: Path, column: str, cell: str, targets: list[str]
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("reference", "modification", column), ("a.png", "red", cell)])
    queries, notes = queries_of(settings_for, folder_root, "q.csv", text.getvalue())
    assert queries["target_ids"].to_list() == [targets]
    assert ("is read as" in " ".join(notes)) == (cell not in ("", TARGETS[0][0]))
    lines = json.dumps({"reference": "a.png", "modification": "red", column: cell or None})
    assert queries_of(settings_for, folder_root, "q.jsonl", lines)[0]["target_ids"].to_list() == [targets]


def test_a_cell_with_two_readings_is_refused(settings_for: Build, folder_root: Path) -> None:
    (folder_root / "a.png;sub").mkdir()
    (folder_root / "a.png;sub" / "b.JPG").write_bytes((folder_root / "a.png").read_bytes())
    with pytest.raises(DatasetError, match="has two readings: one image, or 2"):
        queries_of(settings_for, folder_root, "q.csv", HEADER + "sub/c.webp,red,a.png;sub/b.JPG\n")


def test_numbers_are_ids_and_nulls_no_targets(settings_for: Build, folder_root: Path) -> None:
    rows: dict[str, Any] = {"query_id": [7.0, 12.0], "reference": ["a.png"] * 2, "modification": ["x", "y"]}
    pl.DataFrame({**rows, "target": [None, "sub/b.JPG"]}).write_parquet(folder_root / "q.parquet")
    content = (folder_root / "q.parquet").read_bytes()
    queries, _ = queries_of(settings_for, folder_root, "q.parquet", content)
    assert queries["query_id"].to_list() == ["7", "12"]
    assert queries["target_ids"].to_list() == [[], ["sub/b.JPG"]]
    lines = '{"query_id": 7, "reference": "a.png", "modification": "x", "targets": null}'
    assert queries_of(settings_for, folder_root, "q.jsonl", lines)[0]["query_id"].to_list() == ["7"]
    pl.DataFrame({"reference": [7], "modification": ["x"]}).write_parquet(folder_root / "q.parquet")
    (folder_root / "007.png").write_bytes((folder_root / "a.png").read_bytes())
    with pytest.raises(DatasetError, match=r"unknown image '7'.*did you mean '007.png'\?"):
        queries_of(settings_for, folder_root, "q.parquet", (folder_root / "q.parquet").read_bytes())


@pytest.mark.parametrize(
    ("name", "content", "row", "said"),
    [
        ("q.csv", "reference,caption\na.png,red\n", "line 1", "has no column 'modification'"),
        ("q.csv", "reference,caption\na.png,red\n", "line 1", "rename 'caption' to 'modification'"),
        ("q.csv", "sep=,\nimage;text\n", "line 2", "the columns found are 'image;text'"),
        ("q.csv", "image;text\na.png;red\n", "line 1", "rename 'image' to 'reference', rename 'text' to"),
        (
            "q.csv",
            "reference,modification,target_id\na.png,red,b\n",
            "line 1",
            "rename 'target_id' to 'targets'",
        ),
        (
            "q.csv",
            "reference,modification,gt_image\na.png,red,b\n",
            "line 1",
            "rename 'gt_image' to 'targets'",
        ),
        ("q.csv", "reference,modification,tragets\na.png,red,b\n", "line 1", "rename 'tragets' to 'targets'"),
        (
            "q.csv",
            "reference,modification,target,Target\na.png,red,,\n",
            "line 1",
            "names a column twice: 'target'",
        ),
        ("q.csv", "reference,modification,x,x\na.png,red,,\n", "line 1", "names a column twice: 'x'"),
        (
            "q.csv",
            HEADER,
            None,
            "holds no query: the columns found are 'reference', 'modification', 'targets'",
        ),
        ("q.csv", HEADER + ",,\n,,\n", None, "holds no query"),
        (
            "q.csv",
            HEADER + 'a.png,"two\nlines",\na.png,red\n',
            "line 4",
            "has 2 cells, fewer than the 3 columns",
        ),
        (
            "q.csv",
            HEADER + "a.png,red, or blue,\n",
            "line 2",
            "has 4 cells, more than the 3 columns that line 1",
        ),
        (
            "q.csv",
            HEADER + 'a.png,red,\na.png,"open,\na.png,red,\n',
            "line 3",
            "is a quotation mark left open there?",
        ),
        ("q.csv", HEADER + "a.png, ,\n", "line 2", "'modification' is empty"),
        ("q.csv", "query_id,reference,modification\n1,a.png,x\n,a.png,y\n", "line 3", "'query_id' is empty"),
        ("q.csv", HEADER.encode("utf-16-le"), None, "is UTF-16 without a byte-order mark"),
        ("q.csv", HEADER.encode() + b"a.png,red \x81,\n", None, "in line 2"),
        ("q.csv", b"PK\x03\x04......xl/workbook.xml", None, "is a spreadsheet: save it as CSV first"),
        ("q.xlsx", b"", None, "is a spreadsheet, which is not read: save it as CSV first"),
        ("q.jsonl", "", None, "is empty"),
        ("q.json", "[]", None, "holds no query: no column was found"),
        ("q.json", '{"reference": {"0": "a.png"}, "modification": {"0": "red"}}', None, "orient='records'"),
        ("q.jsonl", '{"reference": null, "modification": "red"}', "line 1", "'reference' is empty"),
        ("q.jsonl", '{"reference": "a.png", "modification": null}', "line 1", "'modification' is empty"),
        ("q.jsonl", '{"reference": "a.png", "modification": 7}', "line 1", "must be text, not 7"),
        (
            "q.jsonl",
            '{"reference": "a.png", "modification": "x"}\n\n{"modification": "x"}',
            "line 3",
            "the key 'reference' is missing",
        ),
        ("q.csv", "a.png,red,sub/b.JPG\n", "line 1", "the first line, or every object, must name them"),
        ("q.csv", "reference,modification,target,target_2\n", "line 1", "more than one column of targets"),
        (
            "q.csv",
            "reference,modification,target1,target2\n",
            "line 1",
            "'target1', 'target2': put them into one",
        ),
        (
            "q.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
            None,
            "a pointer of Git LFS",
        ),
        ("q.json", "\n<!DOCTYPE html><html>", None, "is a web page, not the file: download it again"),
        ("q.jsonl", '{"ref_image": "a.png", "text": "x"}', None, "rename 'ref_image' to 'reference'"),
    ],
)
def test_what_has_no_single_reading_is_refused_with_columns_and_line(
    settings_for: Build, folder_root: Path, name: str, content: bytes | str, row: str | None, said: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        queries_of(settings_for, folder_root, name, content)
    assert said in str(caught.value)
    assert (caught.value.file, caught.value.row) == (folder_root / name, row)


CELLS = st.text(st.characters(codec="cp1252", exclude_characters="\r\x00"), max_size=12)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS.filter(str.strip), CELLS), min_size=1, max_size=4),
    separator=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    declared=st.booleans(),
)
def test_whatever_is_written_reads_back_equal(
    tmp_path: Path,
    rows: list[tuple[str, str, str]],
    separator: str,
    encoding: str,
    newline: str,
    declared: bool,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("reference", "modification", "targets"), *rows])
    whole = (f"sep={separator}\n" if declared else "") + text.getvalue()
    # Bytes of Windows-1252 that are UTF-8 by chance, all or some, cannot be told from UTF-8.
    assume(encoding != "cp1252" or whole.encode("cp1252").decode("utf-8", "ignore").isascii())
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    path = tmp_path / "queries.csv"
    path.write_bytes(mark + whole.replace("\n", newline).encode(encoding))
    table = read_query_table(path)
    assert [tuple(row.values.values()) for row in table.rows] == rows


def test_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "setr.toml"
    file.write_bytes(codecs.BOM_UTF8 + b"[storage]\r\nroot = 'mine'\r\n")
    assert load_settings(file).storage.root == Path("mine")
    file.write_bytes("[storage]\nroot = 'mine'\n".encode("utf-16"))
    assert load_settings(file).storage.root == Path("mine")
