"""Every part that reads a picture reads it by its table's rules, and only the bytes that the table names."""

from __future__ import annotations

import ast
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import setr_lib
from setr_lib.benchmarks import EvaluationSet, training_pixels
from setr_lib.content_cache import ContentCache
from setr_lib.datasets import evaluation_set, inspect_gallery, load_gallery
from setr_lib.datasets.images import changed_images, find_images
from setr_lib.evaluation.contact_sheet import open_thumbnail
from setr_lib.evaluation.summary import why_not_comparable
from setr_lib.hashing import fingerprint_file
from setr_lib.methods.references import ReferencePictures
from setr_lib.models.multimodal import MultimodalModel, Picture, PictureError
from setr_lib.pixels import OFFICIAL, OWN_FOLDER, PictureFile, PixelRules, picture_files
from setr_lib.reranking.held_out import pictures_of
from setr_lib.reranking.rerank import CACHE_KIND, judge_pairs
from setr_lib.reranking.training import training_run_digest
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import AdapterSettings, JudgeSettings, Settings, SettingsError, load_settings
from setr_lib.spaces.space import EmbeddingSpace
from setr_lib.spaces.vector_store import GalleryStore
from setr_lib.tables import GALLERY, PAIRS, QUERIES, TRAINING_IMAGES
from setr_lib.texts.generation import CACHE_KIND as TEXTS_KIND
from setr_lib.texts.generation import compose_queries, describe_images
from setr_lib.texts.prompts import load_prompts
from tests.tiny_judges import tiny_picture, write_tiny_judge

PACKAGES = [Path(setr_lib.__file__ or "").parent, Path(__file__).parents[2] / "setr_assets"]
CHANGED = "changed since gallery_images was made"


def test_one_module_alone_opens_image_files() -> None:
    """A second way from a file to pixels would show a report, or a model, another picture."""
    openers = [
        path.relative_to(package).as_posix()
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "open"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("Image", "PIL")
    ]
    assert set(openers) == {"pixels.py"}


def folder_set(root: Path, **keys: object) -> EvaluationSet:
    values = {"kind": "folder", "root": root, **keys}
    return evaluation_set(Settings.model_validate({"base_dir": root, "datasets": {"mine": values}}), "mine")


def gallery_of(evaluated: EvaluationSet) -> pl.DataFrame:
    from setr_lib.benchmarks.loading import read_gallery

    return inspect_gallery(read_gallery(evaluated), rules=evaluated.pixels)


class TestRules:
    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            ({}, "upright,#ffffff"),
            ({"background": "#00FF00"}, "upright,#00ff00"),
            ({"background": "none"}, "upright"),
            ({"upright": False}, "#ffffff"),
            ({"background": "none", "upright": False}, ""),
        ],
    )
    def test_of_a_folder(self, tmp_path: Path, keys: dict[str, object], expected: str) -> None:
        assert folder_set(tmp_path, **keys).pixels.id == expected

    def test_of_a_benchmark_and_its_train_split(self, tmp_path: Path) -> None:
        cirr = {"kind": "cirr", "root": tmp_path}
        values = {"datasets": {"cirr": cirr}, "training": {"dataset": "cirr"}}
        settings = Settings.model_validate(values)
        assert evaluation_set(settings, "cirr-val").pixels.id == training_pixels(settings).id == ""
        cirr["background"] = "#ffffff"
        settings = Settings.model_validate(values)
        assert evaluation_set(settings, "cirr-val").pixels.id == training_pixels(settings).id == "#ffffff"

    def test_of_training_images_of_ones_own(self) -> None:
        assert training_pixels(Settings()) == OWN_FOLDER
        values = {"training": {"captions": "a.jsonl", "background": "#000000", "upright": False}}
        assert training_pixels(Settings.model_validate(values)).id == "#000000"

    @pytest.mark.parametrize("colour", ["white", "#fff", "ffffff", "#gggggg", "drop"])
    def test_a_colour_has_six_digits(self, tmp_path: Path, colour: str) -> None:
        path = tmp_path / "setr.toml"
        path.write_text(f'[datasets.mine]\nkind = "folder"\nroot = "."\nbackground = "{colour}"\n')
        with pytest.raises(SettingsError, match=r"'#rrggbb', e\.g\. '#ffffff' for white, or 'none'"):
            load_settings(path)

    def test_come_from_the_settings_file_and_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "setr.toml"
        path.write_text(
            '[images]\nmax_pixels = 99\n[datasets.mine]\nkind = "folder"\nroot = "."\nupright = false\n'
        )
        assert evaluation_set(load_settings(path), "mine").pixels == PixelRules(False, "#ffffff", 99)
        monkeypatch.setenv("SETR_DATASETS__MINE__UPRIGHT", "true")
        assert evaluation_set(load_settings(path), "mine").pixels == PixelRules(True, "#ffffff", 99)

    def test_other_rules_than_the_benchmarks_are_not_comparable(self, tmp_path: Path) -> None:
        values = {"kind": "cirr", "root": tmp_path}
        gallery, queries = GALLERY.to_frame(), QUERIES.to_frame()
        found = []
        for keys in ({}, {"upright": True}):
            settings = Settings.model_validate({"datasets": {"cirr": values | keys}})
            found.append(why_not_comparable(evaluation_set(settings, "cirr-val"), queries, gallery))
        assert found[1] == [
            *found[0],
            "images are read otherwise: turned upright by EXIF, transparency dropped",
        ]


