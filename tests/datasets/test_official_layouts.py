"""The three official layouts: what is read from well-formed files, and what is refused with file, row and
reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from setr_lib.datasets import DatasetError, evaluation_set, load_gallery, load_queries
from setr_lib.settings import Settings
from setr_lib.tables import QUERIES

Build = Callable[..., Settings]
Edit = Callable[[Any], Any]

CIRR = "captions/cap.rc2.val.json"
CIRR_SPLIT = "image_splits/split.rc2.val.json"
FASHION = "captions/cap.shirt.val.json"
FASHION_SPLIT = "image_splits/split.shirt.val.json"
CIRCO = "annotations/val.json"
COCO = "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


def edit(path: Path, change: Edit) -> None:
    """Rewrite a JSON file; ``change`` works in place or returns the new value."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))


def put(*keys: Any) -> Edit:
    """An edit that sets the value under ``keys[:-1]`` to ``keys[-1]``."""
    *way, last, new = keys

    def change(value: Any) -> None:
        for key in way:
            value = value[key]
        value[last] = new

    return change


def drop(*keys: Any) -> Edit:
    """An edit that removes the value under ``keys``."""
    *way, last = keys

    def change(value: Any) -> None:
        for key in way:
            value = value[key]
        del value[last]

    return change


def refusal(build: Build, kind: str, root: Path, **options: Any) -> DatasetError:
    with pytest.raises(DatasetError) as caught:
        load_queries(build(kind, root, splits=["val"], **options), f"{kind}-val")
    return caught.value


def test_cirr_is_read_as_published(settings_for: Build, cirr_root: Path) -> None:
    build = settings_for("cirr", cirr_root, splits=["val", "test1"], image_root="elsewhere")
    queries = load_queries(build, "cirr-val")
    assert queries.schema == QUERIES
    first = queries.row(0, named=True)
    assert first["query_id"] == "7"
    assert first["reference_id"] == "dev-0-img0"
    assert first["modification"] == "edit 7"
    assert first["captions"] == ["edit 7 "]
    assert first["target_ids"] == ["dev-2-img0"]
    assert first["subset_ids"] == [f"dev-{number}-img0" for number in (1, 2, 3, 4, 5)]
    assert first["gallery"] == "all"
    gallery = load_gallery(build, "cirr-val")
    assert gallery.height == 8
    assert gallery.row(0) == ("dev-0-img0", str(build.base_dir / "elsewhere/dev/dev-0-img0.png"), ["all"])
    hidden = load_queries(build, "cirr-test1")
    assert hidden["target_ids"].to_list() == [[], []]
    assert hidden["subset_ids"].list.len().to_list() == [5, 5]


def test_fashioniq_is_read_as_published(settings_for: Build, fashioniq_root: Path) -> None:
    (fashioniq_root / "images").mkdir()
    (fashioniq_root / "images" / "S1.jpg").touch()
    build = settings_for("fashioniq", fashioniq_root, splits=["val", "test"])
    queries = load_queries(build, "fashioniq-val")
    expected = ["dress-0", "dress-1", "shirt-0", "shirt-1", "toptee-0", "toptee-1"]
    assert queries["query_id"].to_list() == expected
    shirt = queries.row(2, named=True)
    assert shirt["captions"] == [" is red.", "has no sleeves?"]
    assert shirt["modification"] == "is red and has no sleeves"
    assert queries["modification"][3] == "longer"
    assert (shirt["reference_id"], shirt["target_ids"], shirt["gallery"]) == ("S0", ["S1"], "shirt")
    gallery = load_gallery(build, "fashioniq-val")
    assert dict(gallery.select("image_id", "galleries").iter_rows())["BOTH"] == ["shirt", "toptee"]
    paths = dict(gallery.select("image_id", "path").iter_rows())
    assert paths["S1"] == str(fashioniq_root / "images/S1.jpg")
    assert paths["S0"] == str(fashioniq_root / "images/S0.png")
    assert load_queries(build, "fashioniq-test")["target_ids"].list.len().sum() == 0


def test_fashioniq_val_gallery_is_references_and_targets(settings_for: Build, fashioniq_root: Path) -> None:
    build = settings_for("fashioniq", fashioniq_root, splits=["val", "test"], gallery="val")
    gallery = load_gallery(build, "fashioniq-val")
    assert gallery["image_id"].to_list() == ["D0", "D1", "S0", "S1", "T0", "T1"]
    with pytest.raises(DatasetError, match="hidden: use gallery = 'original'"):
        load_gallery(build, "fashioniq-test")


