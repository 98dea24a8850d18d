"""What is here against the official counts: nothing raises, every fault is told where it is, and what remains
possible is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from setr_lib.benchmarks import benchmark_of
from setr_lib.benchmarks.audit import Examination, capabilities, examine
from setr_lib.benchmarks.image_captions import CAPTIONS_FILE
from setr_lib.datasets import evaluation_set, inspect_gallery, load_gallery
from setr_lib.datasets.images import find_images
from setr_lib.settings import Settings
from setr_lib.sources import data_sources

Build = Callable[..., Settings]
STAMP = "miniature.json"
"""What the miniature leaves in each folder that it has drawn."""
CIRR_CAPTIONS = "captions/cap.rc2.val.json"


def found_in(settings: Settings, key: str) -> Examination:
    return examine(evaluation_set(settings, key), inspect_gallery, data_sources(settings))


def draw_gallery(settings: Settings, key: str) -> list[Path]:
    """An image file for every one that the gallery of ``key`` lists."""
    paths = [Path(path) for path in load_gallery(settings, key)["path"]]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "teal").save(path)
    return paths


def possible(found: Examination) -> list[bool]:
    """Scoring, caption search, image search."""
    return [each.possible for each in capabilities(found)]


def test_images_that_processors_refuse_are_told_before_a_run(settings_for: Build, cirr_root: Path) -> None:
    settings = settings_for("cirr", cirr_root, splits=["val"])
    first, *_ = draw_gallery(settings, "cirr-val")
    assert not [words for words in found_in(settings, "cirr-val").warnings if "refuse" in words]
    Image.new("RGB", (10, 2100)).save(first)
    found = found_in(settings, "cirr-val")
    (warning,) = [words for words in found.warnings if "refuse" in words]
    assert warning.startswith("1 of ") and f"{first} (10 x 2,100)" in warning
    assert examine(evaluation_set(settings, "cirr-val"), find_images).warnings == ()


@pytest.mark.parametrize("kind", ["cirr", "fashioniq", "circo"])
def test_a_whole_miniature_has_no_problem(
    settings_for: Build, request: pytest.FixtureRequest, kind: str
) -> None:
    root = request.getfixturevalue(f"{kind}_root")
    settings = settings_for(kind, root, splits=["val"])
    draw_gallery(settings, f"{kind}-val")
    (root / STAMP).write_text("{}")
    found = found_in(settings, f"{kind}-val")
    assert (found.counts_of, found.problems) == ("miniature", ())
    assert {state.status for state in found.files} == {"ok"}
    assert found.images is not None and found.images.coverage == 1
    assert found.bytes_to_come == 0
    assert possible(found) == [True, False, True]


def test_other_counts_than_the_official_ones_are_told(settings_for: Build, cirr_root: Path) -> None:
    settings = settings_for("cirr", cirr_root)
    draw_gallery(settings, "cirr-val")
    found = found_in(settings, "cirr-val")
    assert found.counts_of == "official"
    assert [(state.status, state.entries) for state in found.files] == [
        ("other count", 2),
        ("other count", 8),
    ]
    assert found.problems == (
        f"{cirr_root / CIRR_CAPTIONS}: 2 entries, officially 4,181",
        f"{cirr_root / 'image_splits/split.rc2.val.json'}: 8 entries, officially 2,297",
    )


def test_missing_and_broken_images_are_counted_and_some_named(settings_for: Build, cirr_root: Path) -> None:
    settings = settings_for("cirr", cirr_root)
    paths = draw_gallery(settings, "cirr-val")
    paths[0].unlink()
    paths[1].write_bytes(b"no image")
    (cirr_root / STAMP).write_text("{}")
    found = found_in(settings, "cirr-val")
    assert found.images is not None
    assert (found.images.ok, found.images.missing, found.images.broken) == (6, 1, 1)
    assert found.images.coverage == 0.75
    assert [example.split(": ")[0] for example in found.images.examples] == [str(paths[0]), str(paths[1])]
    assert found.bytes_to_come == paths[2].stat().st_size
    assert "1 of 8 images are missing: they come from the miniature: delete" in found.problems[0]
    assert "1 of 8 images are broken" in found.problems[1]
    search = capabilities(found)[2]
    assert (
        search.possible and "partial gallery, 6 of 8" in search.detail and "not comparable" in search.detail
    )


def test_a_miniature_that_is_not_drawn_yet_says_how(settings_for: Build, tmp_path: Path) -> None:
    settings = settings_for("cirr", tmp_path / "var" / "miniature" / "cirr")
    sources = data_sources(settings)
    found = examine(evaluation_set(settings, "cirr-val"), find_images, sources)
    assert found.counts_of == "miniature"
    assert [state.status for state in found.files] == ["missing", "missing"]
    assert all(each.endswith("`setr run`, or `setr miniature write`, draws it") for each in found.problems)
    elsewhere = settings_for("cirr", tmp_path / "var" / "other" / "cirr")
    elsewhere = examine(evaluation_set(elsewhere, "cirr-val"), find_images, data_sources(elsewhere))
    assert elsewhere.counts_of == "official" and "github.com/Cuberick-Orion/CIRR" in elsewhere.problems[0]


def test_looking_without_opening_finds_what_is_missing_only(settings_for: Build, cirr_root: Path) -> None:
    settings = settings_for("cirr", cirr_root)
    paths = draw_gallery(settings, "cirr-val")
    paths[0].unlink()
    paths[1].write_bytes(b"no image")
    found = examine(evaluation_set(settings, "cirr-val"), find_images)
    assert found.images is not None
    assert (found.images.ok, found.images.missing, found.images.broken) == (7, 1, 0)


def test_images_in_cirrs_own_layout_are_pointed_at(settings_for: Build, cirr_root: Path) -> None:
    (cirr_root / "img_raw").mkdir()
    found = found_in(settings_for("cirr", cirr_root), "cirr-val")
    assert f"there is {cirr_root / 'img_raw'}: set image_root" in found.problems[-1]


def test_a_missing_file_is_named_with_its_source(settings_for: Build, fashioniq_root: Path) -> None:
    gone = fashioniq_root / "captions/cap.shirt.val.json"
    gone.unlink()
    found = found_in(settings_for("fashioniq", fashioniq_root), "fashioniq-val")
    assert len(found.files) == 6
    assert [state.file.path for state in found.files if state.status == "missing"] == [gone]
    assert any(str(gone) in each and "github.com/XiaoxiaoGuo/fashion-iq" in each for each in found.problems)
    assert found.queries is None
    assert possible(found) == [False, False, False]


def test_a_broken_row_is_told_at_its_file(settings_for: Build, cirr_root: Path) -> None:
    path = cirr_root / CIRR_CAPTIONS
    rows = json.loads(path.read_text())
    del rows[1]["reference"]
    path.write_text(json.dumps(rows))
    (cirr_root / STAMP).write_text("{}")
    found = found_in(settings_for("cirr", cirr_root), "cirr-val")
    assert [state.status for state in found.files] == ["broken", "ok"]
    assert "row 1" in found.files[0].detail and "reference" in found.files[0].detail
    assert found.queries is None and found.images is not None


def test_circo_without_cocos_list_can_still_be_scored(settings_for: Build, circo_root: Path) -> None:
    (circo_root / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json").unlink()
    found = found_in(settings_for("circo", circo_root), "circo-val")
    assert [state.status for state in found.files] == ["other count", "missing"]
    assert found.images is None
    assert found.bytes_to_come == 123_403 * 154_000
    scoring = capabilities(found)[0]
    assert scoring.possible and "only checked to be positive whole numbers" in scoring.detail


def test_a_hidden_split_is_validated_only(settings_for: Build, cirr_root: Path) -> None:
    found = found_in(settings_for("cirr", cirr_root, splits=["test1"]), "cirr-test1")
    scoring = capabilities(found)[0]
    assert (found.queries, found.scored, scoring.possible) == (2, 0, True)
    assert "validated, not scored" in scoring.detail


def test_a_folder_of_ones_own(settings_for: Build, folder_root: Path) -> None:
    settings = settings_for("folder", folder_root)
    found = found_in(settings, "folder")
    assert (found.counts_of, found.problems, found.queries) == ("own", (), 0)
    assert possible(found) == [False, False, True]
    (folder_root / "queries.csv").write_text("reference,modification,target\na.png,red,sub/b.JPG\n")
    found = found_in(settings, "folder")
    assert [state.status for state in found.files] == ["ok"]
    assert possible(found) == [True, False, True]
    (folder_root / "queries.csv").write_text("reference,modification\nz.png,red\n")
    found = found_in(settings, "folder")
    assert [state.status for state in found.files] == ["broken"]
    assert "line 2" in found.problems[0] and "z.png" in found.problems[0]


def test_a_folder_that_is_not_there(settings_for: Build, tmp_path: Path) -> None:
    found = found_in(settings_for("folder", tmp_path / "none"), "folder")
    assert len(found.problems) == 1 and "no such image folder" in found.problems[0]
    (tmp_path / "none").mkdir()
    found = found_in(settings_for("folder", tmp_path / "none"), "folder")
    assert found.problems == (f"{tmp_path / 'none'}: there is no image",)


def test_captions_are_optional_and_a_benchmarks_come_from_a_file_that_is_named(
    settings_for: Build, cirr_root: Path, tmp_path: Path
) -> None:
    told = capabilities(found_in(settings_for("cirr", cirr_root), "cirr-val"))[1].detail
    assert told.startswith(f"{cirr_root / CAPTIONS_FILE} is optional") and "cir_cleaned.json" in told
    (tmp_path / "mine").mkdir()
    told = capabilities(found_in(settings_for("folder", tmp_path / "mine"), "folder"))[1].detail
    assert told == f"{tmp_path / 'mine' / CAPTIONS_FILE} is optional, and not here"


def test_gallery_captions_are_counted(settings_for: Build, cirr_root: Path) -> None:
    rows = [
        {"candidate": "dev-0-img0", "captions": ["a dog", "two dogs"]},
        {"candidate": "dev-1-img0", "captions": [""]},
        {"candidate": "elsewhere", "captions": ["a cat"]},
    ]
    (cirr_root / CAPTIONS_FILE).write_text(json.dumps(rows))
    found = found_in(settings_for("cirr", cirr_root), "cirr-val")
    assert found.captioned == 1
    assert capabilities(found)[1].detail == "1 of 8 gallery images have captions"
    named = cirr_root / "mine.json"
    found = found_in(settings_for("cirr", cirr_root, image_captions=named), "cirr-val")
    assert any("mine.json is missing" in each for each in found.problems)
    assert not capabilities(found)[1].possible
    (cirr_root / CAPTIONS_FILE).write_text(json.dumps([{"candidate": "x"}]))
    found = found_in(settings_for("cirr", cirr_root), "cirr-val")
    assert found.captions is not None and found.captions.status == "broken"
    assert any("row 0" in each and "captions" in each for each in found.problems)


def test_the_smaller_fashioniq_gallery_has_its_own_counts(settings_for: Build, fashioniq_root: Path) -> None:
    settings = settings_for("fashioniq", fashioniq_root, gallery="val")
    images = found_in(settings, "fashioniq-val").images
    assert images is not None
    assert images.official == {"dress": 2628, "shirt": 3089, "toptee": 2902}
    assert images.listed == {"dress": 2, "shirt": 2, "toptee": 2}


def test_counts_by_category_add_up_to_those_of_the_sets(settings_for: Build, tmp_path: Path) -> None:
    splits = ["train", "val", "test"]
    settings = settings_for("fashioniq", tmp_path, splits=splits)
    for split in splits:
        each = evaluation_set(settings, f"fashioniq-{split}")
        files = each.benchmark.files(each)
        queries = [file.entries or 0 for file in files if file.what == "queries"]
        assert sum(queries) == each.official_queries
        lists = [file.entries for file in files if file.what == "image list"]
        assert each.official_images is not None and lists == list(each.official_images.values())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cirr", CIRR_CAPTIONS),
        ("cirr", "image_splits/split.rc2.val.json"),
        ("fashioniq", "image_splits/split.dress.val.json"),
        ("circo", "annotations/val.json"),
        ("circo", "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"),
    ],
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_whatever_a_file_holds_is_told_not_raised(
    settings_for: Build, request: pytest.FixtureRequest, kind: str, name: str, content: bytes
) -> None:
    root = request.getfixturevalue(f"{kind}_root")
    with replaced(root / name, content):
        found = examine(evaluation_set(settings_for(kind, root), f"{kind}-val"), find_images)
    assert any(state.file.path == root / name and state.status != "ok" for state in found.files)
    assert found.problems
    capabilities(found)


class TestRealFiles:
    """The official annotation files, without an image."""

    @pytest.mark.parametrize(
        ("kind", "splits", "key", "captioned"),
        [
            ("cirr", ["val"], "cirr-val", 2295),
            ("cirr", ["test1"], "cirr-test1", 2314),
            ("fashioniq", ["train"], "fashioniq-train", 0),
            ("fashioniq", ["val"], "fashioniq-val", 0),
            ("fashioniq", ["test"], "fashioniq-test", 0),
            ("circo", ["val"], "circo-val", 0),
            ("circo", ["test"], "circo-test", 0),
        ],
    )
    def test_annotations_are_whole_and_images_missing(
        self, settings_for: Build, real_data: Path, kind: Any, splits: list[str], key: str, captioned: int
    ) -> None:
        settings = settings_for(kind, real_data / kind, splits=splits)
        found = examine(evaluation_set(settings, key), find_images)
        wrong: list[tuple[str, str]] = [(s.file.path.name, s.status) for s in found.files if s.status != "ok"]
        listed = (real_data / "circo" / "COCO2017_unlabeled").exists()
        assert wrong == ([] if listed or kind != "circo" else [("image_info_unlabeled2017.json", "missing")])
        assert found.queries == benchmark_of(kind).official_queries(splits[0])
        assert found.captioned == captioned
        assert possible(found) == [True, captioned > 0, False]
        assert found.images is None or found.images.missing == found.images.total
        assert len(found.problems) == 1

    def test_sizes_of_fashioniqs_smaller_gallery(self, settings_for: Build, real_data: Path) -> None:
        settings = settings_for("fashioniq", real_data / "fashioniq", gallery="val")
        images = examine(evaluation_set(settings, "fashioniq-val"), find_images).images
        assert images is not None and images.listed == images.official