def strange_folder(root: Path) -> socket.socket:
    """One picture, and what is called as one and is none."""
    root.mkdir(exist_ok=True)
    Image.new("RGB", (20, 10), "red").save(root / "good.png")
    Image.new("1", (2000, 3000)).save(root / "huge.png")
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(root / "nan.tif")
    Image.fromarray(np.full((4, 4), 300.0, dtype=np.float32)).save(root / "floats.tif")
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "zero.png").symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(root / "socket.png"))
    return server


STRANGE = {
    "folder.png": "is a folder; only regular files are read",
    "pipe.png": "is a named pipe; only regular files are read",
    "zero.png": "is a device; only regular files are read",
    "socket.png": "is a socket; only regular files are read",
}
UNDEFINED = {
    "huge.png": "it has 2,000 x 3,000 pixels, more than the 1,000,000 that are allowed",
    "nan.tif": "some of its values are no numbers (NaN or infinite)",
    "floats.tif": "its values are floats from 300 to 300, and the file does not say what range they have",
}


class TestInspection:
    def test_counts_and_names_what_is_no_picture_and_never_hangs(self, tmp_path: Path) -> None:
        with strange_folder(tmp_path / "p"):
            settings = Settings.model_validate(
                {
                    "images": {"max_pixels": 1_000_000},
                    "datasets": {"mine": {"kind": "folder", "root": tmp_path / "p"}},
                }
            )
            listed, rules = load_gallery(settings, "mine"), evaluation_set(settings, "mine").pixels
            found = inspect_gallery(listed, rules=rules)
            details = dict(found.filter(status="broken").select("image_id", "detail").iter_rows())
            assert details.keys() == STRANGE.keys() | UNDEFINED.keys()
            for name, words in (STRANGE | UNDEFINED).items():
                assert details[name].startswith(words)
            assert found.filter(status="ok")["image_id"].to_list() == ["good.png"]
            assert set(found["pixels"]) == {"upright,#ffffff"}
            quick = find_images(listed).filter(status="broken")
            assert dict(quick.select("image_id", "detail").iter_rows()) == STRANGE

    def test_a_name_with_a_null_byte_is_broken(self) -> None:
        frame = pl.DataFrame({"image_id": ["a"], "path": ["a\0.png"], "galleries": [["all"]]})
        assert inspect_gallery(frame)["detail"].to_list() == [
            "no file can have this name (embedded null byte)"
        ]
        assert find_images(frame)["status"].to_list() == ["broken"]

    def test_doctor_tells_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from setr_lib.cli import main

        config = tmp_path / "setr.toml"
        config.write_text('[images]\nmax_pixels = 1000000\n[datasets.mine]\nkind = "folder"\nroot = "p"\n')
        with strange_folder(tmp_path / "p"):
            assert main(["--config", str(config), "doctor", "mine"]) == 1
            page = " ".join(capsys.readouterr().out.split())
            assert "7 of 8 images are broken" in page and STRANGE["folder.png"] in page
            assert main(["--config", str(config), "doctor", "mine", "--quick"]) == 1
            assert "4 of 8 images are broken" in " ".join(capsys.readouterr().out.split())


