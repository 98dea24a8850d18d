"""Tables in a folder of their own read what trainings have left in the usual one, and never write there."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from setr_lib.pipeline.storage import Tables
from setr_lib.records import TripletsRecord
from setr_lib.settings import Settings

ASSET, SCHEMA = "training_triplets", pl.Schema({"reference_id": pl.String()})


def record(digest: str) -> TripletsRecord:
    return TripletsRecord(source="synthesised", digest=digest)


def test_the_usual_tables_stay_as_they_are(tmp_path: Path) -> None:
    settings = Settings(base_dir=tmp_path)
    usual, other = Tables(settings), Tables(settings, "other")
    usual.write(ASSET, pl.DataFrame({"reference_id": ["usual"]}), SCHEMA, made_by=record("usual"))
    assert other.read(ASSET, SCHEMA)["reference_id"].to_list() == ["usual"]
    other.write(ASSET, pl.DataFrame({"reference_id": ["other"]}), SCHEMA)
    other.write_record(ASSET, record("other"))
    assert usual.read(ASSET, SCHEMA)["reference_id"].to_list() == ["usual"]
    assert usual.read_record(ASSET, TripletsRecord) == record("usual")
    assert other.read(ASSET, SCHEMA)["reference_id"].to_list() == ["other"]
    assert other.read_record(ASSET, TripletsRecord) == record("other")
    other.remove(ASSET)
    assert other.read(ASSET, SCHEMA)["reference_id"].to_list() == ["usual"]
    other.remove(ASSET)
    assert usual.exists(ASSET)
