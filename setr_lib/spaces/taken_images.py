"""Images embedded without those that a space refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from setr_lib.models.refusals import Ran, control_image, refusing, run_without_refused
from setr_lib.pixels import RefusedImageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from setr_lib.models.device import OnHalve
    from setr_lib.spaces.space import EmbeddingSpace


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