def test_circo_is_read_as_published(settings_for: Build, circo_root: Path) -> None:
    build = settings_for("circo", circo_root, splits=["val", "test"])
    query = load_queries(build, "circo-val").row(0, named=True)
    assert query["query_id"] == "0"
    assert query["reference_id"] == "11"
    assert query["modification"] == "is larger"
    assert query["target_ids"] == ["12", "14"]
    assert query["aspects"] == ["addition", "negation"]
    assert "dog" not in str(query)  # shared_concept would leak
    gallery = load_gallery(build, "circo-test")
    assert gallery.row(0)[0] == "10"
    assert gallery.row(0)[1].endswith("COCO2017_unlabeled/unlabeled2017/000000000010.jpg")
    assert load_queries(build, "circo-test")["target_ids"].to_list() == [[]]


def test_circo_with_shared_concept_has_other_queries_and_says_so(
    settings_for: Build, circo_root: Path
) -> None:
    both = ["val", "test"]
    official = settings_for("circo", circo_root, splits=both, options={"query": "official"})
    asked = settings_for("circo", circo_root, splits=both, options={"query": "with_shared_concept"})
    plain, found = load_queries(official, "circo-val"), load_queries(asked, "circo-val")
    assert set(plain["modification"]) == {"is larger"}
    assert set(found["modification"]) == {"find a dog but is larger"}
    assert found.drop("modification").equals(
        plain.drop("modification")
    )  # captions are the file's, for labels
    assert load_queries(asked, "circo-test")["modification"].to_list() == ["find a dog but is larger"]
    for asking, reasons in ((official, []), (asked, ["query contains shared_concept"])):
        each = evaluation_set(asking, "circo-val")
        assert each.benchmark.caveats(each) == reasons


@pytest.mark.parametrize("query", ["shared_concept", 3, ["with_shared_concept"]])
def test_another_query_of_circo_is_refused_in_words(
    settings_for: Build, circo_root: Path, query: object
) -> None:
    with pytest.raises(DatasetError, match=r"query = .* is not known: use 'official'.*'with_shared_concept'"):
        evaluation_set(settings_for("circo", circo_root, options={"query": query}), "circo-val")


def test_circo_without_a_shared_concept_is_named_where_it_is_asked_for(
    settings_for: Build, circo_root: Path
) -> None:
    file = circo_root / "annotations/val.json"
    rows = json.loads(file.read_text())
    del rows[1]["shared_concept"]
    file.write_text(json.dumps(rows))
    assert load_queries(settings_for("circo", circo_root), "circo-val").height == 2
    asked = settings_for("circo", circo_root, options={"query": "with_shared_concept"})
    with pytest.raises(DatasetError, match=r"val\.json.*row 1.*shared_concept"):
        load_queries(asked, "circo-val")


def test_circo_without_cocos_list_reads_queries_but_has_no_gallery(
    settings_for: Build, circo_root: Path
) -> None:
    (circo_root / COCO).unlink()
    build = settings_for("circo", circo_root)
    assert load_queries(build, "circo-val").height == 2
    with pytest.raises(DatasetError, match=re.escape("image_info_unlabeled2017.zip")) as caught:
        load_gallery(build, "circo-val")
    assert caught.value.file == circo_root / COCO