class Mean(EmbeddingSpace):
    """Vectors that tell which pixels were embedded: the mean colour and its opposite."""

    id, preprocessing_id, dimension, batch_size = "mean", "mean", 4, 2

    def preprocess(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) / 255

    def embed_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        rows = np.array([[*image, 1.0] for image in images], dtype=np.float32).reshape(-1, 4)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four pictures, one of them black on transparency."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(tiny_picture(number))
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "clear.png")
    return folder


class TestVectors:
    def table(self, store: GalleryStore, gallery: pl.DataFrame) -> tuple[int, dict[str, list[float]]]:
        """How many were embedded now, and the vectors by id."""
        report = store.synchronise("t", gallery, Mean())
        ids, vectors = store.read("t", report.version)
        return report.embedded, dict(zip(ids, vectors.tolist(), strict=True))

    def test_are_made_anew_where_the_rules_have_changed(self, pictures: Path, tmp_path: Path) -> None:
        store = GalleryStore(tmp_path / "store")
        made, white = self.table(store, gallery_of(folder_set(pictures)))
        assert made == 4 and white["clear.png"] == pytest.approx([0.5] * 4)
        assert self.table(store, gallery_of(folder_set(pictures))) == (0, white)
        made, black = self.table(store, gallery_of(folder_set(pictures, background="none")))
        assert made == 4 and black["clear.png"] == pytest.approx([0, 0, 0, 1])
        assert {name for name in white if white[name] != black[name]} == {"clear.png"}
        made, again = self.table(store, gallery_of(folder_set(pictures)))
        assert made == 4 and again == white

    def test_of_an_exif_turn_are_made_anew(self, pictures: Path, tmp_path: Path) -> None:
        store = GalleryStore(tmp_path / "store")
        assert self.table(store, gallery_of(folder_set(pictures)))[0] == 4
        assert self.table(store, gallery_of(folder_set(pictures, upright=False)))[0] == 4

    def test_of_a_file_that_was_replaced_are_not_made_and_come_back_with_it(
        self, pictures: Path, tmp_path: Path
    ) -> None:
        gallery, file = gallery_of(folder_set(pictures)), pictures / "1.png"
        content = file.read_bytes()
        file.write_bytes((pictures / "2.png").read_bytes())
        store = GalleryStore(tmp_path / "store")
        report = store.synchronise("t", gallery, Mean())
        assert [(failed.image_id, failed.reason) for failed in report.failed] == [
            ("1.png", f"{file}: {CHANGED}")
        ]
        assert report.rows == 3
        file.write_bytes(content)
        made, vectors = self.table(store, gallery)
        assert made == 1
        assert vectors["1.png"] == pytest.approx(
            Mean().embed_images([Mean().preprocess(Image.open(file))])[0]
        )

    def test_of_earlier_versions_are_made_anew(self, pictures: Path, tmp_path: Path) -> None:
        """These name the bytes alone: how they were read is not known."""
        store, gallery = GalleryStore(tmp_path / "store"), gallery_of(folder_set(pictures))
        store.synchronise("t", gallery, Mean())
        handle = store.open("t")
        for image, fingerprint in gallery.select("image_id", "fingerprint").iter_rows():
            handle.update(where=f"image_id = '{image}'", values={"fingerprint": fingerprint})
        assert self.table(store, gallery)[0] == 4


