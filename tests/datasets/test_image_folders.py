"""The listing of image folders: links, folders that cannot be read, other files, folders of tools."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, features

from setr_lib.benchmarks import image_folders
from setr_lib.benchmarks.folder_gallery import folder_rules, gallery_listing
from setr_lib.benchmarks.image_folders import FolderListing, FolderRules, list_folder
from setr_lib.datasets import DatasetError, evaluation_set, inspect_gallery, load_gallery
from setr_lib.settings import Settings

Build = Callable[..., Settings]


def draw(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), "teal").save(path, format="PNG")


def link(path: Path, target: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def listed(settings: Settings) -> FolderListing:
    found = gallery_listing(evaluation_set(settings, "folder"))
    assert found is not None
    assert load_gallery(settings, "folder")["image_id"].to_list() == list(found.names)
    return found


class TestLinks:
    def test_a_link_that_ends_in_the_root_is_followed(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "data/gallery/a.png", tmp_path / "data/more/b.png", tmp_path / "data/more/deep/c.png")
        link(tmp_path / "data/gallery/extra", "../more")
        found = listed(settings_for("folder", tmp_path / "data", image_root=tmp_path / "data/gallery"))
        assert found.names == ("a.png", "extra/b.png", "extra/deep/c.png")
        assert (found.is_whole, found.faults, found.notes) == (True, [], [])

    def test_one_that_ends_elsewhere_only_by_a_setting(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "mine/a.png", tmp_path / "disk/b.png")
        link(tmp_path / "mine/disk", tmp_path / "disk")
        found = listed(settings_for("folder", tmp_path / "mine"))
        assert (found.names, found.is_whole) == (("a.png",), True)
        (note,) = found.notes
        assert f"{tmp_path / 'mine/disk'} -> {tmp_path / 'disk'}" in note
        assert "[datasets.folder] outside_links = true" in note
        found = listed(settings_for("folder", tmp_path / "mine", outside_links=True))
        assert (found.names, found.notes) == (("a.png", "disk/b.png"), [])

    @pytest.mark.parametrize("target", ["..", ".", "../../mine", "../other", "../up"])
    def test_loops_end_and_every_image_is_there_once(
        self, settings_for: Build, tmp_path: Path, target: str
    ) -> None:
        root = tmp_path / "mine"
        draw(root / "sub/a.png", root / "other/b.png", root / "z.png")
        link(root / "sub/loop", target)
        link(root / "other/back", "../sub")
        link(root / "up", ".")
        found = listed(settings_for("folder", root))
        assert found.names == ("other/b.png", "sub/a.png", "z.png")
        assert set(found.repeated) == {"sub/loop", "other/back", "up"}
        assert found.is_whole

    def test_two_links_to_one_folder_give_its_images_once_by_the_first_name(
        self, settings_for: Build, tmp_path: Path
    ) -> None:
        draw(tmp_path / "mine/m.png", tmp_path / "disk/b.png")
        link(tmp_path / "mine/z", tmp_path / "disk")
        link(tmp_path / "mine/a", tmp_path / "disk")
        found = listed(settings_for("folder", tmp_path / "mine", outside_links=True))
        assert (found.names, found.repeated) == (("a/b.png", "m.png"), {"z": str(tmp_path / "disk")})

    def test_a_link_to_what_holds_the_folder_itself(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "all/mine/a.png", tmp_path / "all/other/b.png")
        link(tmp_path / "all/mine/everything", tmp_path / "all")
        found = listed(settings_for("folder", tmp_path / "all/mine", outside_links=True))
        assert found.names == ("a.png", "everything/other/b.png")

    def test_a_link_to_a_folder_that_is_away_is_named(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "mine/a.png")
        link(tmp_path / "mine/photos.2024", tmp_path / "mine/gone")
        link(tmp_path / "mine/in_a_circle", tmp_path / "mine/in_a_circle")
        found = listed(settings_for("folder", tmp_path / "mine"))
        assert found.names == ("a.png",)
        assert set(found.unlisted) == {"photos.2024", "in_a_circle"}
        (fault,) = found.faults
        assert f"{tmp_path / 'mine/photos.2024'} (the link leads to {tmp_path / 'mine/gone'}" in fault
        assert "in a circle" in fault

    def test_links_to_files_are_images_wherever_they_end(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "elsewhere/x.png")
        link(tmp_path / "mine/a.png", tmp_path / "elsewhere/x.png")
        link(tmp_path / "mine/gone.png", tmp_path / "elsewhere/gone.png")
        settings = settings_for("folder", tmp_path / "mine")
        assert listed(settings).names == ("a.png", "gone.png")
        looked = inspect_gallery(load_gallery(settings, "folder"))
        assert looked["status"].to_list() == ["ok", "missing"]

    def test_an_image_folder_that_is_a_link(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "v2/a.png", tmp_path / "v2/sub/b.png")
        link(tmp_path / "v2/again", "sub")
        link(tmp_path / "current", tmp_path / "v2")
        assert listed(settings_for("folder", tmp_path / "current")).names == ("a.png", "sub/b.png")


class Unlistable:
    """``os.scandir`` as a network mount gives it that fails: at once, or after an entry."""

    def __init__(self, folder: Path, error: OSError, after: int = 0) -> None:
        self.folder, self.error, self.after, self.scandir = folder, error, after, os.scandir

    def __call__(self, path: Any) -> Any:
        if Path(path) != self.folder:
            return self.scandir(path)
        if not self.after:
            raise self.error
        return self

    def __enter__(self) -> Unlistable:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __iter__(self) -> Any:
        yield from sorted(self.scandir(self.folder), key=lambda entry: entry.name)[: self.after]
        raise self.error


class TestFoldersThatCannotBeListed:
    @pytest.mark.parametrize(
        ("error", "after", "words"),
        [
            (PermissionError(13, "Permission denied"), 0, "Permission denied"),
            (FileNotFoundError(2, "No such file or directory"), 0, "No such file"),
            (OSError(107, "Transport endpoint is not connected"), 0, "Transport endpoint"),
            (OSError(5, "Input/output error"), 1, "Input/output error"),
        ],
    )
    def test_they_are_counted_and_named(
        self,
        settings_for: Build,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: OSError,
        after: int,
        words: str,
    ) -> None:
        draw(tmp_path / "mine/a.png", tmp_path / "mine/away/b.png", tmp_path / "mine/away/c.png")
        settings = settings_for("folder", tmp_path / "mine")
        monkeypatch.setattr(image_folders.os, "scandir", Unlistable(tmp_path / "mine/away", error, after))
        found = listed(settings)
        assert found.names == ("a.png", "away/b.png")[: 1 + after]
        assert (found.is_whole, list(found.unlisted)) == (False, ["away"])
        (fault,) = found.faults
        assert "1 folder" in fault and f"{tmp_path / 'mine/away'} ({words}" in fault

    def test_the_image_folder_itself_is_refused(
        self, settings_for: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw(tmp_path / "mine/a.png")
        away = Unlistable(tmp_path / "mine", OSError(107, "Transport endpoint is not connected"))
        monkeypatch.setattr(image_folders.os, "scandir", away)
        with pytest.raises(DatasetError, match="Transport endpoint is not connected") as caught:
            load_gallery(settings_for("folder", tmp_path / "mine"), "folder")
        assert caught.value.file == tmp_path / "mine"

    def test_a_name_that_is_no_utf_8_costs_that_file(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "mine/a.png", tmp_path / "mine/b.png")
        (tmp_path / "mine/b.png").rename(os.fsdecode(os.fsencode(tmp_path / "mine") + b"/caf\xe9.png"))
        found = listed(settings_for("folder", tmp_path / "mine"))
        assert (found.names, found.is_whole) == (("a.png",), False)
        (fault,) = found.faults
        assert "caf\\udce9.png" in fault and "rename it" in fault

    def test_a_name_that_is_no_utf_8_of_a_file_that_is_no_picture_is_counted(
        self, settings_for: Build, tmp_path: Path
    ) -> None:
        draw(tmp_path / "mine/a.png")
        for name in (b"/gr\xfc\xdfe.txt", b"/a.\xfc"):
            Path(os.fsdecode(os.fsencode(tmp_path / "mine") + name)).write_bytes(b"x")
        found = listed(settings_for("folder", tmp_path / "mine"))
        assert (found.is_whole, found.endings) == (True, {".txt": 1, ".\\udcfc": 1})


class TestOtherFiles:
    def test_endings_that_are_not_read_are_counted(self, settings_for: Build, tmp_path: Path) -> None:
        root = tmp_path / "mine"
        draw(root / "a.PNG")
        for name in ("b.MP4", "sub/c.mp4", "d", "e.cr2", ".DS_Store", "._a.png", "Thumbs.db", "desktop.ini"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"x")
        (root / "queries.csv").write_text("reference,modification\na.PNG,red\n")
        (root / "image_captions.json").write_text("[]")
        found = listed(settings_for("folder", root))
        assert found.endings == {"": 1, ".cr2": 1, ".mp4": 2}
        (note,) = found.notes
        assert note == f"{root}: 4 files not read as images: 2 .mp4, 1 without an ending, 1 .cr2"

    def test_heic_is_said_to_need_the_extra_where_it_is_not_read(
        self, settings_for: Build, tmp_path: Path
    ) -> None:
        draw(tmp_path / "mine/a.png")
        (tmp_path / "mine/b.HEIC").write_bytes(b"x")
        found = listed(settings_for("folder", tmp_path / "mine"))
        if "b.HEIC" not in found.names:
            assert '1 .heic (install the extra, `pip install "setr[heic]"`)' in found.notes[0]

    @pytest.mark.parametrize(
        ("ending", "form"),
        [
            (".jfif", "JPEG"),
            (".jpe", "JPEG"),
            pytest.param(
                ".avif", "AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF here")
            ),
        ],
    )
    def test_what_pillow_reads_here_is_read(
        self, settings_for: Build, tmp_path: Path, ending: str, form: str
    ) -> None:
        (tmp_path / "mine").mkdir()
        Image.new("RGB", (16, 12), (200, 30, 40)).save(tmp_path / f"mine/a{ending}", format=form)
        settings = settings_for("folder", tmp_path / "mine")
        assert listed(settings).endings == {}
        looked = inspect_gallery(load_gallery(settings, "folder"))
        assert looked.select("image_id", "status", "width").rows() == [(f"a{ending}", "ok", 16)]

    def test_heic_is_read_where_the_extra_is_installed(self, settings_for: Build, tmp_path: Path) -> None:
        heif = pytest.importorskip("pillow_heif")
        content = io.BytesIO()
        heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 40))).save(content)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/IMG_1.HEIC").write_bytes(content.getvalue())
        looked = inspect_gallery(load_gallery(settings_for("folder", tmp_path / "mine"), "folder"))
        assert looked.select("image_id", "status", "width").rows() == [("IMG_1.HEIC", "ok", 64)]


class TestFoldersOfTools:
    @pytest.mark.parametrize(
        "name",
        [
            "@eaDir",
            "#recycle",
            "@Recycle",
            "__MACOSX",
            ".git",
            ".thumbnails",
            ".Trash-1000",
            "$RECYCLE.BIN",
            "System Volume Information",
            "lost+found",
            "#snapshot",
        ],
    )
    def test_they_are_never_gallery(self, settings_for: Build, tmp_path: Path, name: str) -> None:
        draw(tmp_path / "mine/a.png", tmp_path / "mine/sub/b.png")
        draw(tmp_path / "mine" / name / "c.png", tmp_path / "mine/sub" / name / "deep/d.png")
        found = listed(settings_for("folder", tmp_path / "mine", outside_links=True))
        assert found.names == ("a.png", "sub/b.png")
        assert (found.is_whole, found.notes) == (True, [])

    def test_nor_is_what_setr_stores_in_a_project_folder(
        self, settings_for: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "elsewhere"))
        for name in ("var/reports", "var", "dagster_home/storage", "elsewhere", "pictures"):
            draw(tmp_path / name / "a.png")
        link(tmp_path / "pictures/reports", "../var/reports")
        link(tmp_path / "stored", "var")
        settings = settings_for("folder", tmp_path)
        assert listed(settings).names == ("pictures/a.png",)
        with pytest.raises(DatasetError, match="SETR's own"):
            load_gallery(settings_for("folder", tmp_path / "var"), "folder")

    def test_but_a_data_set_below_the_storage_root_is_one(self, settings_for: Build, tmp_path: Path) -> None:
        draw(tmp_path / "var/miniature/mine/a.png")
        assert listed(settings_for("folder", tmp_path / "var/miniature/mine")).names == ("a.png",)

    def test_a_folder_that_is_named_is_listed_whatever_its_name(self, tmp_path: Path) -> None:
        draw(tmp_path / "@eaDir/a.png", tmp_path / ".hidden/b.png")
        assert list_folder(tmp_path / "@eaDir", "x").names == ("a.png",)
        assert list_folder(tmp_path / ".hidden", "x", FolderRules()).names == ("b.png",)


def test_the_order_is_that_of_the_names(
    settings_for: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "mine"
    draw(*(root / name for name in ("b/2.png", "b/1.png", "a.png", "b.png", "B/3.png", "c/d/e.png")))
    rules = folder_rules(evaluation_set(settings_for("folder", root), "folder"))
    forwards = list_folder(root, "x", rules)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: Any) -> None:
            self.entries = sorted(scandir(path), key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            return

    monkeypatch.setattr(image_folders.os, "scandir", Backwards)
    assert list_folder(root, "x", rules) == forwards
    assert list(forwards.names) == sorted(forwards.names)
