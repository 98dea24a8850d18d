"""Damaged tables, records and reports: told in one line, set aside with what belongs to them."""

from __future__ import annotations

from pathlib import Path

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

from setr_lib.errors import SetrError
from setr_lib.evaluation.leaderboard import collect
from setr_lib.pipeline.storage import NotMadeYetError, Tables
from setr_lib.records import EmbeddingsRecord, QueriesRecord, RerankedRecord, TextRecord
from setr_lib.settings import Settings
from setr_lib.tables import CAPTIONS, FAILURES, METRICS, QUERIES, RANKINGS

KEY, ASSET = "cirr-val", "reference_captions"
FRAME = pl.DataFrame({"image_id": [f"image {number}" for number in range(500)]})


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    """Two tables with a record each, and one without."""
    tables = Tables(Settings(base_dir=tmp_path))
    tables.write(ASSET, captions(), CAPTIONS, KEY, made_by=TextRecord(model="m", prompt_hash="p"))
    record = QueriesRecord(of=0, kept=0, digest="d")
    tables.write("queries", QUERIES.to_frame(), QUERIES, KEY, made_by=record)
    return tables


def captions() -> pl.DataFrame:
    blank = {name: pl.lit(None, kind) for name, kind in CAPTIONS.items() if name != "image_id"}
    return FRAME.with_columns(**blank)


def overwritten_columns(path: Path) -> None:
    pl.DataFrame({"other": [1]}).write_parquet(path)


@pytest.mark.parametrize("damage", [cut, emptied, garbage, holed, a_folder, overwritten_columns], ids=name_of)
def test_a_damaged_table_is_told_and_set_aside(tables: Tables, tmp_path: Path, damage: Damage) -> None:
    path = tables.settings.table_path(ASSET, KEY)
    damage(path)
    with pytest.raises(SetrError) as told:
        tables.read(ASSET, CAPTIONS, KEY)
    assert_told(str(told.value), "tables", path, "materialize 'reference_captions' again")
    assert mend(tmp_path, "tables") == 0
    assert not path.exists() and not path.with_suffix(".json").exists(), "its record says that it is there"
    assert list((tmp_path / "var" / "set-aside").glob(f"*-tables/tables/{ASSET}/{path.name}"))
    with pytest.raises(NotMadeYetError, match="materialize 'reference_captions' first"):
        tables.read(ASSET, CAPTIONS, KEY)
    assert tables.read("queries", QUERIES, KEY).is_empty(), "what is whole stays"
    tables.write(ASSET, captions(), CAPTIONS, KEY)
    assert tables.read(ASSET, CAPTIONS, KEY).equals(captions())


def test_a_table_that_is_gone_is_told_where_its_record_is_there(tables: Tables, tmp_path: Path) -> None:
    path = tables.settings.table_path(ASSET, KEY)
    path.unlink()
    with pytest.raises(NotMadeYetError) as told:
        tables.read(ASSET, CAPTIONS, KEY)
    assert_told(str(told.value), "tables", path, "is missing")
    path.with_suffix(".json").unlink()
    with pytest.raises(NotMadeYetError, match="not made yet"):
        tables.read(ASSET, CAPTIONS, KEY)


@pytest.mark.parametrize(
    "damage",
    [cut, emptied, garbage, a_folder, text("[]"), text("{}"), text('{"of": "many"}'), text("null")],
    ids=name_of,
)
def test_a_damaged_record_is_told_and_set_aside(tables: Tables, tmp_path: Path, damage: Damage) -> None:
    path = tables.settings.table_path("queries", KEY).with_suffix(".json")
    damage(path)
    with pytest.raises(SetrError) as told:
        tables.read_record("queries", QueriesRecord, KEY)
    assert_told(str(told.value), "tables", path, "materialize 'queries' again")
    assert mend(tmp_path, "tables") == 0
    assert not path.exists()
    with pytest.raises(NotMadeYetError):
        tables.read_record("queries", QueriesRecord, KEY)


@pytest.mark.parametrize("name", ["tables", "tables/reference_captions"])
def test_a_file_in_the_place_of_a_folder_is_told(tables: Tables, tmp_path: Path, name: str) -> None:
    a_file(tmp_path / "var" / name)
    with pytest.raises(SetrError) as told:
        tables.write(ASSET, captions(), CAPTIONS, KEY)
    assert_told(str(told.value), "tables", tmp_path / "var" / name, "is a file")
    assert mend(tmp_path, "tables") == 0
    tables.write(ASSET, captions(), CAPTIONS, KEY)


