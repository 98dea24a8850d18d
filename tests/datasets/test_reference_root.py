"""Reference images of a folder data set that lie outside of its gallery: how they are named and listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from setr_lib.benchmarks.audit import capabilities, examine
from setr_lib.datasets import DatasetError, evaluation_set, inspect_gallery, load_gallery, load_queries
from setr_lib.settings import Settings

Build = Callable[..., Settings]
CSV = "reference,modification,targets\nx.png,make it red,a.png\nsub/y.png,smaller,b.png\na.png,bluer,b.png\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A gallery of two images, and three references beside it, of which queries name two."""
    for name in ("gallery/a.png", "gallery/b.png", "refs/x.png", "refs/sub/y.png", "refs/unused.png"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), "teal").save(path)
    (tmp_path / "mine/queries.csv").write_text(CSV)
    return tmp_path / "mine"


def settings_of(settings_for: Build, root: Path, references: str | None = "refs") -> Settings:
    named = {} if references is None else {"reference_root": root / references}
    return settings_for("folder", root, image_root=root / "gallery", **named)


def test_references_are_found_there_or_in_the_gallery(settings_for: Build, root: Path) -> None:
    settings = settings_of(settings_for, root)
    queries = load_queries(settings, "folder")
    assert queries["reference_id"].to_list() == ["x.png", "sub/y.png", "a.png"]
    gallery = load_gallery(settings, "folder")
    assert gallery.select("image_id", "galleries").rows() == [
        ("a.png", ["all"]),
        ("b.png", ["all"]),
        ("sub/y.png", []),
        ("x.png", []),
    ]
    assert gallery["path"].to_list()[2:] == [str(root / "refs/sub/y.png"), str(root / "refs/x.png")]
    assert inspect_gallery(gallery)["status"].unique().to_list() == ["ok"]


def test_without_it_they_are_unknown(settings_for: Build, root: Path) -> None:
    with pytest.raises(DatasetError, match=r"unknown image 'x\.png'"):
        load_queries(settings_of(settings_for, root, None), "folder")


def test_one_that_is_nowhere_names_both_folders(settings_for: Build, root: Path) -> None:
    (root / "queries.csv").write_text("reference,modification\nz.png,red\n")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_of(settings_for, root), "folder")
    words = str(caught.value)
    assert "line 2" in words and "'z.png'" in words
    assert str(root / "refs") in words and str(root / "gallery") in words


def test_a_target_must_be_in_the_gallery(settings_for: Build, root: Path) -> None:
    (root / "queries.csv").write_text("reference,modification,target\na.png,red,x.png\n")
    with pytest.raises(DatasetError, match=r"which is in reference_root .* only"):
        load_queries(settings_of(settings_for, root), "folder")


def test_two_files_of_one_name_are_refused_and_one_file_is_not(settings_for: Build, root: Path) -> None:
    (root / "refs/a.png").write_bytes(b"another picture")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_of(settings_for, root), "folder")
    assert f"let reference_root name {root}, so that references are called 'refs/a.png'" in str(caught.value)
    (root / "queries.csv").write_text(CSV.replace("x.png", "refs/x.png").replace("sub/y", "refs/sub/y"))
    gallery = load_gallery(settings_of(settings_for, root, "."), "folder")
    assert gallery["image_id"].to_list() == ["a.png", "b.png", "refs/sub/y.png", "refs/x.png"]
    (root / "queries.csv").write_text("reference,modification\na.png,red\n")
    for same in ("gallery", "gallery/../gallery"):
        assert load_gallery(settings_of(settings_for, root, same), "folder").height == 2


def test_other_benchmarks_do_not_read_it(settings_for: Build, cirr_root: Path) -> None:
    with pytest.raises(DatasetError, match=r"\[datasets.cirr\] reference_root: CIRR does not read that key"):
        load_queries(settings_for("cirr", cirr_root, reference_root=cirr_root), "cirr-val")


def test_a_folder_that_is_not_there_is_told(settings_for: Build, root: Path) -> None:
    with pytest.raises(DatasetError, match="no such image folder") as caught:
        load_queries(settings_of(settings_for, root, "gone"), "folder")
    assert caught.value.file == root / "gone"


def test_the_audit_counts_them_apart(settings_for: Build, root: Path) -> None:
    found = examine(evaluation_set(settings_of(settings_for, root), "folder"), inspect_gallery)
    assert (found.problems, found.warnings) == ((), ())
    assert found.images is not None
    assert (found.images.total, found.images.references, found.images.listed) == (4, 2, {"all": 2})
    searched = capabilities(found)[-1]
    assert searched.detail == "the whole gallery, 2 images, and 2 reference images outside of it"
    (root / "refs/x.png").write_bytes(b"no image")
    found = examine(evaluation_set(settings_of(settings_for, root), "folder"), inspect_gallery)
    assert found.images is not None and found.images.broken == 1
    assert any("1 of 4 images are broken" in problem for problem in found.problems)


def test_links_beside_the_references_say_nothing_of_the_gallery(
    settings_for: Build, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (root / "refs/elsewhere").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    found = examine(evaluation_set(settings_of(settings_for, root), "folder"), inspect_gallery)
    assert capabilities(found)[-1].detail.startswith("the whole gallery, 2 images")
    assert any("links" in warning or "link to" in warning for warning in found.warnings)


def test_a_reference_that_is_there_and_not_read_is_told(settings_for: Build, root: Path) -> None:
    (root / "refs/x.svg").write_bytes(b"<svg/>")
    (root / "queries.csv").write_text(CSV.replace("x.png", "x.svg"))
    with pytest.raises(DatasetError, match=r"refs/x\.svg is there, and \.svg files are not read here"):
        load_queries(settings_of(settings_for, root), "folder")
