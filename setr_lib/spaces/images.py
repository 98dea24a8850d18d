"""An image for an encoder: a file decoded whole, or an error that says what is wrong with it; and embedded,
or an error where the encoder refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from setr_lib.models.refusals import Ran, control_image, refusing, run_without_refused
from setr_lib.pixels import RefusedImageError, UnreadableImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.models.device import OnHalve
    from setr_lib.spaces.space import EmbeddingSpace


def open_image(path: str | Path) -> Image.Image:
    """Open an image file as RGB, fully decoded (a truncated file fails here, not later in a batch).

    EXIF orientation is not applied: the benchmarks' own pipelines do not.

    Args:
        path: The file.

    Returns:
        The image.

    Raises:
        UnreadableImageError: The file is missing, is not an image, or ends too early.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = str(error) or type(error).__name__
        raise UnreadableImageError(f"{path}: cannot be read as a picture ({reason})") from error


def embed_what_is_taken(
    space: EmbeddingSpace,
    prepared: Sequence[object],
    batch_size: int | None = None,
    on_halve: OnHalve | None = None,
) -> Ran[NDArray[np.float32]]:
    """Embed prepared images, less those that a space refuses: models with a processor of their own run it
    here.

    Args:
        space: The embedding space.
        prepared: Images as its ``preprocess`` gives them.
        batch_size: Images per call, in place of the space's own number.
        on_halve: Called as ``on_halve(too_large, next_size)`` when a batch does not fit in memory.

    Returns:
        Unit vectors float32 [dimension] by index, and the reasons of refused images.
    """
    return run_without_refused(
        prepared,
        lambda items: space.embed_preprocessed(items, batch_size, on_halve),
        lambda: space.preprocess(control_image()),
    )


def embed_image(space: EmbeddingSpace, image: Image.Image) -> NDArray[np.float32]:
    """Embed one image.

    Args:
        space: The embedding space.
        image: The image, in RGB.

    Returns:
        A unit vector, float32 [1, dimension].

    Raises:
        RefusedImageError: The space refuses it; the message says why.
    """
    ran = embed_what_is_taken(space, [refusing(space.preprocess, image, space.id)])
    if ran.refused:
        raise RefusedImageError(
            f"{space.id} refuses this picture of {image.width:,} x {image.height:,} pixels ({ran.refused[0]})"
        )
    return ran.results[0][None]
