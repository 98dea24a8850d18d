"""What trained retrieval systems learn from: draws, digests, and the features of images."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from encoders import miniature
from PIL import Image
from small_lessons import draw_pictures, features_of, small_data

from setr_lib.hashing import fingerprint_file
from setr_lib.pixels import read_image
from setr_lib.systems.data import COPY, HELD_OUT, TRAIN, Features, SystemData, TrainingDataError, check_enough
from setr_lib.systems.features import PATCHES, PIXELS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SystemData:
    return small_data(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("what", ["training_triplets", "training_images"])
def test_a_smaller_draw_is_part_of_a_larger_one_and_another_seed_draws_others(
    data: SystemData, what: str
) -> None:
    draw = getattr(data, what)
    drawn = [set(draw(limit, 3).rows()) for limit in (2, 4, 7, 8, 9, 50, None)]
    assert [len(rows) for rows in drawn[:5]] == [2, 4, 7, 8, 9]
    assert all(small <= large for small, large in pairwise(drawn))
    assert drawn[-1] == drawn[-2] and len(drawn[-1]) == draw(None, 0).height
    assert any(set(draw(4, seed).rows()) != drawn[1] for seed in range(4, 8))
    assert all(split == TRAIN for split in draw(None, 0)["split"])


def test_the_gallery_is_the_held_out_images_alone(data: SystemData) -> None:
    named = pl.concat([data.held_out["reference_id"], data.held_out["target_id"]])
    assert data.gallery == sorted(data.images.filter(split=HELD_OUT)["image_id"])
    assert {*named} <= {*data.gallery}
    rows = data.training_triplets(None, 0)
    assert not {*rows["reference_id"], *rows["target_id"]} & {*data.gallery}


def changed(data: SystemData, **columns: pl.Expr) -> SystemData:
    """The same data with other columns of triplets or images."""
    of_triplets = {name: value for name, value in columns.items() if name in data.triplets.columns}
    of_images = {name: value for name, value in columns.items() if name not in of_triplets}
    return SystemData(
        data.source, data.triplets.with_columns(**of_triplets), data.images.with_columns(**of_images)
    )


FIRST = pl.int_range(pl.len()) == 0
LAST = pl.int_range(pl.len()) == pl.len() - 1


def test_digests_tell_what_a_training_depends_on(data: SystemData, tmp_path: Path) -> None:
    """A picture's bytes, a text, a split and a caption count, where files lie does not. The order of images
    does not count; that of triplets does, because batches are drawn by it."""
    assert data.digest == SystemData("other", data.triplets, data.images).digest
    other = pl.lit("other")
    moved = changed(data, path="/elsewhere/" + pl.col("image_id"))
    assert (moved.digest, moved.held_out_digest) == (data.digest, data.held_out_digest)
    turned = SystemData(data.source, data.triplets, data.images.reverse())
    assert (turned.digest, turned.held_out_digest) == (data.digest, data.held_out_digest)
    for where, held_out_too in ((FIRST, False), (LAST, True)):
        picture = changed(data, fingerprint=pl.when(where).then(other).otherwise("fingerprint"))
        text = changed(data, modification=pl.when(where).then(other).otherwise("modification"))
        for one in (picture, text):
            assert one.digest != data.digest
            assert (one.held_out_digest != data.held_out_digest) is held_out_too
    captioned = changed(data, caption=pl.when(FIRST).then(other).otherwise("caption"))
    assert captioned.digest != data.digest and captioned.held_out_digest == data.held_out_digest
    split = changed(data, split=pl.when(LAST).then(pl.lit(TRAIN)).otherwise("split"))
    assert split.digest != data.digest and split.held_out_digest != data.held_out_digest
    ordered = SystemData(data.source, data.triplets.reverse(), data.images)
    assert ordered.digest != data.digest
    redrawn = draw_pictures(tmp_path)
    again = SystemData(data.source, data.triplets, redrawn)
    assert again.digest == data.digest, "the same pictures elsewhere"
    Image.new("RGB", (40, 40)).save(redrawn["path"][0])
    fingerprints = [fingerprint_file(Path(path)) for path in redrawn["path"]]
    painted = SystemData(
        data.source, data.triplets, redrawn.with_columns(pl.Series("fingerprint", fingerprints))
    )
    assert painted.digest != data.digest


def test_data_that_nothing_can_be_learned_from_or_measured_on_is_refused(data: SystemData) -> None:
    held_out = SystemData("shop", data.held_out, data.images.filter(split=HELD_OUT))
    with pytest.raises(TrainingDataError, match="no training triplets come from 'shop'"):
        held_out.training_triplets(None, 0)
    with pytest.raises(TrainingDataError, match="'shop' has 0 training images: two are needed"):
        held_out.training_images(None, 0)
    train = SystemData("shop", data.triplets.filter(split=TRAIN), data.images)
    with pytest.raises(TrainingDataError, match=r"no triplet of 'shop' is held out.* held_out_share"):
        train.measurable()
    assert data.measurable() is data


def test_no_training_triplet_shows_a_copy_of_a_held_out_image(data: SystemData) -> None:
    """A copy has the same bytes, and any name; it is neither searched nor trained on."""
    assert data.without_copies() is data
    shown = data.images.filter(image_id="12.png")["fingerprint"].item()
    copied = pl.when(pl.col("image_id") == "03.png").then(pl.lit(shown)).otherwise("fingerprint")
    found = changed(data, fingerprint=copied).without_copies()
    assert dict(found.images.select("image_id", "split").iter_rows()) == {
        **dict(data.images.select("image_id", "split").iter_rows()),
        "03.png": COPY,
    }
    is_of_it = (pl.col("reference_id") == "03.png") | (pl.col("target_id") == "03.png")
    assert found.triplets.equals(data.triplets.filter(~is_of_it)) and found.triplets.height == 13
    assert found.held_out.equals(data.held_out) and found.gallery == data.gallery
    assert "03.png" not in found.training_images(None, 0)["image_id"]
    blank = changed(data, fingerprint=pl.lit(None, pl.String))
    assert blank.without_copies() is blank, "what was not read is no copy"


def test_copies_are_told_by_their_bytes(data: SystemData) -> None:
    assert data.copies == {}
    shown = data.images.filter(image_id="03.png")["fingerprint"].item()
    copied = pl.when(pl.col("image_id").is_in(["07.png", "01.png"])).then(pl.lit(shown))
    found = changed(data, fingerprint=copied.otherwise("fingerprint")).copies
    same = ["01.png", "03.png", "07.png"]
    assert found == dict.fromkeys(same, same)
    assert changed(data, fingerprint=pl.lit(None, pl.String)).copies == {}
    assert changed(data, fingerprint=pl.lit("")).copies == {}


def test_what_nothing_can_be_learned_from_is_refused(data: SystemData) -> None:
    one = data.training_triplets(1, 0)
    check_enough(one, "shop", contrasts=False)
    check_enough(data.training_triplets(2, 0), "shop", contrasts=True)
    with pytest.raises(TrainingDataError, match="the 1 training triplets of 'shop' have one target image"):
        check_enough(one, "shop", contrasts=True)
    with pytest.raises(TrainingDataError, match="the 1 training images of 'shop' are one image"):
        check_enough(data.training_images(1, 0), "shop", contrasts=True)
    with pytest.raises(TrainingDataError, match="'shop' has no training triplets whose images can be emb"):
        check_enough(one[:0], "shop", contrasts=False)


def read_by_hand(data: SystemData, image: str) -> torch.Tensor:
    """An image as the encoder's preprocessing gives it."""
    path = data.images.row(by_predicate=pl.col("image_id") == image, named=True)["path"]
    return miniature().preprocess(read_image(path))