CIRR_FAULTS: list[tuple[str, Edit, str, str]] = [
    (CIRR, put(1, "pairid", 7), "row 1", "duplicate pairid '7': row 0"),
    (CIRR, put(1, "pairid", "3"), "row 1", "'pairid' must be a whole number"),
    (CIRR, put(1, "pairid", True), "row 1", "'pairid' must be a whole number"),
    (CIRR, put(1, "pairid", 3.0), "row 1", "'pairid' must be a whole number"),
    (CIRR, put(1, "pairid", 10**30), "row 1", "'pairid' must be a whole number"),
    (CIRR, put(1, "pairid", -1), "row 1", "'pairid' must be a whole number"),
    (CIRR, drop(1, "caption"), "row 1", "the key 'caption' is missing"),
    (CIRR, put(1, "caption", None), "pairid 3", "'caption' must be text, not None"),
    (CIRR, put(1, "caption", "\ud800"), "pairid 3", "'caption' .*lone surrogate"),
    (
        CIRR,
        put(1, "reference", "dev-99-img0"),
        "pairid 3",
        "'reference' names the unknown image 'dev-99-img0'",
    ),
    (CIRR, put(1, "target_hard", "dev-99-img0"), "pairid 3", "'target_hard' names the unknown image"),
    (CIRR, put(1, "target_hard", "dev-5-img0"), "pairid 3", "'target_hard' is the reference"),
    (CIRR, put(1, "target_hard", "dev-0-img0"), "pairid 3", "not among the members"),
    (CIRR, put(1, "reference", "dev-0-img0"), "pairid 3", "not among the members"),
    (CIRR, drop(1, "target_hard"), "pairid 3", "the key 'target_hard' is missing"),
    (CIRR, put(1, "img_set", []), "pairid 3", "'img_set' must be an object"),
    (CIRR, put(1, "img_set", "members", "dev"), "pairid 3, img_set", "'members' must be a list"),
    (CIRR, drop(1, "img_set", "members", 0), "pairid 3, img_set", "must have 6 entries, not 5"),
    (CIRR, put(1, "img_set", "members", 0, "dev-7-img0"), "pairid 3, img_set", "'dev-7-img0' twice"),
    (CIRR, put(1, "img_set", "members", 0, "nowhere"), "pairid 3, img_set", "the unknown image 'nowhere'"),
    (CIRR, put(1, ["a"]), "row 1", "must be an object"),
    (CIRR, lambda value: {"rows": value}, "", "must be a list of objects"),
    (CIRR_SPLIT, put("dev-0-img0", "/etc/passwd"), "image 'dev-0-img0'", "leaves the data folder"),
    (CIRR_SPLIT, put("dev-0-img0", "./dev/../../x.png"), "image 'dev-0-img0'", "leaves the data folder"),
    (CIRR_SPLIT, put("dev-0-img0", "dev\\..\\x.png"), "image 'dev-0-img0'", "leaves the data folder"),
    (CIRR_SPLIT, put("dev-0-img0", "C:x.png"), "image 'dev-0-img0'", "leaves the data folder"),
    (CIRR_SPLIT, put("dev-0-img0", 4), "image 'dev-0-img0'", "must be text, not 4"),
    (CIRR_SPLIT, put("../up", "dev/x.png"), "image '../up'", "leaves the data folder"),
    (CIRR_SPLIT, put("", "dev/x.png"), "image ''", "names no file"),
    (CIRR_SPLIT, lambda value: list(value), "", "must be an object from image name to path"),
]
FASHION_FAULTS: list[tuple[str, Edit, str, str]] = [
    (FASHION, put(1, "captions", ["one"]), "row 1", "'captions' must have 2 entries, not 1"),
    (FASHION, put(1, "captions", ["one", 2]), "row 1", "an entry of 'captions' must be text, not 2"),
    (FASHION, put(1, "captions", ["", " . "]), "row 1", "both 'captions' are empty"),
    (FASHION, put(1, "candidate", "S9"), "row 1", "'candidate' names the unknown image 'S9'"),
    (FASHION, put(1, "target", "S0"), "row 1", "'target' is the reference"),
    (FASHION, drop(1, "target"), "row 1", "the key 'target' is missing"),
    (FASHION, put(1, None), "row 1", "must be an object"),
    (FASHION_SPLIT, put(2, "S0"), "row 2", "duplicate image 'S0': row 0"),
    (FASHION_SPLIT, put(2, "../S2"), "row 2", "leaves the data folder"),
    (FASHION_SPLIT, put(2, "a/S2"), "row 2", "must be a plain name"),
    (FASHION_SPLIT, put(2, 2), "row 2", "must be text, not 2"),
    (FASHION_SPLIT, lambda value: {"S": 1}, "", "must be a list of image names"),
]
CIRCO_FAULTS: list[tuple[str, Edit, str, str]] = [
    (CIRCO, put(1, "id", 0), "row 1", "duplicate query id '0'"),
    (CIRCO, put(1, "id", "1"), "row 1", "'id' must be a whole number"),
    (CIRCO, put(1, "reference_img_id", 99), "id 1", "unknown image '99'"),
    (CIRCO, put(1, "reference_img_id", "11"), "id 1", "'reference_img_id' must be a whole number"),
    (CIRCO, put(1, "relative_caption", " "), "id 1", "'relative_caption' is empty"),
    (CIRCO, put(1, "gt_img_ids", [12, 12]), "id 1", "'gt_img_ids' holds 12 twice"),
    (
        CIRCO,
        put(1, "gt_img_ids", [12, ""]),
        "id 1",
        "'gt_img_ids' must be a whole number of at least 1, not ''",
    ),
    (CIRCO, put(1, "gt_img_ids", []), "id 1", "must be the first of 'gt_img_ids'"),
    (CIRCO, put(1, "gt_img_ids", [12, 99]), "id 1", "unknown image '99'"),
    (CIRCO, put(1, "gt_img_ids", [12, 11]), "id 1", "among its own ground truths"),
    (CIRCO, put(1, "target_img_id", 14), "id 1", "must be the first of 'gt_img_ids'"),
    (CIRCO, drop(1, "semantic_aspects"), "id 1", "the key 'semantic_aspects' is missing"),
    (CIRCO, put(1, "semantic_aspects", ["negation", "negation"]), "id 1", "'negation' twice"),
    (COCO, put("images", 1, "id", 10), "images, row 1", "duplicate image id 10"),
    (COCO, put("images", 1, "id", "11"), "images, row 1", "'id' must be a positive whole number"),
    (COCO, put("images", 1, "file_name", "../11.jpg"), "images, row 1", "leaves the data folder"),
    (COCO, drop("images", 1, "file_name"), "images, row 1", "the key 'file_name' is missing"),
    (COCO, put("images", 1, "image"), "images, row 1", "must be an object"),
    (COCO, put("images", {}), "", "a list of 'images'"),
]
FAULTS = [
    *(("cirr", *fault) for fault in CIRR_FAULTS),
    *(("fashioniq", *fault) for fault in FASHION_FAULTS),
    *(("circo", *fault) for fault in CIRCO_FAULTS),
]


