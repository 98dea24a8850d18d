"""Damaged LanceDB tables: told in one line; the repair keeps each readable row once, the rest is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from damages import (
    Damage,
    a_file,
    a_folder,
    assert_told,
    cut,
    emptied,
    garbage,
    gone,
    holed,
    mend,
    name_of,
    text,
)
from PIL import Image

from setr_lib.errors import SetrError
from setr_lib.files import write_json
from setr_lib.hashing import fingerprint_file
from setr_lib.spaces.space import EmbeddingSpace
from setr_lib.spaces.vector_store import GalleryStore, SyncReport

COUNT, BATCH, TABLE = 24, 6, "t"


class Colours(EmbeddingSpace):
    """The mean colour of a picture, as a vector of norm 1."""

    id, dimension, batch_size = "colours", 3, BATCH

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        rows = np.array([np.asarray(image, dtype=float).mean(axis=(0, 1)) + 1 for image in images])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number:02d}.png" for number in range(COUNT)]
    for number, path in enumerate(paths):
        Image.new("RGB", (4, 4), (number * 9, 255 - number * 7, number)).save(path)
    return pl.DataFrame(
        {
            "image_id": [path.stem for path in paths],
            "path": list(map(str, paths)),
            "fingerprint": list(map(fingerprint_file, paths)),
        }
    )


@pytest.fixture
def table(tmp_path: Path, gallery: pl.DataFrame) -> Path:
    """The folder of a table of four fragments, and of as many versions."""
    for rows in range(BATCH, COUNT + 1, BATCH):
        synchronised(tmp_path, gallery[:rows])
    return tmp_path / "var" / "lancedb" / f"{TABLE}.lance"


def synchronised(folder: Path, gallery: pl.DataFrame) -> SyncReport:
    return GalleryStore(folder / "var" / "lancedb").synchronise(TABLE, gallery, Colours())


def first(table: Path, files: str) -> Path:
    """A file of a table; of its manifests, the latest."""
    return min(table.glob(files))


DATA, LATEST = "data/*.lance", "_versions/*.manifest"
CASES: list[tuple[str, Damage, int]] = [
    *((DATA, damage, BATCH) for damage in (gone, cut, emptied, garbage, a_folder, holed)),
    # The version before the latest has one batch less, or lacks nothing that has a file.
    *((LATEST, damage, BATCH) for damage in (cut, emptied, garbage, a_folder, holed)),
    *(("_refs/tags/*.json", damage, 0) for damage in (cut, emptied, garbage, a_folder, text("[]"))),
    *(("_refs/tags/*.json", damage, 0) for damage in (text("{}"), text('{"version": "1"}'))),
    *((name, a_file, 0) for name in ("_refs", "_refs/tags")),
    (".", a_file, COUNT),
    ("_versions", gone, COUNT),
    ("data", a_file, COUNT),
]


@pytest.mark.parametrize(("file", "damage", "lost"), CASES, ids=name_of)
def test_a_damaged_table_is_told_and_no_row_is_lost_or_doubled(
    table: Path, tmp_path: Path, gallery: pl.DataFrame, file: str, damage: Damage, lost: int
) -> None:
    damage(table if file == "." else first(table, file))
    with pytest.raises(SetrError) as told:
        synchronised(tmp_path, gallery)
        GalleryStore(table.parent).read(TABLE)
    assert_told(str(told.value), "vectors", f"{TABLE}.lance")
    assert mend(tmp_path, "vectors") == 0
    assert list((tmp_path / "var" / "set-aside").glob("*-vectors/lancedb/t.lance*"))
    report = synchronised(tmp_path, gallery)
    assert (report.rows, report.embedded) == (COUNT, lost), "what could be read is embedded again, or lost"
    ids, vectors = GalleryStore(table.parent).read(TABLE)
    assert ids == gallery["image_id"].to_list()
    expected = Colours().embed_images([Image.open(path) for path in gallery["path"]])
    assert np.allclose(vectors, expected)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (LATEST, gone),
        ("_versions/latest_version_hint.json", garbage),
        ("_transactions", gone),
        ("_refs", gone),
    ],
    ids=name_of,
)
def test_what_lancedb_can_do_without_heals_by_itself(
    table: Path, tmp_path: Path, gallery: pl.DataFrame, file: str, damage: Damage
) -> None:
    damage(first(table, file))
    assert synchronised(tmp_path, gallery).rows == COUNT
    assert mend(tmp_path, "vectors") == 0
    assert GalleryStore(table.parent).ids(TABLE) == gallery["image_id"].to_list()


def test_a_record_of_a_version_that_is_gone_is_set_aside(
    table: Path, tmp_path: Path, gallery: pl.DataFrame
) -> None:
    records = tmp_path / "var" / "tables" / "gallery_embeddings"
    latest = GalleryStore(table.parent).open(TABLE).version
    write_json(records / "whole.json", {"table": TABLE, "version": latest})
    write_json(records / "gone.json", {"spaces": {"own": {"table": TABLE, "version": latest + 9}}})
    with pytest.raises(SetrError) as told:
        GalleryStore(table.parent).read(TABLE, latest + 9)
    assert_told(str(told.value), "vectors", table, latest + 9)
    assert mend(tmp_path, "vectors") == 0
    assert [path.name for path in records.iterdir()] == ["whole.json"]


def test_a_database_that_is_a_file_is_told(table: Path, tmp_path: Path, gallery: pl.DataFrame) -> None:
    a_file(table.parent)
    with pytest.raises(SetrError) as told:
        synchronised(tmp_path, gallery)
    assert_told(str(told.value), "vectors", table.parent)
    assert mend(tmp_path, "vectors") == 0
    assert synchronised(tmp_path, gallery).embedded == COUNT


def test_a_query_that_is_none_is_no_damage(table: Path) -> None:
    handle = GalleryStore(table.parent).open(TABLE)
    with pytest.raises((RuntimeError, ValueError)) as raised:
        handle.search().where("no_such_column = 1").to_arrow()
    assert "setr repair" not in str(raised.value)


def test_a_file_in_the_place_of_the_folder_of_transactions_is_set_aside(table: Path, tmp_path: Path) -> None:
    a_file(table / "_transactions")
    assert mend(tmp_path, "vectors", "--look") == 1
    assert mend(tmp_path, "vectors") == 0
    assert not (table / "_transactions").exists()
    assert len(GalleryStore(table.parent).read(TABLE)[0]) == COUNT