def test_references_that_have_changed_are_named_and_their_queries_go_without(pictures: Path) -> None:
    files = picture_files(gallery_of(folder_set(pictures)))
    (pictures / "1.png").write_bytes(tiny_picture(9))
    opened = ReferencePictures(Mean(), files)
    found = opened.pixels(["0.png", "1.png", "clear.png"])
    assert found[1] is None and opened.failed["1.png"].endswith(CHANGED)
    assert found[2] is not None and found[2].getpixel((0, 0)) == (255, 255, 255)


def test_what_is_shown_is_what_models_see(pictures: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40), "red").save(pictures / "turned.jpg", exif=exif)
    for keys, clear, size in (({}, 255, (20, 40)), ({"background": "none", "upright": False}, 0, (40, 20))):
        files = picture_files(gallery_of(folder_set(pictures, **keys)))
        shown = [open_thumbnail(files[name], 40) for name in ("clear.png", "turned.jpg")]
        assert shown[0] is not None and shown[0].getpixel((2, 2)) == (clear,) * 3
        assert (
            shown[1] is not None
            and shown[1].size == size == files["turned.jpg"].read((20, 20)).resize(size).size
        )
    (pictures / "clear.png").write_bytes(tiny_picture(9))
    assert open_thumbnail(files["clear.png"], 40) is None, "no model has seen it"