@pytest.mark.parametrize(("kind", "name", "change", "row", "reason"), FAULTS)
def test_a_fault_is_refused_with_file_row_and_reason(
    settings_for: Build,
    request: pytest.FixtureRequest,
    kind: str,
    name: str,
    change: Edit,
    row: str,
    reason: str,
) -> None:
    root: Path = request.getfixturevalue(f"{kind}_root")
    edit(root / name, change)
    error = refusal(settings_for, kind, root)
    assert error.file == root / name
    assert row in (error.row or "")
    assert re.search(reason, error.reason)
    assert str(root / name) in str(error)


RAW_FAULTS = [
    (b"{", "not valid JSON"),
    (b"", "not valid JSON"),
    (b"\xff[]", "not UTF-8"),
    (b'[{"pairid": NaN}]', "NaN is not a JSON number"),
    (b'[{"pairid": 1, "pairid": 2}]', "'pairid' occurs twice"),
    (b"[" * 100_000, "not valid JSON"),
    (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
]


@pytest.mark.parametrize(("content", "reason"), RAW_FAULTS)
def test_files_that_are_no_json_are_refused(
    settings_for: Build, cirr_root: Path, content: bytes, reason: str
) -> None:
    (cirr_root / CIRR).write_bytes(content)
    error = refusal(settings_for, "cirr", cirr_root)
    assert error.file == cirr_root / CIRR
    assert reason in error.reason


@pytest.mark.parametrize(("kind", "name"), [("cirr", CIRR), ("fashioniq", FASHION), ("circo", CIRCO)])
def test_missing_files_are_named(
    settings_for: Build, request: pytest.FixtureRequest, kind: str, name: str
) -> None:
    root: Path = request.getfixturevalue(f"{kind}_root")
    (root / name).unlink()
    error = refusal(settings_for, kind, root)
    assert error.file == root / name
    assert "no such file" in error.reason


def test_a_folder_in_place_of_a_file_is_refused(settings_for: Build, cirr_root: Path) -> None:
    (cirr_root / CIRR).unlink()
    (cirr_root / CIRR).mkdir()
    assert "is a folder, not a file" in refusal(settings_for, "cirr", cirr_root).reason


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [place for key, inner in entries for place in ((*way, key), *places(inner, (*way, key)))]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cirr", CIRR),
        ("cirr", CIRR_SPLIT),
        ("fashioniq", FASHION),
        ("fashioniq", FASHION_SPLIT),
        ("circo", CIRCO),
        ("circo", COCO),
    ],
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_is_read_or_refused_never_a_crash(
    settings_for: Build, request: pytest.FixtureRequest, kind: str, name: str, data: st.DataObject
) -> None:
    root: Path = request.getfixturevalue(f"{kind}_root")
    original = (root / name).read_text()
    value = json.loads(original)
    place = data.draw(st.sampled_from(places(value)))
    change = drop(*place) if data.draw(st.booleans()) else put(*place, data.draw(JSON_VALUES))
    build = settings_for(kind, root)
    try:
        edit(root / name, change)
        queries = load_queries(build, f"{kind}-val")
        gallery = load_gallery(build, f"{kind}-val")
    except DatasetError as error:
        assert error.file is not None
        assert str(error).startswith(str(root))
    else:
        named = pl.concat([queries["reference_id"], queries["target_ids"].explode().drop_nulls()])
        assert set(named) <= set(gallery["image_id"])
        assert queries["query_id"].is_unique().all()
        assert all(".." not in Path(path).parts for path in gallery["path"])  # but 0..png is a fine name
        assert gallery["path"].str.starts_with(str(root)).all()
    finally:
        (root / name).write_text(original)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused_never_a_crash(settings_for: Build, cirr_root: Path, content: bytes) -> None:
    (cirr_root / CIRR).write_bytes(content)
    try:
        queries = load_queries(settings_for("cirr", cirr_root), "cirr-val")
    except DatasetError as error:
        assert error.file == cirr_root / CIRR
    else:
        assert queries.is_empty()  # the bytes happened to be an empty list
