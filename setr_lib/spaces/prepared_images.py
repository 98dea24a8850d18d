"""Images read and prepared for an embedding space ahead of its model: by processes where there are many and
the space says how its pixels are made, else by threads.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.feeding import prepared
from setr_lib.models.cpu_passes import CoreShare
from setr_lib.models.refusals import check_sides, refusing
from setr_lib.pixels import PictureFile, RefusedImageError, UnreadableImageError
from setr_lib.spaces import pixel_processes
from setr_lib.spaces.pixel_processes import DecodedBatch, LostProcessesError, PixelProcesses

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.spaces.input_pixels import InputPixels
    from setr_lib.spaces.space import EmbeddingSpace

MANY = 512
"""Images for which processes are started: it takes as long as some hundred small pictures."""
_FEW = 96
"""Images for which processes that were started already are not used."""


@dataclass(frozen=True)
class FailedImage:
    """A picture that could not be embedded, and why."""

    image_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class PreparedBatch:
    """The images of a batch as a space's ``embed_preprocessed`` takes them.

    Attributes:
        rows: The batch.
        fine: Which of the rows are prepared, in order.
        items: What was prepared of each of them.
        failed: The others.
    """

    rows: pl.DataFrame
    fine: Sequence[int]
    items: Sequence[Any]
    failed: Sequence[FailedImage]


def prepared_batches(
    todo: pl.DataFrame, space: EmbeddingSpace, batch_size: int
) -> Generator[PreparedBatch, None, None]:
    """Prepare images batch by batch; one batch is prepared ahead while whoever takes them works.

    Args:
        todo: ``image_id``, ``path``, ``fingerprint`` and ``pixels``.
        space: The embedding space.
        batch_size: Images of a batch.

    Yields:
        Each batch, in order. Every image that cannot be read, or that the space's preprocessing refuses, is
        among the failed of its batch.
    """
    batches = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
    made = 0
    if (how := space.input_pixels) is not None and len(todo) >= _FEW:
        processes = pixel_processes.take(start=len(todo) >= MANY)
        if processes is not None:
            lost: LostProcessesError | None = None
            try:
                with closing(_by_processes(batches, space, how, processes)) as source:
                    for batch in source:
                        made += 1
                        yield batch
            except LostProcessesError as error:
                lost = error
            finally:
                pixel_processes.give_back(lost)
    yield from _by_threads(batches[made:], space, how, batch_size)


def _by_processes(
    batches: Sequence[pl.DataFrame], space: EmbeddingSpace, how: InputPixels, processes: PixelProcesses
) -> Generator[PreparedBatch, None, None]:
    files = [[file for _, file in _files(rows)] for rows in batches]
    with closing(processes.batches(files, how)) as source, CoreShare() as share:
        for rows, decoded in zip(batches, source, strict=True):
            begun = process_time()
            yield _decoded_here(rows, decoded, space)
            share.note(process_time() - begun, decoded.core_seconds)


def _decoded_here(rows: pl.DataFrame, decoded: DecodedBatch, space: EmbeddingSpace) -> PreparedBatch:
    if decoded.fine.all():
        return PreparedBatch(rows, range(len(rows)), space.from_input_pixels(decoded.pixels), ())
    # What failed there is read here, by the way that says what is wrong.
    loaded = [
        decoded.pixels[row] if decoded.fine[row] else _load(space, None, image_id, file)
        for row, (image_id, file) in enumerate(_files(rows))
    ]
    batch = _gathered(rows, loaded)
    return _as_inputs(batch, space) if batch.fine else batch


def _by_threads(
    batches: Sequence[pl.DataFrame], space: EmbeddingSpace, how: InputPixels | None, batch_size: int
) -> Generator[PreparedBatch, None, None]:
    files = chain.from_iterable(map(_files, batches))
    with closing(prepared(files, lambda file: _load(space, how, *file), batch_size)) as source:
        for rows in batches:
            batch = _gathered(rows, [next(source).result() for _ in range(len(rows))])
            yield batch if how is None or not batch.fine else _as_inputs(batch, space)


def _as_inputs(batch: PreparedBatch, space: EmbeddingSpace) -> PreparedBatch:
    """A batch of pixels as the model's inputs; an item may be an input already."""
    if all(isinstance(item, np.ndarray) for item in batch.items):
        return replace(batch, items=space.from_input_pixels(np.stack(list(batch.items))))
    items = [
        space.from_input_pixels(item[None])[0] if isinstance(item, np.ndarray) else item
        for item in batch.items
    ]
    return replace(batch, items=items)


def _gathered(rows: pl.DataFrame, loaded: Sequence[Any]) -> PreparedBatch:
    fine = [row for row, item in enumerate(loaded) if not isinstance(item, FailedImage)]
    failed = [item for item in loaded if isinstance(item, FailedImage)]
    return PreparedBatch(rows, fine, [loaded[row] for row in fine], failed)


def _files(rows: pl.DataFrame) -> list[tuple[str, PictureFile]]:
    columns = rows.select("image_id", "path", "fingerprint", "pixels").rows()
    return [(image_id, PictureFile(*file)) for image_id, *file in columns]


def _load(space: EmbeddingSpace, how: InputPixels | None, image_id: str, file: PictureFile) -> Any:
    """An image as the space's model takes it, or as pixels of its size, or why it is none."""
    try:
        image = file.read()
        if how is not None:
            check_sides(image)
            with suppress(Exception):  # the space's own preprocessing says what is wrong, if anything is
                return how(image)
        return refusing(space.preprocess, image, space.id)
    except RefusedImageError as error:
        return FailedImage(image_id, file.path, f"{file.path}: {error}")
    except UnreadableImageError as error:
        return FailedImage(image_id, file.path, str(error))