def test_a_folder_in_the_place_of_a_table_is_told_when_it_is_written(tables: Tables, tmp_path: Path) -> None:
    path = tables.settings.table_path(ASSET, KEY)
    a_folder(path)
    with pytest.raises(SetrError) as told:
        tables.write(ASSET, captions(), CAPTIONS, KEY)
    assert_told(str(told.value), "tables", path, "is a folder")
    assert [each.name for each in path.parent.glob(".*")] == [], "nothing half written is left"


def test_scores_that_cannot_be_read_are_told_by_the_leaderboard(tmp_path: Path) -> None:
    path = Tables(Settings(base_dir=tmp_path)).write("evaluation_report", METRICS.to_frame(), METRICS, KEY)
    cut(path)
    with pytest.raises(SetrError) as told:
        collect([path])
    assert_told(str(told.value), "tables", path)
    assert mend(tmp_path, "tables") == 0
    assert collect([path]).is_empty()


def test_why_queries_fail_is_made_again_by_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Tables(Settings(base_dir=tmp_path)).write("query_failures", FAILURES.to_frame(), FAILURES, KEY)
    assert mend(tmp_path, "tables") == 0 and path.exists()
    cut(path)
    assert mend(tmp_path, "tables") == 0 and not path.exists()
    assert "materialize 'evaluation_report' again" in capsys.readouterr().out


def test_imported_texts_say_that_no_run_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Tables(Settings(base_dir=tmp_path)).write(
        "imported_captions", RANKINGS.to_frame(), RANKINGS, "cirr"
    )
    cut(path)
    assert mend(tmp_path, "tables") == 0
    assert "setr captions import" in capsys.readouterr().out


def test_records_that_lie_alone_are_whole(tmp_path: Path) -> None:
    tables = Tables(Settings(base_dir=tmp_path))
    tables.write_record("gallery_embeddings", EmbeddingsRecord(captions_table="t", captions_version=1), KEY)
    tables.write_record("reranked_rankings", RerankedRecord(method="sum", rows=[]), KEY)
    assert mend(tmp_path, "tables") == 0
    assert not (tmp_path / "var" / "set-aside").exists()


@pytest.mark.parametrize(
    ("name", "damage"),
    [("reports", a_file), ("reports/cirr-val", a_file), ("reports/cirr-val/index.html", a_folder)],
    ids=name_of,
)
def test_what_is_in_the_way_of_a_report_is_told_and_set_aside(
    tmp_path: Path, name: str, damage: Damage
) -> None:
    from setr_lib.damage import explained
    from setr_lib.files import write_text
    from setr_lib.pipeline.storage import places_of

    settings = Settings(base_dir=tmp_path)
    page = settings.report_root / KEY / "index.html"
    write_text(page, "page")
    damage(tmp_path / "var" / name)
    with pytest.raises(SetrError) as told, explained(places_of(settings)):
        write_text(page, "page")
    assert_told(str(told.value), "reports", tmp_path / "var" / name)
    assert mend(tmp_path, "reports") == 0
    write_text(page, "page")
    gone(page)


def test_files_that_may_not_be_written_are_made_writable(
    tables: Tables, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tables.settings.table_path(ASSET, KEY)
    path.chmod(0o400)
    path.parent.chmod(0o500)
    assert mend(tmp_path, "tables", "--look") == 1
    assert path.stat().st_mode & 0o777 == 0o400
    assert mend(tmp_path, "tables") == 0
    assert capsys.readouterr().out.count("made writable") == 4  # twice as "would be"
    assert path.stat().st_mode & 0o200 and path.parent.stat().st_mode & 0o200
    assert tables.read(ASSET, CAPTIONS, KEY).height == FRAME.height


def test_a_folder_that_storage_cannot_be_made_in_is_nothing_to_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setr_lib.damage import explain
    from setr_lib.pipeline.storage import places_of

    settings = Settings(base_dir=tmp_path)
    # The folder's mode would not do: a test may be run by root, who may write anywhere.
    monkeypatch.setattr("setr_lib.paths.os.access", lambda *_: False)
    denied = PermissionError(13, "Permission denied", str(settings.table_path(ASSET, KEY)))
    told = str(explain(denied, places_of(settings)))
    assert f"{tmp_path} cannot be written to: make it writable" in told and "setr repair" not in told


def test_a_disk_that_is_read_only_is_told(tmp_path: Path) -> None:
    from setr_lib.damage import explain
    from setr_lib.pipeline.storage import places_of

    settings = Settings(base_dir=tmp_path)
    told = explain(
        OSError(30, "Read-only file system", str(settings.table_path(ASSET, KEY))), places_of(settings)
    )
    assert_told(str(told), "tables", settings.table_path(ASSET, KEY), "read-only")
