"""``setr repair tables``: the Parquet tables and JSON records of the assets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.faults import file_fault, json_fault
from setr_lib.pipeline.comparison import FOLDER as COMPARISONS
from setr_lib.pipeline.storage import TABLES, or_run_everything
from setr_lib.repairs.aside import Finding, SetAside
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.records import Record

_WITH_TABLE = (
    "queries",
    "gallery_images",
    "reference_captions",
    "query_compositions",
    "method_texts",
    "coarse_rankings",
    "evaluation_report",
    "reranker_pairs",
    "training_triplets",
)
"""The assets each of whose records lies beside a table."""
_IMPORTED = "imported_"
_MADE_BY = {"query_failures": "evaluation_report"}
"""Tables that an asset of another name writes."""


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Look at every table and record; set aside what cannot be read, with what belongs to it.

    Args:
        settings: They say where the tables lie.
        aside: Takes what is damaged.

    Returns:
        How many files are whole, and what was found.
    """
    root = settings.storage_root
    if root.exists() and not root.is_dir():
        raise SetrError(f"{root}: is a file where the storage root should be: move it away, then run again")
    whole, findings = 0, list[Finding]()
    for name in (TABLES, COMPARISONS):
        folder = root / name
        if folder.exists() and not folder.is_dir():
            aside.take(folder)
            findings.append(Finding(folder, "is a file where a folder should be", aside.verb, _all(settings)))
            continue
        # Tables first: the record of one that is set aside goes with it.
        for path in sorted(folder.rglob("*"), key=lambda each: (each.suffix != ".parquet", each)):
            if not path.exists() and not path.is_symlink():
                continue  # set aside with what it belongs to
            fault = _fault(path, folder)
            if fault is None:
                whole += path.is_file()
                continue
            aside.take(path)
            findings.append(Finding(path, fault, aside.verb, _again(settings, path, folder)))
    return whole, findings


def _fault(path: Path, folder: Path) -> str | None:
    asset = path.relative_to(folder).with_suffix("").parts[0]
    if path.is_dir():
        return "is a folder where a file should be" if path.suffix in (".parquet", ".json") else None
    if path.suffix == ".parquet":
        return _table_fault(path, asset)
    if path.suffix == ".json":
        return _record_fault(path, asset)
    if path.suffix == "" and not path.name.startswith("."):
        return "is a file where a folder should be"
    return None


def _table_fault(path: Path, asset: str) -> str | None:
    import polars as pl

    from setr_lib.tables import conform

    if (fault := file_fault(path)) is not None:
        return fault
    try:
        frame = pl.read_parquet(path, use_statistics=False)
    except Exception:
        return "is cut or overwritten"
    schema = _schemas().get(asset)
    if schema is not None and "pixels" in schema and "pixels" not in frame.columns:
        frame = frame.with_columns(pixels=pl.lit(""))  # a table of an earlier version of SETR
    try:
        if schema is not None:
            conform(frame, schema, asset)
    except SetrError:
        return "has other columns than SETR writes"
    needed = _needed().get(asset, set())
    return None if needed <= set(frame.columns) else "has other columns than SETR writes"


def _record_fault(path: Path, asset: str) -> str | None:
    from pydantic import ValidationError

    if (fault := json_fault(path)) is not None:
        return fault
    try:
        if (kind := _records().get(asset)) is not None and path.parent.name != "reranked_rankings":
            kind.model_validate_json(path.read_bytes())
    except ValidationError:
        return "lacks what SETR writes there"
    if asset in _WITH_TABLE and not path.with_suffix(".parquet").exists():
        return "is the record of a table that is not there"
    return None


def _schemas() -> dict[str, pl.Schema]:
    """The columns of the tables that have always had the same."""
    from setr_lib import tables

    return {
        "queries": tables.QUERIES,
        "gallery_images": tables.GALLERY,
        "training_images": tables.TRAINING_IMAGES,
        "reference_captions": tables.CAPTIONS,
        "query_compositions": tables.COMPOSITIONS,
        "coarse_rankings": tables.RANKINGS,
        "reranked_rankings": tables.RANKINGS,
        "reranker_pairs": tables.PAIRS,
        "training_triplets": tables.SPLIT_TRIPLETS,
        "training_triplets_images": tables.TRIPLET_IMAGES,
        "query_failures": tables.FAILURES,
        "imported_captions": tables.IMPORTED_CAPTIONS,
        "imported_compositions": tables.IMPORTED_COMPOSITIONS,
    }


def _needed() -> dict[str, set[str]]:
    """Columns that those tables have which earlier versions of SETR wrote with others."""
    return {
        "evaluation_report": {"dataset", "split", "metric", "value"},
        "leaderboard": {"dataset", "split", "metric", "value"},
        "reranking_fusion": {"mean_reciprocal_rank", "chosen"},
    }


def _records() -> dict[str, type[Record]]:
    from setr_lib import records

    return {
        "queries": records.QueriesRecord,
        "gallery_images": records.GalleryRecord,
        "gallery_embeddings": records.EmbeddingsRecord,
        "training_embeddings": records.EmbeddingsRecord,
        "reference_captions": records.TextRecord,
        "query_compositions": records.TextRecord,
        "coarse_rankings": records.CoarseRecord,
        "evaluation_report": records.ReportRecord,
        "reranker_pairs": records.PairsRecord,
        "training_triplets": records.TripletsRecord,
        "reranker_adapter": records.TrainedRecord,
        "registered_reranker": records.RegisteredRecord,
        "promoted_reranker": records.PromotedRecord,
    }


def _again(settings: Settings, path: Path, folder: Path) -> str:
    below = path.relative_to(folder)
    asset = below.with_suffix("").parts[0]
    if folder.name == COMPARISONS or asset == COMPARISONS:
        return "compare again: `setr compare`"
    if asset.startswith(_IMPORTED):
        what = asset.removeprefix(_IMPORTED)
        return f"import them again from their file: `setr {what} import FILE`; no run makes them"
    partition = below.parts[1].partition(".")[0] if len(below.parts) > 1 else None
    return f"materialize {_MADE_BY.get(asset, asset)!r} again, {or_run_everything(settings, partition)}"


def _all(settings: Settings) -> str:
    return f"materialize everything again, {or_run_everything(settings)}"
