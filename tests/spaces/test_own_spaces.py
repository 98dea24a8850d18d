"""Spaces of one's own: how settings describe them, what is refused, and what they are asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.hashing import fingerprint_file
from setr_lib.methods.inputs import EncodedQueries, GalleryIndex, MethodError, MethodInputs, encode_queries
from setr_lib.methods.method import Method, VectorMethod, get_method
from setr_lib.methods.ranking import rank
from setr_lib.methods.references import ReferencePictures
from setr_lib.methods.similarity import similarity, unit
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import Settings, load_settings
from setr_lib.spaces.space import EmbeddingSpace, SpaceError, check_space
from setr_lib.spaces.vector_store import GalleryStore
from tests.methods.worlds import queries_of
from tests.tiny_encoder import write_tiny_clip

PLUGIN = """
import numpy as np
from setr_lib.methods.method import Method
from setr_lib.methods.similarity import similarity
from setr_lib.spaces.space import EmbeddingSpace

class Means(EmbeddingSpace):
    def __init__(self, device, scale=1.0):
        self.id, self.dimension, self.device, self.scale = f"means-{scale}", 3, device, scale
    def embed_images(self, images):
        rows = np.array([np.asarray(image, dtype=float).mean(axis=(0, 1)) + 1 for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

class Broken(Means):
    def __init__(self, device):
        raise RuntimeError("weights are gone")

def no_space(device):
    return object()

class ByMeans(Method):
    name, space = "by_means", "means"
    def scores(self, inputs):
        return similarity(inputs.queries.reference_vectors, inputs.gallery.vectors)
"""


class Pixels(EmbeddingSpace):
    """A space without a text side; a query's vector is its picture's mean colour, mirrored by its text."""

    id, dimension, batch_size = "pixels", 3, 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        return unit(np.array([np.asarray(image, dtype=float).mean(axis=(0, 1)) for image in images]) + 1)

    def embed_queries(self, images: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        self.batches.append(len(images))
        vectors = self.embed_images(images)
        return np.array(
            [v[::-1] if text.endswith("1") else v for v, text in zip(vectors, texts, strict=True)]
        )

    def embed_patches(self, images: Sequence[Any]) -> np.ndarray:
        return np.stack(
            [np.asarray(image.resize((2, 2)), dtype=np.float32).reshape(4, 3) for image in images]
        )


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "space_plugin.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path / "setr.toml"
    sys.modules.pop("space_plugin", None)


def settings_of(config: Path, text: str) -> Settings:
    config.write_text(text, encoding="utf-8")
    return load_settings(config)


def space_of(config: Path, text: str, name: str = "means") -> EmbeddingSpace:
    return PipelineContext(settings_of(config, text)).models.space(name)


def test_a_space_of_ones_own_gets_its_options_and_the_device(config: Path) -> None:
    text = '[models]\ndevice = "cpu"\n[spaces.means]\nkind = "space_plugin:Means"\noptions = {scale = 2.0}\n'
    context = PipelineContext(settings_of(config, text))
    space: Any = context.models.space("means")
    assert (space.id, space.device) == ("means-2.0", "cpu")
    assert context.models.space("means") is space, "loaded once"
    assert (space.embeds_texts, space.embeds_queries, space.embeds_patches) == (False, False, False)


def test_open_clip_is_a_kind_of_space_beside_the_encoder(config: Path) -> None:
    write_tiny_clip(config.parent / "one")
    write_tiny_clip(config.parent / "other", seed=3)
    context = PipelineContext(
        settings_of(
            config,
            '[models]\ndevice = "cpu"\n[models.encoder]\nname = "local-dir:one"\n'
            '[spaces.large]\nkind = "open_clip"\noptions = {name = "local-dir:other"}\n',
        )
    )
    one, other = context.models.space(), context.models.space("large")
    assert one.id.startswith("local-dir:one@") and other.id.startswith("local-dir:other@")
    assert other.embeds_texts and not other.embeds_queries
    names = {GalleryStore.table_name("cirr-val", space) for space in (one, other)}
    assert len(names) == 2, "one table for each gallery and space"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("means", "space_plugin:Broken", ["[spaces.means]", "RuntimeError: weights are gone"]),
        ("means", "space_plugin:no_space", ["[spaces.means]", "it lacks id, dimension, embed_images"]),
        ("means", "space_plugin:Absent", ["'space_plugin:Absent' cannot be loaded"]),
        ("means", "unknown", ["there is no embedding space 'unknown'", "open_clip"]),
        ("other", "space_plugin:Means", ["'other'", "'clip', 'means'", "[spaces.other]"]),
    ],
)
def test_a_space_that_cannot_be_had_is_told_with_its_settings_key(
    config: Path, name: str, kind: str, words: list[str]
) -> None:
    with pytest.raises(SpaceError) as caught:
        space_of(config, f'[spaces.means]\nkind = "{kind}"\n', name)
    assert all(each in str(caught.value) for each in words), caught.value


def test_options_that_do_not_fit_are_told(config: Path) -> None:
    with pytest.raises(SpaceError, match=r"\[spaces.means\].*unexpected keyword argument 'scales'"):
        space_of(config, '[spaces.means]\nkind = "space_plugin:Means"\noptions = {scales = 2.0}\n')


def test_a_class_that_is_not_a_space_is_refused() -> None:
    class Almost:
        id, dimension = "almost", 3

        def embed_images(self, images: Sequence[Any]) -> None: ...

    with pytest.raises(SpaceError, match="it is not a subclass"):
        check_space(Almost(), "here")


def test_a_method_of_a_space_that_settings_do_not_describe_is_refused(config: Path) -> None:
    settings = settings_of(config, '[coarse]\nstrategies = ["intersection", "space_plugin:ByMeans"]\n')
    with pytest.raises(
        MethodError, match=r"'by_means' searches the embedding space 'means'.*\[spaces.means\]"
    ):
        get_method("space_plugin:ByMeans", settings)
    described = settings_of(config, '[spaces.means]\nkind = "space_plugin:Means"\n')
    assert get_method("space_plugin:ByMeans", described).space == "means"


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((2, 3)), "norm 1.73"),
        (np.full((2, 3), np.nan), "norm nan"),
        (np.ones((1, 3)), r"shape \[1, 3\], not \[2, 3\]"),
    ],
)
def test_vectors_that_are_no_unit_vectors_reach_no_table(
    tmp_path: Path, vectors: np.ndarray, words: str
) -> None:
    class Wrong(Pixels):
        def embed_images(self, images: Sequence[Any]) -> np.ndarray:
            return vectors

    with pytest.raises(SpaceError, match=words):
        GalleryStore(tmp_path / "db").synchronise("t", pictures(tmp_path, 2), Wrong())


def pictures(folder: Path, count: int) -> pl.DataFrame:
    paths = [folder / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        Image.new("RGB", (4, 4), (200 - 20 * n, 40 * n, 10)).save(path)
    return pl.DataFrame(
        {
            "image_id": [f"i{n}" for n in range(count)],
            "path": [str(path) for path in paths],
            "fingerprint": [fingerprint_file(path) for path in paths],
            "galleries": [["all"]] * count,
        }
    )


def encoded(
    folder: Path, space: EmbeddingSpace, references: Sequence[str]
) -> tuple[EncodedQueries, GalleryIndex, pl.DataFrame]:
    gallery = pictures(folder, 5)
    store = GalleryStore(folder / "db")
    store.synchronise("t", gallery, space)
    ids, vectors = store.read("t")
    paths = dict(gallery.select("image_id", "path").iter_rows())
    queries = encode_queries(
        queries_of(references), space, ids, vectors, references=ReferencePictures(space, paths)
    )
    return queries, GalleryIndex(ids, vectors), gallery


def test_a_space_without_a_text_side_is_not_asked_for_texts(tmp_path: Path) -> None:
    queries, index, gallery = encoded(tmp_path, Pixels(), ["i0", "i1", "i4"])
    image = VectorMethod("image", lambda inputs: inputs.queries.reference_vectors, space="pixels")
    found = rank(image, queries, gallery, index, 1, remove_reference=False)
    assert found["image_id"].to_list() == ["i0", "i1", "i4"]
    text = VectorMethod("text", lambda inputs: inputs.queries.modification_vectors, space="pixels")
    with pytest.raises(SpaceError, match="pixels has no text side"):
        rank(text, queries, gallery, index, 1, remove_reference=False)


class OfPictures(Method):
    """Reads all that is made from reference pictures, and keeps what it saw by query."""

    name, space = "of_pictures", "pixels"
    needs = frozenset({"query_vectors", "reference_pixels", "reference_patches"})

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Any, Any]] = {}

    def scores(self, inputs: Any) -> np.ndarray:
        queries = inputs.queries
        for row, query in enumerate(queries.frame["query_id"]):
            self.seen[query] = (queries.reference_pixels[row], queries.reference_patches[row])
        return similarity(queries.query_vectors, inputs.gallery.vectors)


def test_reference_pictures_are_read_in_blocks_and_query_vectors_made_once(tmp_path: Path) -> None:
    space, method = Pixels(), OfPictures()
    queries, index, gallery = encoded(tmp_path, space, ["i0", "i1", "i2", "i1", "i4"])
    whole = rank(method, queries, gallery, index, 5, remove_reference=False)
    assert space.batches == [2, 2, 1], "in batches of the space, once for all"
    seen, method.seen = method.seen, {}
    blocked = rank(method, queries, gallery, index, 5, remove_reference=False, block_scores=5)
    assert blocked.equals(whole) and space.batches == [2, 2, 1]
    for row, (query, reference) in enumerate(queries.frame.select("query_id", "reference_id").rows()):
        colour: Any = Image.open(tmp_path / f"{reference[1:]}.png").getpixel((0, 0))
        assert seen[query][0].getpixel((0, 0)) == colour == method.seen[query][0].getpixel((0, 0))
        np.testing.assert_array_equal(seen[query][1], np.tile(np.float32(colour), (4, 1)))
        mirrored = colour[::-1] if queries.frame["modification"][row].endswith("1") else colour
        expected = unit(np.array([mirrored], dtype=float) + 1)[0]
        np.testing.assert_allclose(queries.query_vectors[row], expected, atol=1e-6)


def test_a_reference_that_cannot_be_read_is_a_zero_row_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queries, index, gallery = encoded(tmp_path, Pixels(), ["i0", "i1", "gone"])
    (tmp_path / "1.png").write_bytes(b"no picture")
    method = OfPictures()
    rank(method, queries, gallery, index, 5, remove_reference=False)
    names = queries.frame["query_id"].to_list()
    assert queries.unreadable_references == (names[1], names[2])
    assert [method.seen[name][0] is None for name in names] == [False, True, True]
    assert not queries.query_vectors[1:].any() and not method.seen[names[1]][1].any()
    assert queries.query_vectors[0].any()
    assert "2 reference pictures cannot be read" in caplog.text and "1.png" in caplog.text


def never(inputs: MethodInputs) -> np.ndarray:
    raise AssertionError("scores were asked for")


def test_a_need_that_the_space_cannot_give_is_told_before_scores(config: Path, tmp_path: Path) -> None:
    space = space_of(config, '[spaces.means]\nkind = "space_plugin:Means"\n')
    queries, index, gallery = encoded(tmp_path, space, ["i0"])
    for need, lacking in (("query_vectors", "embed_queries"), ("reference_patches", "embed_patches")):
        method = VectorMethod("asks", never, frozenset({need}), space="means")
        with pytest.raises(MethodError, match=rf"'asks' needs {need}, .*'means'.* has no {lacking}"):
            rank(method, queries, gallery, index, 1, remove_reference=False)
    without = encode_queries(queries.frame, space, index.ids, index.vectors)
    with pytest.raises(MethodError, match="without their reference pictures"):
        rank(OfPictures(), without, gallery, index, 1, remove_reference=False)
