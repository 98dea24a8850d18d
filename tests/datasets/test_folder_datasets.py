"""A folder of one's own: its images, and queries from CSV, JSON Lines and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setr_lib.datasets import DatasetError, load_gallery, load_queries
from setr_lib.settings import Settings
from setr_lib.tables import QUERIES

Build = Callable[..., Settings]

CSV = "reference,modification,targets\na.png,make it red,sub/b.JPG|sub/c.webp\nsub/b.JPG,smaller,\n"
LINES = (
    '{"reference": "a.png", "modification": "make it red", "targets": ["./sub/b.JPG", "sub/c.webp"]}\n\n'
    '{"reference": "./sub/b.JPG", "modification": "smaller"}\n'
)
ROWS = {
    "reference": ["a.png", "sub/b.JPG"],
    "modification": ["make it red", "smaller"],
    "targets": [["sub/b.JPG", "sub/c.webp"], None],
}


def test_gallery_is_every_image_but_hidden_ones(settings_for: Build, folder_root: Path) -> None:
    gallery = load_gallery(settings_for("folder", folder_root), "folder")
    assert gallery["image_id"].to_list() == ["a.png", "sub/b.JPG", "sub/c.webp"]
    assert gallery["path"][1] == str(folder_root / "sub/b.JPG")
    assert gallery["galleries"].to_list() == [["all"]] * 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_three_formats_give_the_same_queries(settings_for: Build, folder_root: Path, suffix: str) -> None:
    file = folder_root / f"queries.{suffix}"
    if suffix == "parquet":
        pl.DataFrame(ROWS).write_parquet(file)
    else:
        file.write_text({"csv": "\ufeff" + CSV, "jsonl": LINES}[suffix], encoding="utf-8")
    queries = load_queries(settings_for("folder", folder_root), "folder")
    assert queries.schema == QUERIES
    assert queries["query_id"].to_list() == ["0", "1"]
    assert queries["reference_id"].to_list() == ["a.png", "sub/b.JPG"]
    assert queries["target_ids"].to_list() == [["sub/b.JPG", "sub/c.webp"], []]


def test_single_target_and_own_ids(settings_for: Build, folder_root: Path) -> None:
    (folder_root / "mine.csv").write_text("query_id,reference,modification,target\nq9,a.png,red,sub/b.JPG\n")
    queries = load_queries(settings_for("folder", folder_root, queries=folder_root / "mine.csv"), "folder")
    assert queries.select("query_id", "target_ids").row(0) == ("q9", ["sub/b.JPG"])


def test_a_folder_without_queries_has_none(settings_for: Build, folder_root: Path) -> None:
    assert load_queries(settings_for("folder", folder_root), "folder").is_empty()


@pytest.mark.parametrize(
    ("text", "row", "reason"),
    [
        ("", None, "is empty"),
        ("reference,modification\na.png\n", "line 2", "1 cells"),
        ("reference,modification\n,red\n", "line 2", "'reference' is empty"),
        ("reference,modification\na.png,\n", "line 2", "'modification' is empty"),
        ("reference,modification\nz.png,red\n", "line 2", "unknown image 'z.png'"),
        ("reference,modification\n../a.png,red\n", "line 2", "leaves the data folder"),
        ("reference,modification\nsub\\b.JPG,red\n", "line 2", "holds a back-slash: write '/'"),
        ("reference,modification,targets\na.png,red,a.png\n", "line 2", "among its own targets"),
        ("reference,modification,targets\na.png,red,z.png\n", "line 2", "unknown image 'z.png'"),
        ("reference,modification,targets\na.png,red,sub/b.JPG|sub/b.JPG\n", "line 2", "'sub/b.JPG' twice"),
        ("reference,modification,reference\na.png,red,a.png\n", "line 1", "a column twice"),
        ("query_id,reference,modification\n1,a.png,red\n1,a.png,blue\n", "line 3", "duplicate query_id '1'"),
        ('reference,modification\n"a.png"x,red\n', "line 2", "not valid CSV"),
        ("reference,modification,target,targets\na.png,red,sub/b.JPG,sub/b.JPG\n", "line 2", "keep one"),
    ],
)
def test_faulty_csv_is_refused(
    settings_for: Build, folder_root: Path, text: str, row: str | None, reason: str
) -> None:
    (folder_root / "queries.csv").write_text(text)
    with pytest.raises(DatasetError, match=reason) as caught:
        load_queries(settings_for("folder", folder_root), "folder")
    assert (caught.value.file, caught.value.row) == (folder_root / "queries.csv", row)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.jsonl", b'{"reference": "a.png"\n', "not valid JSON"),
        ("q.jsonl", b"[1]\n", "must be an object"),
        ("q.jsonl", b'{"reference": "a.png", "modification": "x", "targets": "b"}', "unknown image 'b'"),
        ("q.parquet", b"PAR1 but not really PAR1", "not a readable Parquet file"),
        ("q.txt", b"", "'.txt' files are not read"),
    ],
)
def test_other_faulty_files_are_refused(
    settings_for: Build, folder_root: Path, name: str, content: bytes, reason: str
) -> None:
    (folder_root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        load_queries(settings_for("folder", folder_root, queries=folder_root / name), "folder")


def test_named_file_and_folder_must_exist(settings_for: Build, folder_root: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        load_queries(settings_for("folder", folder_root, queries=folder_root / "none.csv"), "folder")
    with pytest.raises(DatasetError, match="no such image folder"):
        load_gallery(settings_for("folder", folder_root / "none"), "folder")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=40)
    | st.text(max_size=40).map(lambda text: ("reference,modification\n" + text).encode(errors="replace")),
    suffix=st.sampled_from(["csv", "jsonl", "parquet"]),
)
def test_any_content_is_read_or_refused(
    settings_for: Build, folder_root: Path, content: bytes, suffix: str
) -> None:
    file = folder_root / f"fuzz.{suffix}"
    file.write_bytes(content)
    try:
        queries = load_queries(settings_for("folder", folder_root, queries=file), "folder")
    except DatasetError as error:
        assert error.file == file
    else:
        assert set(queries["reference_id"]) <= {"a.png", "sub/b.JPG", "sub/c.webp"}