def test_files_that_changed_are_found_without_decoding(pictures: Path) -> None:
    files = picture_files(gallery_of(folder_set(pictures)))
    (pictures / "0.png").write_bytes(b"another")
    (pictures / "2.png").unlink()
    assert changed_images([*files.values()]) == [
        (files["0.png"], CHANGED),
        (files["2.png"], "there is no such file"),
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = write_tiny_judge("llava", tmp_path_factory.mktemp("judges") / "judge")
    return MultimodalModel.load(
        JudgeSettings(name=str(folder), pair_batch_size=16, max_new_tokens=4), device="cpu"
    )


@pytest.fixture
def judge(model: MultimodalModel) -> YesNoJudge:
    model.vision.memory.clear()
    return YesNoJudge(model, load_prompts("miniature").get("judge"))


QUERY = pl.DataFrame(
    [{"query_id": "q", "reference_id": "0.png", "modification": "red", "captions": ["red"]}], schema=QUERIES
)
WANTED = {"q": ["1.png", "2.png", "clear.png"]}


class TestModelCalls:
    """Replace a picture, ask, put it back, ask: the other picture's result is nowhere kept."""

    def scores(self, judge: YesNoJudge, gallery: pl.DataFrame, cache: Path) -> dict[str, float]:
        found = judge_pairs(WANTED, QUERY, gallery, judge, ContentCache(cache, CACHE_KIND))
        return {image: score for (_, image), score in found.items()}

    @pytest.mark.parametrize("replaced", ["1.png", "0.png"], ids=["candidate", "reference"])
    def test_scores(self, judge: YesNoJudge, pictures: Path, tmp_path: Path, replaced: str) -> None:
        gallery, content = gallery_of(folder_set(pictures)), (pictures / replaced).read_bytes()
        truth = self.scores(judge, gallery, tmp_path / "truth.sqlite")
        assert truth.keys() == {*WANTED["q"]}
        judge.model.vision.memory.clear()
        (pictures / replaced).write_bytes(tiny_picture(17))
        meanwhile = self.scores(judge, gallery, tmp_path / "cache.sqlite")
        assert meanwhile.keys() == (set() if replaced == "0.png" else {"2.png", "clear.png"})
        (pictures / replaced).write_bytes(content)
        assert self.scores(judge, gallery, tmp_path / "cache.sqlite") == pytest.approx(truth, abs=1e-4)

    def test_scores_by_other_rules_are_others(
        self, judge: YesNoJudge, pictures: Path, tmp_path: Path
    ) -> None:
        cache = tmp_path / "cache.sqlite"
        white = self.scores(judge, gallery_of(folder_set(pictures)), cache)
        black = self.scores(judge, gallery_of(folder_set(pictures, background="#000000")), cache)
        assert abs(white["clear.png"] - black["clear.png"]) > 1e-3
        assert self.scores(judge, gallery_of(folder_set(pictures)), cache) == white

    def test_texts(self, model: MultimodalModel, pictures: Path, tmp_path: Path) -> None:
        model.vision.memory.clear()
        gallery, file = gallery_of(folder_set(pictures)), pictures / "0.png"
        prompts, content = load_prompts("miniature"), file.read_bytes()

        def texts(name: str) -> list[pl.DataFrame]:
            cache = ContentCache(tmp_path / name, TEXTS_KIND)
            return [
                describe_images(model, prompts, gallery.filter(image_id="0.png"), cache),
                compose_queries(model, prompts, QUERY, gallery, cache),
            ]

        truth = texts("truth.sqlite")
        model.vision.memory.clear()
        file.write_bytes(tiny_picture(17))
        meanwhile = texts("cache.sqlite")
        assert [made["status"].to_list() for made in meanwhile] == [["failed"], ["fallback"]]
        assert all(made.item(0, "detail").endswith(CHANGED) for made in meanwhile)
        file.write_bytes(content)
        for found, expected in zip(texts("cache.sqlite"), truth, strict=True):
            assert found.equals(expected)

    def test_bytes_that_change_between_two_readings_fail_the_second(self, pictures: Path) -> None:
        picture = pictures_of(gallery_of(folder_set(pictures)))["1.png"]
        assert picture.open().mode == "RGB"
        (pictures / "1.png").write_bytes(tiny_picture(17))
        for read in (picture.open, picture.content_as_shown):
            with pytest.raises(PictureError, match=CHANGED):
                read()


def test_vision_features_of_other_rules_are_others(model: MultimodalModel, pictures: Path) -> None:
    fingerprint, path = fingerprint_file(pictures / "clear.png"), pictures / "clear.png"
    white, black = Picture(fingerprint, path, "#ffffff"), Picture(fingerprint, path, "#000000")
    one, other = model.vision.features([white, black])
    assert white.identity != black.identity and not bool((one.embeds == other.embeds).all())


def test_a_training_on_other_pictures_or_rules_is_another(judge: YesNoJudge, pictures: Path) -> None:
    row = ("p", "train", "g", "0.png", "red", "1.png", True, "positive", "captions")
    pairs = pl.DataFrame([row], schema=PAIRS, orient="row")
    found = set()
    for rules in (OFFICIAL, OWN_FOLDER):
        images = gallery_of(folder_set(pictures)).with_columns(pixels=pl.lit(rules.id))
        found.add(training_run_digest(judge, pairs, pictures_of(images), AdapterSettings()))
    shutil.copy(pictures / "2.png", pictures / "1.png")
    images = gallery_of(folder_set(pictures))
    found.add(training_run_digest(judge, pairs, pictures_of(images), AdapterSettings()))
    assert len(found) == 3


def test_a_bundles_examples_are_the_pictures_that_the_judge_saw(pictures: Path) -> None:
    path = pictures / "clear.png"
    stored = Picture(fingerprint_file(path), path, OWN_FOLDER.id).content_as_shown()
    assert Picture("any", stored).open().getpixel((0, 0)) == (255, 255, 255)
    assert Picture(fingerprint_file(path), path).content_as_shown() == path.read_bytes()


def test_tables_of_earlier_versions_are_read_as_they_were_made(tmp_path: Path) -> None:
    from setr_lib.pipeline.storage import Tables

    tables = Tables(Settings(base_dir=tmp_path))
    for asset, schema in (("gallery_images", GALLERY), ("training_images", TRAINING_IMAGES)):
        path = tables.write(asset, schema.to_frame().clear(n=1), schema)
        pl.read_parquet(path).drop("pixels").write_parquet(path)
        assert tables.read(asset, schema)["pixels"].to_list() == [""]


def test_a_file_of_a_table_is_read_above_the_usual_limit(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked at under the settings' own limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    file = PictureFile(str(pictures / "0.png"), fingerprint_file(pictures / "0.png"))
    assert file.read().mode == "RGB"