def test_features_are_those_of_the_images_asked_for_in_their_order(data: SystemData) -> None:
    features, encoder = features_of(data), miniature()
    asked = ["03.png", "12.png", "03.png", "00.png"]
    found = features.of(asked)
    pixels = torch.stack([read_by_hand(data, image) for image in asked])
    assert found.pixels is not None and torch.equal(found.pixels, pixels)
    expected = torch.from_numpy(encoder.embed_preprocessed(list(pixels)))
    torch.testing.assert_close(found.vectors, expected, atol=1e-5, rtol=0)
    assert found.patches is not None
    torch.testing.assert_close(
        found.patches, torch.from_numpy(encoder.embed_patches(list(pixels))), atol=1e-4, rtol=0
    )
    plain = features_of(data, frozenset()).of(asked)
    assert plain.patches is None and plain.pixels is None and torch.equal(plain.vectors, found.vectors)


@pytest.mark.parametrize("kept_bytes", [1, 1 << 30])
def test_an_image_has_the_same_tokens_whatever_was_asked_first(data: SystemData, kept_bytes: int) -> None:
    known = features_of(data, frozenset({PATCHES}))
    ids, paths = sorted(known.paths), known.paths
    vectors = known._vectors  # pyright: ignore[reportPrivateUsage]

    def anew() -> Features:
        return Features(miniature(), paths, ids, vectors, frozenset({PATCHES, PIXELS}), kept_bytes)

    forward, backward = anew(), anew()
    one = {image: forward.of([image]) for image in ids}
    all_at_once = backward.of(ids[::-1])
    for place, image in enumerate(ids[::-1]):
        patches, pixels = one[image].patches, one[image].pixels
        assert all_at_once.patches is not None and patches is not None
        assert torch.equal(all_at_once.patches[place], patches[0])
        assert all_at_once.pixels is not None and pixels is not None
        assert torch.equal(all_at_once.pixels[place], pixels[0])


def test_memory_is_bounded_and_what_was_used_last_is_kept(data: SystemData, tmp_path: Path) -> None:
    images = draw_pictures(tmp_path)
    mine = SystemData(data.source, data.triplets, images)
    known = features_of(mine, frozenset({PIXELS}))
    size = read_by_hand(mine, "00.png").nbytes
    ids = sorted(known.paths)
    vectors = known._vectors  # pyright: ignore[reportPrivateUsage]
    features = Features(miniature(), known.paths, ids, vectors, frozenset({PIXELS}), 3 * size)
    for image in (*ids[:3], ids[0], ids[3]):  # the first was used again: the second is dropped
        features.of([image])
    for path in images["path"]:
        Path(path).unlink()
    for image in (ids[0], ids[2], ids[3]):
        features.of([image])
    with pytest.raises(TrainingDataError, match=r"image '01.png' was readable .* is not now: .*01\.png"):
        features.of([ids[1]])


def test_an_image_without_a_vector_is_named(data: SystemData) -> None:
    features = features_of(data)
    with pytest.raises(TrainingDataError, match=r"image 'new\.png' has no vector: materialise"):
        features.of(["00.png", "new.png"])
