"""A picture or text that an embedding space refuses costs itself, wherever the space runs its processor: in
``preprocess``, or inside of the model's own call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.hashing import fingerprint_file
from setr_lib.methods.inputs import TextVectors
from setr_lib.methods.references import ReferencePictures
from setr_lib.models.refusals import run_without_refused
from setr_lib.pixels import RefusedImageError
from setr_lib.settings import EncoderSettings
from setr_lib.spaces.blip2_space import load_space as load_blip2
from setr_lib.spaces.caption_vectors import CaptionVectorStore
from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.spaces.sentence_space import load_space
from setr_lib.spaces.space import EmbeddingSpace, SpaceError
from setr_lib.spaces.taken_images import embed_image
from setr_lib.spaces.vector_store import GalleryStore
from tests.tiny_blip2 import write_tiny_blip2
from tests.tiny_encoder import write_tiny_clip
from tests.tiny_judges import tiny_picture
from tests.tiny_sentences import write_tiny_embedder

THIN = (2100, 10)


def images_of(folder: Path, places: Sequence[int] = (1, 4)) -> pl.DataFrame:
    """Six pictures; those at ``places`` are 210 times as wide as high."""
    rows = []
    for number in range(6):
        path = folder / f"{number}.png"
        path.write_bytes(tiny_picture(number, THIN if number in places else (48, 40 + number)))
        rows.append({"image_id": f"i{number}", "path": str(path), "fingerprint": fingerprint_file(path)})
    return pl.DataFrame(rows)


def means(images: Sequence[Any]) -> np.ndarray:
    rows = np.array([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images]) + 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Own(EmbeddingSpace):
    """Mean colours; refuses thin pictures in ``preprocess`` or in its model's call, and texts with a dot."""

    dimension, batch_size = 3, 4

    def __init__(self, where: str) -> None:
        self.id, self.where = f"own-{where}", where

    def preprocess(self, image: Image.Image) -> Image.Image:
        if self.where == "preprocess":
            self.check(image)
        return image

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        if self.where == "model":
            for image in images:
                self.check(image)
        return means(images)

    def check(self, image: Image.Image) -> None:
        if image.width > 200 * image.height:
            raise ValueError(f"absolute aspect ratio must be smaller than 200, got {image.width}")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        if any("." in text for text in texts):
            raise IndexError("index 99 is out of bounds")
        return means([np.full((1, 1, 3), len(text)) for text in texts])

    def embed_queries(self, images: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        self.embed_texts(texts)
        return self.embed_images(images)

    def embed_patches(self, images: Sequence[Any]) -> np.ndarray:
        self.embed_images(images)
        return np.ones((len(images), 2, 3), dtype=np.float32)


SPACES = ["own preprocess", "own model", "open_clip", "blip2", "sentences"]


@pytest.fixture(scope="module", params=SPACES)
def space(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSpace:
    folder = tmp_path_factory.mktemp("models")
    if request.param.startswith("own"):
        return Own(request.param.split()[1])
    if request.param == "sentences":  # Qwen-VL's own processor, inside of the model's call
        return load_space(model=str(write_tiny_embedder(folder / "m")), device="cpu", batch_size=4)
    if request.param == "open_clip":
        found: Any = OpenClipSpace.load(EncoderSettings(name=write_tiny_clip(folder / "clip")), "cpu")
        careful, name = Own("preprocess"), "_preprocess"
    else:
        write_tiny_blip2(folder / "blip2")
        found, careful, name = (
            load_blip2(name=str(folder / "blip2"), device="cpu"),
            Own("preprocess"),
            "_images",
        )
    prepare = getattr(found, name)

    def checked(image: Any = None, **options: Any) -> Any:
        careful.check(options.get("images", image))
        return prepare(**options) if options else prepare(image)

    setattr(found, name, checked)
    return found


def test_a_refused_picture_fails_by_name_and_the_others_have_their_vectors(
    space: EmbeddingSpace, tmp_path: Path
) -> None:
    images, store = images_of(tmp_path), GalleryStore(tmp_path / "db")
    report = store.synchronise("t", images, space)
    assert [failed.image_id for failed in report.failed] == ["i1", "i4"]
    assert all(failed.path in failed.reason and "200" in failed.reason for failed in report.failed)
    assert (report.embedded, report.rows) == (4, 4)
    # A broken file in its place: the same vectors, to the last digit.
    for number in (1, 4):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    clean = GalleryStore(tmp_path / "clean")
    assert clean.synchronise("t", images, space).embedded == 4
    for found, expected in zip(store.read("t"), clean.read("t"), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_one_refused_picture_alone_is_an_error_for_people(space: EmbeddingSpace) -> None:
    with pytest.raises(RefusedImageError, match="2,100 x 10 pixels"):
        embed_image(space, Image.new("RGB", THIN))
    good = Image.new("RGB", (40, 48), (10, 90, 30))
    vector = space.embed_preprocessed([space.preprocess(good)])
    np.testing.assert_array_equal(embed_image(space, good), vector)


@pytest.mark.parametrize("where", ["preprocess", "model"])
def test_references_that_are_refused_are_zero_rows_and_named(where: str, tmp_path: Path) -> None:
    images, space = images_of(tmp_path), Own(where)
    pictures = ReferencePictures(space, dict(images.select("image_id", "path").iter_rows()))
    names = ["i0", "i1", "i2", "i0"]
    vectors = pictures.query_vectors(names, ["a", "b", "c", "too long."])
    expected = means([Image.open(tmp_path / f"{n}.png").convert("RGB") for n in (0, 2)])
    np.testing.assert_allclose(vectors[[0, 2]], expected, atol=1e-6)
    assert not vectors[1].any() and not vectors[3].any()
    assert list(pictures.failed) == ["i1"] and "200" in pictures.failed["i1"]
    fresh = ReferencePictures(space, dict(images.select("image_id", "path").iter_rows()))
    patches = fresh.patches(["i0", "i1", "i2"])
    assert patches[[0, 2]].all() and not patches[1].any() and list(fresh.failed) == ["i1"]
    nothing = ReferencePictures(space, {})
    assert nothing.patches(["i0", "i1"]).shape == (2, *patches.shape[1:])
    assert not nothing.patches(["i0", "i1"]).any() and len(nothing.patches([])) == 0


def test_a_text_that_is_refused_is_a_zero_row_and_the_others_are_as_without_it(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    space = Own("model")
    encode = TextVectors(space)
    found = encode(["red", "too long.", "blue dress"])
    np.testing.assert_array_equal(found[[0, 2]], TextVectors(space)(["red", "blue dress"]))
    assert not found[1].any() and encode.refused == {"too long.": "index 99 is out of bounds"}
    assert "1 texts are refused by the encoder" in caplog.text
    store = CaptionVectorStore(GalleryStore(tmp_path / "db"))
    report = store.synchronise("captions", [["red", "bad."], ["blue"]], space)
    assert report.embedded == 3 and "'bad.'" in caplog.text


def test_a_picture_that_would_take_gigabytes_is_not_prepared(tmp_path: Path) -> None:
    images = images_of(tmp_path, ())
    Image.new("RGB", (300_000, 1)).save(tmp_path / "2.png")
    images = images.with_columns(
        fingerprint=pl.Series([fingerprint_file(Path(path)) for path in images["path"]])
    )
    (failed,) = GalleryStore(tmp_path / "db").synchronise("t", images, Own("none")).failed
    assert failed.image_id == "i2" and "300,000 x 1 pixels is too thin" in failed.reason


class Failing(Own):
    """A space whose model fails on anything."""

    def __init__(self, error: Exception) -> None:
        super().__init__("none")
        self.error = error

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("weights overflow"), MemoryError(), SpaceError("not finite")], ids=str
)
def test_errors_of_the_model_itself_end_the_step(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"weights overflow|not even one item|not finite"):
        GalleryStore(tmp_path / "db").synchronise("t", images_of(tmp_path), Failing(error))


def test_a_preprocess_that_takes_nothing_ends_the_step(tmp_path: Path) -> None:
    space = Own("preprocess")
    space.check = lambda image: image.no_such_attribute  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="no_such_attribute"):
        GalleryStore(tmp_path / "db").synchronise("t", images_of(tmp_path), space)


def test_a_batch_that_fails_for_no_single_item_is_the_functions_own_failure() -> None:
    def run(items: Sequence[int]) -> list[int]:
        if len(items) > 1:
            raise RuntimeError("one at a time")
        return list(items)

    with pytest.raises(RuntimeError, match="one at a time"):
        run_without_refused([1, 2], run, lambda: 0)
