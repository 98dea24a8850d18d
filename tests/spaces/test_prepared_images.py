"""Pictures that processes decode: the digits and the failures of the plain way, whatever happens to them."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.hashing import fingerprint_file
from setr_lib.settings import EncoderSettings
from setr_lib.spaces import pixel_processes, prepared_images
from setr_lib.spaces.open_clip_pixels import scaling_of
from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.spaces.prepared_images import prepared_batches
from setr_lib.spaces.vector_store import GalleryStore
from tests.tiny_encoder import write_tiny_clip

if TYPE_CHECKING:
    import torch

BROKEN = {3: b"no picture", 10: b"", 17: b"\xff\xd8\xff\xe0 cut"}
THIN, COUNT = 25, 30


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> OpenClipSpace:
    name = write_tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")
    return OpenClipSpace.load(EncoderSettings(name=name), "cpu")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """JPEGs of many sizes; some are broken, one is too thin."""
    folder, drawn = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    paths = [folder / f"{number:02d} é.jpg" for number in range(COUNT)]
    for number, path in enumerate(paths):
        size = (2, 5000) if number == THIN else (drawn.integers(20, 300), drawn.integers(20, 300))
        Image.fromarray(drawn.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        if number in BROKEN:
            path.write_bytes(BROKEN[number])
    return pl.DataFrame(
        {
            "image_id": [path.stem for path in paths],
            "path": [str(path) for path in paths],
            "fingerprint": [fingerprint_file(path) for path in paths],
            "pixels": [""] * COUNT,
        }
    )


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes decode from the first picture on, two of them, and end with the test."""
    monkeypatch.setattr(prepared_images, "MANY", 1)
    monkeypatch.setattr(prepared_images, "_FEW", 1)
    monkeypatch.setattr(pixel_processes, "cores", lambda: 2)
    monkeypatch.setattr(pixel_processes, "_SHARED", pixel_processes._Shared())
    yield
    if (held := pixel_processes.take(start=False)) is not None:
        pixel_processes.give_back()
        held.close()


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_processes_give_every_digit_and_every_failure_of_the_plain_way(
    space: OpenClipSpace, gallery: pl.DataFrame, batch_size: int
) -> None:
    import torch

    found: dict[str, torch.Tensor] = {}
    failed: list[str] = []
    for batch in prepared_batches(gallery, space, batch_size):
        assert len(batch.rows) <= batch_size
        found |= {batch.rows["image_id"][row]: batch.items[at] for at, row in enumerate(batch.fine)}
        failed += [f"{failure.image_id}: {failure.reason}" for failure in batch.failed]
    assert pixel_processes._SHARED.processes is not None
    whole = [row for row in range(COUNT) if row not in {*BROKEN, THIN}]
    assert list(found) == [gallery["image_id"][row] for row in whole]
    for row in whole:
        with Image.open(gallery["path"][row]) as image:
            expected = space.preprocess(image.convert("RGB"))
        assert torch.equal(found[gallery["image_id"][row]], expected)
    assert [reason[:2] for reason in failed] == ["03", "10", "17", "25"]
    assert "is empty" in failed[1] and "too thin" in failed[3]


@pytest.mark.usefixtures("processes")
def test_a_killed_process_costs_no_picture(
    space: OpenClipSpace, gallery: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    batches = prepared_batches(gallery, space, 4)
    rows = [next(batches).rows]
    held = pixel_processes._SHARED.processes
    assert held is not None
    os.kill(held._processes[0].pid, signal.SIGKILL)
    rest = list(batches)
    rows += [batch.rows for batch in rest]
    assert pl.concat(rows).equals(gallery)
    assert "decoded by threads" in caplog.text
    assert sum(len(batch.fine) for batch in rest) == COUNT - 4 - 4 + 1  # one of the broken is in the first
    assert pixel_processes.take(start=True) is None  # they are not started again


@pytest.mark.usefixtures("processes")
def test_processes_serve_the_next_gallery_after_one_that_was_left_half_way(
    space: OpenClipSpace, gallery: pl.DataFrame
) -> None:
    import torch

    with closing(prepared_batches(gallery, space, 3)) as first:
        next(first)
    held = pixel_processes._SHARED.processes
    turned = gallery.reverse()
    with closing(prepared_batches(turned, space, 9)) as again:
        items = next(again).items
    assert pixel_processes._SHARED.processes is held
    with Image.open(turned["path"][0]) as image:
        assert torch.equal(items[0], space.preprocess(image.convert("RGB")))


@pytest.mark.usefixtures("processes")
def test_a_second_gallery_at_the_same_time_is_decoded_by_threads(
    space: OpenClipSpace, gallery: pl.DataFrame
) -> None:
    import torch

    with (
        closing(prepared_batches(gallery, space, 3)) as first,
        closing(prepared_batches(gallery, space, 3)) as second,
    ):
        for one, other in zip(first, second, strict=True):
            assert one.fine == other.fine or list(one.fine) == list(other.fine)
            assert torch.equal(torch.stack(list(one.items)), torch.stack(list(other.items)))


@pytest.mark.usefixtures("processes")
def test_what_lies_ready_is_bounded_by_two_batches(space: OpenClipSpace, gallery: pl.DataFrame) -> None:
    how = space.input_pixels
    assert how is not None
    with closing(prepared_batches(gallery, space, 5)) as batches:
        next(batches)
        held = pixel_processes._SHARED.processes
        assert held is not None
        pixels = how.height * how.width * 3 * 5 * 2
        assert os.fstat(held._file.fileno()).st_size <= pixels + 6 * (1 << 17)


@pytest.mark.usefixtures("processes")
def test_a_store_holds_the_same_vectors_by_processes_and_by_threads(
    space: OpenClipSpace, gallery: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_processes, by_threads = GalleryStore(tmp_path / "one"), GalleryStore(tmp_path / "other")
    one = by_processes.synchronise("t", gallery, space, 8)
    monkeypatch.setattr(prepared_images, "_FEW", COUNT + 1)
    other = by_threads.synchronise("t", gallery, space, 8)
    assert one.failed == other.failed and len(one.failed) == 4
    assert by_processes.read("t")[0] == by_threads.read("t")[0]
    assert np.array_equal(by_processes.read("t")[1], by_threads.read("t")[1])


@pytest.mark.parametrize("mode", ["squash", "shortest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_two_steps_give_the_digits_of_open_clips_transform(mode: str, interpolation: str) -> None:
    import torch
    from open_clip.transform import image_transform

    transform: Any = image_transform(
        50, is_train=False, resize_mode=mode, interpolation=interpolation, mean=(0.4, 0.5, 0.6)
    )
    scaling, drawn = scaling_of(transform), random.Random(5)
    assert scaling is not None
    noise = np.random.default_rng(2)
    for _ in range(25):
        size = (drawn.randint(1, 260), drawn.randint(1, 260))
        image = Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8))
        assert torch.equal(scaling.scaled(np.array(scaling.pixels(image))[None])[0], transform(image)), size


def test_other_transforms_are_run_as_they_are() -> None:
    from open_clip.transform import image_transform
    from torchvision.transforms import Compose, Resize, ToTensor

    assert scaling_of(Compose([Resize(50), ToTensor()])) is None
    assert scaling_of(lambda image: image) is None
    assert scaling_of(image_transform(50, is_train=False, resize_mode="longest")) is None
