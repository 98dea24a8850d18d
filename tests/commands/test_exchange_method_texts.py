"""``setr texts``: a method's own generated texts, carried, checked, and used where they came to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION
from setr_assets.partitions import range_tags
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import EmbeddingsRecord, TextRecord
from setr_lib.tables import GALLERY
from setr_lib.texts.exchange_files import time_text
from setr_lib.texts.kind import TextKind
from tests.commands import test_exchange_texts as carrying
from tests.commands.test_exchange_texts import (
    NAMES,
    SETTINGS,
    Setr,
    bench_at,
    make_place,
    materialise,
    rows_of,
    write,
)

setr = carrying.setr  # the fixture

PLUGIN = """
from setr_lib.methods.method import Method
from setr_lib.texts.answers import Answer, Phrases, Text
from setr_lib.texts.kind import TextKind

class Headline(Answer):
    headline: Text
    words: Phrases
    certain: float

class Setting(Answer):
    setting: Text

class ByTexts(Method):
    name = "by_texts"
    texts = (
        TextKind("headlines", task="headline", per="query", answer=Headline, prompt="?"),
        TextKind(
            "settings", task="setting", per="image", answer=Setting, prompt="?", variables=lambda r, t: {}
        ),
    )
    def scores(self, inputs): ...
"""
KEY = "cirr-val"
ANSWERS: dict[str, dict[str, Any]] = {
    "headlines": {"headline": "a dog", "words": ["dog", "run"], "certain": 0.5},
    "settings": {"setting": "a beach"},
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Two places whose settings name the method; the first has made its texts."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = []
    for name in ("here", "there"):
        path = make_place(tmp_path / name)
        (path.parent / "texts_plugin.py").write_text(PLUGIN, encoding="utf-8")
        methods = '[coarse]\nstrategies = ["intersection", "texts_plugin:ByTexts"]\n'
        path.write_text(SETTINGS + methods, encoding="utf-8")
        found.append(path)
    make(found[0])
    yield found[0], found[1]
    sys.modules.pop("texts_plugin", None)


def kinds_of(context: PipelineContext) -> dict[str, TextKind]:
    return {kind.name: kind for kind in context.methods.get("by_texts").texts}


def make(config: Path, text: str = "made here", made_at: float = 1.5e9, status: str = "ok") -> None:
    """The tables as a run of ``method_texts`` leaves them."""
    materialise(config)
    context = bench_at(config)
    origin = {"status": status, "detail": "", "model": "ours", "prompt_hash": "p"}
    ids = {"headlines": ["7", "8"], "settings": NAMES[:2]}
    for name, kind in kinds_of(context).items():
        field = next(iter(kind.fields))
        rows = [
            {kind.key: each, **ANSWERS[name], field: f"{text} {each}", **origin, "detail": ""}
            for each in ids[name]
        ]
        asset = context.tables.method_texts(KEY, name)
        path = context.tables.write(asset, pl.DataFrame(rows, schema=kind.schema), kind.schema)
        os.utime(path, (made_at, made_at))


def test_an_export_holds_what_is_needed_to_check_it(places: tuple[Path, Path], setr: Setr) -> None:
    status, out, err = setr(places[0], "texts", "export", "headlines", "cirr-val")
    assert status == 0 and "2 headlines exported" in err
    (first, _) = rows_of(out)
    pictures = dict(
        bench_at(places[0]).tables.read("gallery_images", GALLERY, KEY)["image_id", "fingerprint"].rows()
    )
    assert first == {
        "dataset": "cirr",
        "split": "val",
        "query_id": "7",
        "kind": "headlines",
        "text": {"headline": "made here 7", "words": ["dog", "run"], "certain": 0.5},
        "model": "ours",
        "prompt_hash": "p",
        "reference_id": NAMES[0],
        "modification": "edit 0",
        "fingerprint": pictures[NAMES[0]],
        "made_at": time_text(1.5e9),
    }
    first = rows_of(setr(places[0], "texts", "export", "settings")[1])[0]
    assert list(first) == [
        "dataset", "image_id", "kind", "text", "model", "prompt_hash", "fingerprint", "made_at"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["headlines", "settings"])
def test_what_one_place_exports_another_imports_and_exports_alike(
    places: tuple[Path, Path],
    setr: Setr,
    tmp_path: Path,
    kind: str,
) -> None:
    here, there = places
    file = tmp_path / "carried.jsonl"
    assert setr(here, "texts", "export", kind, "--output", file)[:2] == (0, "")
    status, out, _ = setr(there, "texts", "import", kind, file)
    assert status == 0 and "2 new, 0 replaced" in out and "next run on (method_texts)" in out
    assert "run cirr-val`" in out
    assert setr(there, "texts", "export", kind)[1] == file.read_text(encoding="utf-8")
    assert "0 new, 0 replaced, 2 as they were" in setr(there, "texts", "import", kind, file)[1]
    make(there, text="made later", made_at=1.6e9)
    assert setr(there, "texts", "export", kind)[1] == file.read_text(encoding="utf-8"), (
        "imported rows go first"
    )
    newer = tmp_path / "newer.jsonl"
    make(here, text="newer", made_at=1.7e9)
    setr(here, "texts", "export", kind, "--output", newer)
    assert "2 replaced" in setr(there, "texts", "import", kind, newer)[1]
    assert "2 left aside" in setr(there, "texts", "import", kind, file)[1]
    assert "2 replaced" in setr(there, "texts", "import", kind, file, "--overwrite")[1]


def test_failures_are_not_exported(places: tuple[Path, Path], setr: Setr) -> None:
    make(places[0], status="derived")
    for kind in ANSWERS:
        status, out, err = setr(places[0], "texts", "export", kind)
        assert (status, out) == (1, "") and "materialize 'method_texts'" in err


def test_a_kind_that_no_method_brings_is_answered_with_the_known_ones(
    places: tuple[Path, Path],
    setr: Setr,
) -> None:
    status, _, err = setr(places[0], "texts", "export", "captions")
    assert status == 1 and "headlines, settings" in err and "setr captions" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "settings"}, "'kind' is 'settings', not 'headlines'"),
        ({"text": {"headline": "a dog", "words": []}}, "'text': keys missing ['certain']"),
        ({"text": {"headline": " ", "words": [], "certain": 1}}, "'text': headline is empty"),
        ({"text": {"headline": "a\x00b", "words": [], "certain": 1}}, "NUL character"),
        ({"query_id": "9"}, "not a query of any configured split"),
        ({"reference_id": NAMES[5]}, "was made for reference"),
        ({"modification": "another"}, "was made for the text"),
        ({"fingerprint": "0" * 32}, "was made from another picture"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"dataset": "other"}, "not a query of any configured split of 'other'"),
    ],
)
def test_a_row_that_is_not_right_is_refused_and_nothing_imported(
    places: tuple[Path, Path],
    setr: Setr,
    tmp_path: Path,
    change: dict[str, Any],
    words: str,
) -> None:
    good = {"dataset": "cirr", "query_id": "7", "kind": "headlines", "text": ANSWERS["headlines"]}
    good |= {"model": "m", "prompt_hash": "p"}
    file = write(tmp_path / "rows.jsonl", good, {**good, "query_id": "8", **change})
    status, _, err = setr(places[1], "texts", "import", "headlines", file)
    assert status == 1 and words in err and "nothing was imported" in err
    assert not (bench_at(places[1]).settings.storage_root / "tables" / "imported_texts").exists()
    twice = write(tmp_path / "twice.jsonl", good, good)
    assert "7" in setr(places[1], "texts", "import", "headlines", twice)[2]


def run_method_texts(config: Path) -> dict[str, Any]:
    context = bench_at(config)
    context.tables.write_record("gallery_embeddings", EmbeddingsRecord(content=""), KEY)
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(context.settings)
            .resolve_job_def(EVALUATION)
            .execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("method_texts")],
                tags=range_tags([KEY]),
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        )
        events = result.get_asset_materialization_events()
        assert result.success == bool(events)
        return {
            name: value.value for event in events for name, value in event.materialization.metadata.items()
        }


def test_a_run_uses_imported_rows_and_loads_no_model(
    places: tuple[Path, Path],
    setr: Setr,
    tmp_path: Path,
) -> None:
    here, there = places
    for kind in ANSWERS:
        file = tmp_path / f"{kind}.jsonl"
        setr(here, "texts", "export", kind, "--output", file)
        setr(there, "texts", "import", kind, file)
    materialise(there)
    metadata = run_method_texts(there)  # the settings' model is not on this machine: it cannot be loaded
    context = bench_at(there)
    for name, kind in kinds_of(context).items():
        asset = context.tables.method_texts(KEY, name)
        table = context.tables.read(asset, kind.schema)
        assert table[next(iter(kind.fields))].to_list() == [f"made here {each}" for each in table[kind.key]]
        assert set(table.select("status", "detail", "model").rows()) == {("ok", "imported", "ours")}
        assert context.tables.read_record(asset, TextRecord) == TextRecord(model="ours", prompt_hash="p")
        assert metadata[f"{name}: imported"] == table.height == 2


def test_a_row_whose_picture_has_changed_is_left_aside_and_counted(
    places: tuple[Path, Path],
    setr: Setr,
    tmp_path: Path,
) -> None:
    from setr_lib.tables import QUERIES
    from setr_lib.texts.imported import texts_with

    here, there = places
    file = tmp_path / "settings.jsonl"
    setr(here, "texts", "export", "settings", "--output", file)
    setr(there, "texts", "import", "settings", file)
    materialise(there)
    context = bench_at(there)
    kind = kinds_of(context)["settings"]
    gallery = context.tables.read("gallery_images", GALLERY, KEY)
    references = context.tables.read("queries", QUERIES, KEY)["reference_id"].implode()
    rows = gallery.filter(pl.col("image_id").is_in(references)).with_columns(
        fingerprint=pl.when(image_id=NAMES[0]).then(pl.lit("f" * 32)).otherwise("fingerprint")
    )
    asked: list[str] = []

    def ask(rest: pl.DataFrame) -> pl.DataFrame:
        asked.extend(rest["image_id"])
        row = {"image_id": NAMES[0], "setting": "new", "status": "ok", "detail": "", "model": "m"}
        return pl.DataFrame([{**row, "prompt_hash": "q"}], schema=kind.schema)

    filled = texts_with(kind, context.imported_texts(kind, "cirr", KEY), rows, rows, ask)
    assert (asked, filled.imported, filled.unfit) == ([NAMES[0]], 1, 1)
    assert filled.frame["setting"].to_list() == ["new", f"made here {NAMES[1]}"]
