"""``setr captions`` and ``setr compositions``: carried from one place to another, checked, and used there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.datasets import evaluation_sets, inspect_gallery, load_gallery, load_queries
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pixel_rules import picture_identity
from setr_lib.settings import load_settings
from setr_lib.tables import CAPTIONS, COMPOSITIONS, GALLERY, QUERIES
from setr_lib.texts.exchange_files import time_text
from setr_lib.texts.generation import CACHE_KIND, caption_key, composition_key

NAMES = [f"dev-{number}-img0" for number in range(8)]
SETTINGS = '[datasets.cirr]\nkind = "cirr"\nroot = "cirr"\nsplits = ["val"]\n'
Setr = Callable[..., tuple[int, str, str]]


def make_place(folder: Path, colour: str = "teal") -> Path:
    """A CIRR data set of two queries with its images, and settings; the path of these."""
    root = folder / "cirr"
    for name in ("captions", "image_splits", "dev"):
        (root / name).mkdir(parents=True)
    (root / "image_splits/split.rc2.val.json").write_text(json.dumps({n: f"./dev/{n}.png" for n in NAMES}))
    rows = [
        {
            "pairid": 7 + number,
            "reference": NAMES[number],
            "target_hard": NAMES[number + 1],
            "caption": f"edit {number}",
            "img_set": {"id": 1, "members": NAMES[:6]},
        }
        for number in range(2)
    ]
    (root / "captions/cap.rc2.val.json").write_text(json.dumps(rows))
    for number, name in enumerate(NAMES):
        Image.new("RGB", (4, 4 + number), colour).save(root / f"dev/{name}.png")
    path = folder / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return make_place(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return make_place(tmp_path / "there")


@pytest.fixture
def setr(capsys: pytest.CaptureFixture[str]) -> Setr:
    """``setr(config, ...)``: exit status, standard output, standard error."""

    def run(config: Path, *arguments: object) -> tuple[int, str, str]:
        status = main(["--config", str(config), *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def bench_at(config: Path) -> PipelineContext:
    return PipelineContext(load_settings(config))


def materialise(config: Path, made_at: float = 1_500_000_000.0, text: str = "made here") -> None:
    """The tables and the cache as a run of the assets leaves them, with answers given at ``made_at``."""
    context = bench_at(config)
    queries = load_queries(context.settings, "cirr-val")
    gallery = inspect_gallery(load_gallery(context.settings, "cirr-val"))
    context.tables.write("queries", queries, QUERIES, "cirr-val")
    context.tables.write("gallery_images", gallery, GALLERY, "cirr-val")
    pictures = dict(gallery.select("image_id", "fingerprint").iter_rows())
    limit, keys = context.settings.models.judge.max_new_tokens, []
    captions, composed = [], []
    for query in queries.iter_rows(named=True):
        image = query["reference_id"]
        origin = {"status": "ok", "detail": "", "model": "ours", "prompt_hash": "p"}
        captions.append(
            {"image_id": image, "caption": f"{text} {image}", **origin, "fingerprint": pictures[image]}
        )
        composed.append(
            {
                "query_id": query["query_id"],
                "keep": ["dog"],
                "add": [],
                "remove": [],
                "drop": ["snow"],
                "target_caption": f"{text} {query['query_id']}",
                **origin,
            }
        )
        shown = picture_identity(pictures[image], "")
        keys.append(caption_key("ours", limit, "p", shown))
        keys.append(composition_key("ours", limit, "p", shown, query["modification"], query["captions"]))
    context.tables.write("reference_captions", pl.DataFrame(captions, schema=CAPTIONS), CAPTIONS, "cirr-val")
    made = pl.DataFrame(composed, schema=COMPOSITIONS)
    context.tables.write("query_compositions", made, COMPOSITIONS, "cirr-val")
    cache = context.cache(CACHE_KIND)
    cache.put_many(dict.fromkeys(keys, "answer"))
    with cache._connection as connection:
        connection.execute(f"UPDATE {CACHE_KIND} SET made_at = ?", [made_at])


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def caption(**change: Any) -> dict[str, Any]:
    row = {"dataset": "cirr", "image_id": NAMES[0], "caption": "A dog.", "model": "m", "prompt_hash": "p"}
    return row | change


def test_an_export_holds_what_is_needed_to_check_it(here: Path, setr: Setr) -> None:
    materialise(here)
    status, out, err = setr(here, "captions", "export")
    assert status == 0 and "2 captions exported" in err
    first = rows_of(out)[0]
    assert list(first) == ["dataset", "image_id", "caption", "model", "prompt_hash", "fingerprint", "made_at"]
    assert first["made_at"] == "2017-07-14T02:40:00.000000Z"
    status, out, err = setr(here, "compositions", "export", "cirr-val")
    assert status == 0 and "2 compositions exported" in err
    first = rows_of(out)[0]
    assert (first["dataset"], first["split"], first["query_id"]) == ("cirr", "val", "7")
    assert first["composition"]["drop"] == ["snow"]
    assert (first["reference_id"], first["modification"]) == (NAMES[0], "edit 0")
    assert len(first["fingerprint"]) == 32 and first["made_at"].startswith("2017")


@pytest.mark.parametrize("what", ["captions", "compositions"])
def test_what_one_place_exports_another_imports_and_exports_alike(
    here: Path, there: Path, setr: Setr, tmp_path: Path, what: str
) -> None:
    materialise(here)
    file = tmp_path / "out" / "carried.jsonl"
    status, out, _ = setr(here, what, "export", "--output", file)
    assert (status, out) == (0, "")
    status, out, _ = setr(there, what, "import", file)
    assert status == 0
    assert "2 new, 0 replaced, 0 as they were" in out and "used from the next run on" in out
    assert setr(there, what, "export")[1] == file.read_text(encoding="utf-8")
    assert "0 new, 0 replaced, 2 as they were" in setr(there, what, "import", file)[1]
    assert "0 new, 0 replaced, 2 as they were" in setr(here, what, "import", file)[1], "the model's own rows"


def test_failures_are_not_exported(here: Path, setr: Setr) -> None:
    materialise(here)
    context = bench_at(here)
    for asset, schema in (("reference_captions", CAPTIONS), ("query_compositions", COMPOSITIONS)):
        table = context.tables.read(asset, schema, "cirr-val")
        context.tables.write(asset, table.with_columns(status=pl.lit("fallback")), schema, "cirr-val")
    for what in ("captions", "compositions"):
        status, out, err = setr(here, what, "export")
        assert (status, out) == (1, "")
        assert "materialize" in err


def test_newer_rows_here_stay_unless_asked(here: Path, there: Path, setr: Setr, tmp_path: Path) -> None:
    materialise(here, made_at=1_500_000_000.0, text="older")
    materialise(there, made_at=1_600_000_000.0, text="newer")
    for what in ("captions", "compositions"):
        old, new = tmp_path / f"{what}.old", tmp_path / f"{what}.new"
        setr(here, what, "export", "--output", old)
        setr(there, what, "export", "--output", new)
        status, out, _ = setr(there, what, "import", old)
        assert status == 0
        assert "0 new, 0 replaced, 0 as they were" in out and "2 left aside" in out and "--overwrite" in out
        assert setr(there, what, "export")[1] == new.read_text()
        assert "2 replaced" in setr(here, what, "import", new)[1]
        assert setr(here, what, "export")[1] == new.read_text()
        assert "2 left aside" in setr(here, what, "import", old)[1], "also among imported rows"
        assert "2 replaced" in setr(there, what, "import", old, "--overwrite")[1]
        assert setr(there, what, "export")[1] == old.read_text()


def test_without_a_kept_answer_a_row_is_as_old_as_its_table(here: Path, setr: Setr) -> None:
    materialise(here)
    context = bench_at(here)
    context.settings.cache_path.unlink()
    os.utime(context.settings.table_path("reference_captions", "cirr-val"), (1_400_000_000, 1_400_000_000))
    assert {row["made_at"] for row in rows_of(setr(here, "captions", "export")[1])} == {time_text(1.4e9)}


def test_a_refused_file_changes_nothing(here: Path, setr: Setr, tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.jsonl", caption(), caption(image_id="zebra"), caption(image_id=NAMES[1], caption="")
    )
    status, out, err = setr(here, "captions", "import", file)
    assert (status, out) == (1, "")
    assert "2 rows cannot be taken, so nothing was imported" in err
    assert f"{file}: line 2: 'image_id' names the unknown image 'zebra'" in err
    assert f"{file}: line 3: 'caption' is empty" in err
    assert bench_at(here).imported_captions("cirr").is_empty()


def test_unknown_queries_and_splits_are_refused(here: Path, setr: Setr, tmp_path: Path) -> None:
    parts = {name: [] for name in ("keep", "add", "remove", "drop")} | {"target_caption": "a dog"}
    row = {"dataset": "cirr", "split": "val", "query_id": "7", "composition": parts, "model": "m"}
    row |= {"prompt_hash": "p"}
    file = write(tmp_path / "c.jsonl", row, row | {"query_id": "1"}, row | {"split": "test1"})
    status, _, err = setr(here, "compositions", "import", file)
    assert status == 1
    assert "line 2: 'query_id' '1' is not a query of cirr val" in err
    assert "line 3: split 'test1' of data set 'cirr' is not configured" in err


def test_another_picture_is_refused_unless_asked(here: Path, tmp_path: Path, setr: Setr) -> None:
    materialise(here)
    elsewhere = make_place(tmp_path / "elsewhere", colour="red")
    for what in ("captions", "compositions"):
        file = tmp_path / what
        setr(here, what, "export", "--output", file)
        status, _, err = setr(elsewhere, what, "import", file)
        assert status == 1 and "made from another picture" in err and "--other-pictures" in err
        status, out, _ = setr(elsewhere, what, "import", file, "--other-pictures")
        assert status == 0 and "2 new" in out


def test_rows_of_another_name_are_taken_where_it_is_given(here: Path, setr: Setr, tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", caption(dataset="CIRR (paper)"))
    status, _, err = setr(here, "captions", "import", file)
    assert status == 1 and "'CIRR (paper)' is not configured" in err
    assert setr(here, "captions", "import", file, "--dataset", "cirr")[0] == 0


@pytest.mark.parametrize("what", ["captions", "compositions"])
def test_the_command_is_blamed_for_a_wrong_name_not_each_row(
    here: Path, setr: Setr, tmp_path: Path, what: str
) -> None:
    file = write(tmp_path / "in.jsonl", caption(), caption())
    status, _, err = setr(here, what, "import", file, "--dataset", "cirr-val")
    assert status == 1
    words = "there is no such data set in the settings, only cirr; did you mean 'cirr'?"
    assert err == f"setr: --dataset 'cirr-val': {words}\n"
    status, _, err = setr(here, what, "import", tmp_path / "none.jsonl")
    assert (status, err) == (1, f"setr: {tmp_path / 'none.jsonl'}: there is no such file\n")


def test_a_changed_picture_makes_room_for_a_new_caption(here: Path, setr: Setr, tmp_path: Path) -> None:
    materialise(here)
    exported = rows_of(setr(here, "captions", "export")[1])
    newest = [row | {"caption": "imported", "made_at": "2018-01-01T00:00:00Z"} for row in exported]
    assert "2 replaced" in setr(here, "captions", "import", write(tmp_path / "c.jsonl", *newest))[1]
    Image.new("RGB", (9, 9), "red").save(here.parent / f"cirr/dev/{NAMES[0]}.png")
    materialise(here, text="again")
    captions = {row["image_id"]: row["caption"] for row in rows_of(setr(here, "captions", "export")[1])}
    assert captions == {NAMES[0]: f"again {NAMES[0]}", NAMES[1]: "imported"}


def test_nothing_to_export_says_what_to_do(here: Path, setr: Setr) -> None:
    status, out, err = setr(here, "captions", "export", "cirr")
    assert (status, out) == (1, "")
    assert "no captions of cirr yet: materialize 'reference_captions' (" in err
    assert "run cirr --until reference_captions`), or import some" in err
    status, _, err = setr(here, "compositions", "export", "coco")
    assert status == 1 and "there is cirr, cirr-val" in err


def test_an_output_that_cannot_be_written_is_an_error_in_words(
    here: Path, setr: Setr, tmp_path: Path
) -> None:
    materialise(here)
    (tmp_path / "folder").mkdir()
    status, _, err = setr(here, "captions", "export", "--output", tmp_path / "folder")
    assert status == 1 and "cannot be written" in err
    assert not list(tmp_path.glob(".folder*"))


@pytest.mark.parametrize(
    "arguments",
    [["captions"], ["captions", "import"], ["compositions", "nonsense"], ["captions", "export", "a", "b"]],
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str], here: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--config", str(here), *arguments])
    assert stopped.value.code == 2


def test_without_cocos_list_the_images_that_queries_name_are_known(tmp_path: Path, setr: Setr) -> None:
    root = tmp_path / "circo"
    (root / "annotations").mkdir(parents=True)
    query = {"reference_img_id": 11, "relative_caption": "is larger", "id": 0, "target_img_id": 12}
    truths = {"gt_img_ids": [12, 14], "semantic_aspects": ["addition"]}
    (root / "annotations/val.json").write_text(json.dumps([query | truths]))
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.circo]\nkind = "circo"\nroot = "circo"\nsplits = ["val"]\n')
    row = caption(dataset="circo", image_id="11")
    assert setr(config, "captions", "import", write(tmp_path / "c.jsonl", row))[0] == 0
    unknown = write(tmp_path / "d.jsonl", row | {"image_id": "99"})
    status, _, err = setr(config, "captions", "import", unknown)
    assert status == 1 and "unknown image '99'" in err


def test_sets_that_share_a_data_set_share_its_captions(tmp_path: Path, setr: Setr) -> None:
    config = make_place(tmp_path / "here")
    assert [each.dataset for each in evaluation_sets(load_settings(config))] == ["cirr"]
    file = write(tmp_path / "c.jsonl", caption(), caption(image_id=NAMES[7]))
    assert "captions of cirr: 2 new" in setr(config, "captions", "import", file)[1]
    assert bench_at(config).imported_captions("cirr")["image_id"].to_list() == [NAMES[0], NAMES[7]]
