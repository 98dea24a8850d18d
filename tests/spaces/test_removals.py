"""When stored images may be removed: the rule by itself, and in the vector and caption stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.hashing import fingerprint_file
from setr_lib.spaces.caption_store import CaptionStore
from setr_lib.spaces.removals import RemovalRefusedError, RemovalRule, origins_of
from setr_lib.spaces.space import EmbeddingSpace
from setr_lib.spaces.stored_galleries import clear, stored_images, stored_images_of, tables_of
from setr_lib.spaces.vector_store import GalleryStore


class Colours(EmbeddingSpace):
    """An image's vector is its mean colour."""

    dimension = 3
    id = "colours"

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        rows = np.array([np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) + 1 for image in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class OtherColours(Colours):
    id = "other-colours"


def ids(count: int) -> list[str]:
    return [f"{number:03d}.png" for number in range(count)]


def gallery(folder: Path, names: list[str], shade: int = 0) -> pl.DataFrame:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4), (number, shade, 90)).save(folder / name)
    paths = [folder / name for name in names]
    prints = [fingerprint_file(path) for path in paths]
    return pl.DataFrame(
        {
            "image_id": names,
            "path": list(map(str, paths)),
            "status": ["ok"] * len(names),
            "fingerprint": prints,
            "pixels": [""] * len(names),
        },
        schema={name: pl.String() for name in ("image_id", "path", "status", "fingerprint", "pixels")},
    )


class TestRule:
    @pytest.mark.parametrize(
        ("stored", "gone", "is_refused"),
        [
            (100, 20, False),
            (100, 21, True),
            (50, 10, False),
            (49, 10, True),
            (30, 9, False),
            (30, 10, True),
            (9, 8, False),
            (3, 3, True),
            (100, 0, False),
        ],
    )
    def test_a_fifth_may_go_and_nine_but_not_all(self, stored: int, gone: int, is_refused: bool) -> None:
        names = ids(stored)
        if is_refused:
            with pytest.raises(RemovalRefusedError):
                RemovalRule().check(names, names[gone:])
        else:
            RemovalRule().check(names, names[gone:])
        RemovalRule(accepted=True).check(names, names[gone:])

    def test_the_share_can_be_set(self) -> None:
        names = ids(100)
        RemovalRule(share=0.5).check(names, names[50:])
        RemovalRule(share=1).check(names, names[99:])
        for share, gone in ((0.5, 51), (0.0, 10), (1.0, 100)):
            with pytest.raises(RemovalRefusedError):
                RemovalRule(share=share).check(names, names[gone:])

    def test_the_message_counts_names_three_and_says_how_to_consent(self) -> None:
        rule = RemovalRule(gallery="mine", folder="/data/mine", consent="type this")
        with pytest.raises(RemovalRefusedError) as caught:
            rule.check(ids(30), ids(18))
        words = str(caught.value)
        assert "12 of the 30 images" in words and "/data/mine" in words and words.endswith("type this")
        assert "'018.png', '019.png', '020.png' and 9 more" in words
        with pytest.raises(RemovalRefusedError, match="mine: there is no readable image in /data/mine"):
            rule.check(ids(2), [])

    def test_another_origin_is_another_gallery_as_long_as_it_has_images(self) -> None:
        rule = RemovalRule(origin="new")
        rule.check(ids(30), ["x"], {"old"})
        for origins in ({"new"}, {"old", "new"}, set()):
            with pytest.raises(RemovalRefusedError):
                rule.check(ids(30), ["x"], origins)
        with pytest.raises(RemovalRefusedError):
            rule.check(ids(30), [], {"old"})


class TestVectorStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> GalleryStore:
        return GalleryStore(tmp_path / "lancedb")

    def test_a_mass_removal_is_refused_and_changes_nothing(self, store: GalleryStore, tmp_path: Path) -> None:
        images, space = gallery(tmp_path / "images", ids(30)), Colours()
        before = store.synchronise("t", images, space)
        for left in (images[:20], images.clear(), images.with_columns(status=pl.lit("missing"))):
            with pytest.raises(RemovalRefusedError):
                store.synchronise("t", left, space)
            assert store.open("t").version == before.version
        report = store.synchronise("t", images[:20], space, removals=RemovalRule(accepted=True))
        assert (report.rows, report.removed) == (20, 10)
        with pytest.raises(RemovalRefusedError):
            store.synchronise("t", images[:5], space)  # the consent was for that call

    def test_changed_bytes_are_no_removal(self, store: GalleryStore, tmp_path: Path) -> None:
        space = Colours()
        store.synchronise("t", gallery(tmp_path / "images", ids(30)), space)
        report = store.synchronise("t", gallery(tmp_path / "images", ids(30), shade=200), space)
        assert (report.embedded, report.rows) == (30, 30)

    def test_the_origin_is_that_of_the_last_synchronisation(
        self, store: GalleryStore, tmp_path: Path
    ) -> None:
        images, space = gallery(tmp_path / "images", ids(30)), Colours()
        store.synchronise("t", images[:15], space, removals=RemovalRule(origin="aa"))
        assert origins_of(store.open("t")) == {"aa"}
        store.synchronise("t", images[15:], space, removals=RemovalRule(origin="bb"))
        assert origins_of(store.open("t")) == {"bb"}
        with pytest.raises(RemovalRefusedError):
            store.synchronise("t", images[:3], space, removals=RemovalRule(origin="bb"))
        store.synchronise("t", images[:3], space, removals=RemovalRule(origin="aa"))
        assert store.ids("t") == ids(3)

    def test_the_tables_of_a_gallery_are_found_by_what_they_hold(
        self, store: GalleryStore, tmp_path: Path
    ) -> None:
        assert tables_of(store, "mine") == [] and not Path(store.uri).exists()
        images = gallery(tmp_path / "images", ids(4))
        for key, space in (("mine", Colours()), ("mine", OtherColours()), ("mine-2", Colours())):
            store.synchronise(store.table_name(key, space), images, space)
        CaptionStore(store).write(
            CaptionStore.table_name("mine"), pl.DataFrame({"image_id": ["x"], "captions": [["a dog"]]})
        )
        assert tables_of(store, "mine") == sorted(
            store.table_name("mine", space) for space in (Colours(), OtherColours())
        )
        assert stored_images_of(store, "mine") == [(set(ids(4)), set())] * 2
        table = store.table_name("mine", Colours())
        assert (clear(store, table), clear(store, table)) == (4, 0)
        assert stored_images(store, table) == (set(), set())
        assert len(stored_images_of(store, "mine")) == 1


def test_captions_of_many_images_do_not_go_without_consent(tmp_path: Path) -> None:
    store = CaptionStore(GalleryStore(tmp_path / "lancedb"))
    captions = pl.DataFrame({"image_id": ids(30), "captions": [[f"shape {number}"] for number in range(30)]})
    before = store.write("t", captions)
    with pytest.raises(RemovalRefusedError, match="20 of the 30 images whose captions are stored"):
        store.write("t", captions[:10])
    assert store.store.open("t").version == before.version
    assert store.write("t", captions.with_columns(captions=pl.lit(["other words"]))).rows == 30
    assert store.write("t", captions[:10], RemovalRule(accepted=True)).rows == 10
