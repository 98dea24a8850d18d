"""Which evaluation sets settings make, their order, and how wrong settings are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from setr_lib.datasets import DatasetError, evaluation_set, evaluation_sets, set_of_split, take_queries
from setr_lib.settings import Settings


@pytest.fixture
def three() -> Settings:
    return Settings.model_validate(
        {
            "datasets": {
                "cirr": {"kind": "cirr", "root": "c", "splits": ["test1", "val"]},
                "fashioniq": {"kind": "fashioniq", "root": "/f", "splits": ["val"], "gallery": "val"},
                "circo": {"kind": "circo", "root": "o", "splits": ["val", "test"], "image_root": "images"},
                "mine": {"kind": "folder", "root": "m"},
            },
            "base_dir": Path("/base"),
        }
    )


def test_sets_with_targets_come_first(three: Settings) -> None:
    keys = [each.key for each in evaluation_sets(three)]
    assert keys == ["cirr-val", "fashioniq-val", "circo-val", "mine", "cirr-test1", "circo-test"]
    assert [each.key for each in evaluation_sets(three) if each.hidden] == ["cirr-test1", "circo-test"]


def test_paths_start_from_the_settings_file(three: Settings) -> None:
    circo = evaluation_set(three, "circo-val")
    assert (circo.root, circo.image_root) == (Path("/base/o"), Path("/base/images"))
    assert evaluation_set(three, "fashioniq-val").root == Path("/f")


def test_sets_that_share_a_gallery_share_its_key(three: Settings) -> None:
    keys = {each.key: each.gallery_key for each in evaluation_sets(three)}
    assert keys["circo-val"] == keys["circo-test"] == "circo"
    assert keys["cirr-val"] != keys["cirr-test1"]
    assert keys["fashioniq-val"] == "fashioniq-val-val"
    assert keys["mine"] == "mine"


def test_default_split_is_val() -> None:
    settings = Settings.model_validate({"datasets": {"cirr": {"kind": "cirr", "root": "c"}}})
    assert [each.key for each in evaluation_sets(settings)] == ["cirr-val"]


def test_a_benchmark_by_its_own_name_needs_no_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETR_DATASETS__CIRCO__ROOT", "/from/the/environment")
    settings = Settings.model_validate({"datasets": {"cirr": {"root": "c"}, "circo": {"root": "o"}}})
    assert {name: each.kind for name, each in settings.datasets.items()} == {"cirr": "cirr", "circo": "circo"}
    assert evaluation_set(settings, "circo-val").root == Path("/from/the/environment")
    with pytest.raises(ValueError, match=r"mine\.kind"):
        Settings.model_validate({"datasets": {"mine": {"root": "m"}}})


def test_any_split_of_a_data_set_can_be_asked_for(three: Settings) -> None:
    assert set_of_split(three, "cirr", "train").key == "cirr-train"
    assert set_of_split(three, "circo", "test") == evaluation_set(three, "circo-test")
    assert set_of_split(three, "fashioniq", "val", "original").gallery == "original"
    assert set_of_split(three, "mine", "all") == evaluation_set(three, "mine")
    for name, split, gallery, reason in (
        ("coco", "val", None, "only circo, cirr, fashioniq, mine"),
        ("cirr", "test", None, "'test' is not a split of cirr"),
        ("cirr", "val", "val", "'val' is not a gallery of cirr: it has one only, 'all'"),
        ("fashioniq", "val", "all", "'all' is not a gallery of fashioniq: use original or val"),
    ):
        with pytest.raises(DatasetError, match=reason):
            set_of_split(three, name, split, gallery)


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"cirr": {"kind": "cirr", "root": "c", "splits": ["test"]}}, "'test' is not a split of cirr"),
        ({"cirr": {"kind": "cirr", "root": "c", "gallery": "val"}}, "'val' is not one of CIRR's"),
        (
            {"fashioniq": {"root": "f", "gallery": "all"}},
            "'all' is not one of FashionIQ's: use original or val",
        ),
        ({"cirr": {"root": "c", "options": {"speed": 3}}}, "CIRR has no 'speed'; there is none"),
        ({"cirr": {"kind": "cirr", "root": "c", "queries": "q.csv"}}, "CIRR does not read that key"),
        (
            {"cirr": {"kind": "cirr", "root": "c"}, "cirr-val": {"kind": "folder", "root": "c"}},
            "both make the set 'cirr-val'",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(datasets: dict[str, object], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        evaluation_sets(Settings.model_validate({"datasets": datasets}))


def test_unknown_key_names_the_known_ones(three: Settings) -> None:
    with pytest.raises(DatasetError, match=r"no evaluation set 'cirr-train'.*'circo-test'"):
        evaluation_set(three, "cirr-train")


def test_listing_the_sets_imports_neither_polars_nor_pillow() -> None:
    code = (
        "import sys, setr_lib.datasets; print(sorted({'polars', 'PIL', 'numpy', 'torch'} & "
        "sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("limit", [None, 100])
def test_taking_all_queries_changes_nothing(limit: int | None) -> None:
    queries = pl.DataFrame({"query_id": ["a", "b"], "gallery": ["all", "all"]})
    assert take_queries(queries, limit).equals(queries)


def test_taking_some_queries_leaves_no_category_out() -> None:
    galleries = ["dress"] * 4 + ["shirt"] * 4 + ["toptee"]
    queries = pl.DataFrame({"query_id": [str(number) for number in range(9)], "gallery": galleries})
    assert take_queries(queries, 5)["query_id"].to_list() == ["0", "1", "4", "5", "8"]
    assert take_queries(queries.filter(gallery="dress"), 2)["query_id"].to_list() == ["0", "1"]


def test_no_data_sets_is_no_error(settings_for: Callable[..., Settings]) -> None:
    assert evaluation_sets(Settings()) == []
