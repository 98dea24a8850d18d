"""open_clip's preprocessing in two steps: a picture to 8-bit pixels by Pillow, a batch to floats by torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from setr_lib.spaces.input_pixels import InputPixels

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_RESIZE, _CROP, _TO_TENSOR = "Resize", "CenterCrop", ("MaybeConvertMode", "MaybeToTensor", "Normalize")
_PROBES = ((97, 61), (61, 97), (300, 301), (5, 40))
"""Sizes of the pictures on which both ways must give the same."""
_FOUND: WeakKeyDictionary[Any, Scaling | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class Scaling:
    """A preprocessing in two steps.

    Attributes:
        pixels: The first: a picture to uint8 [height, width, 3].
        mean: Of each channel, of values from 0 to 1.
        deviation: Of each channel.
    """

    pixels: InputPixels
    mean: Sequence[float]
    deviation: Sequence[float]

    def scaled(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """The second step, with torchvision's operations in their order, so that no digit differs.

        Args:
            pixels: uint8 [images, height, width, 3].

        Returns:
            float32 [images, 3, height, width].
        """
        import torch

        channels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        mean, deviation = (torch.tensor(of)[:, None, None] for of in (self.mean, self.deviation))
        return channels.to(torch.float32).div_(255).sub_(mean).div_(deviation)


def scaling_of(preprocess: Any) -> Scaling | None:
    """A preprocessing as two steps.

    Args:
        preprocess: What open_clip gives with a model.

    Returns:
        The steps; None where it is made of anything else, or where they give other digits on a picture.
    """
    try:
        if preprocess not in _FOUND:
            _FOUND[preprocess] = _checked(preprocess, _read(preprocess))
        return _FOUND[preprocess]
    except TypeError:  # a function of one's own that cannot be referred to
        return None


def _read(preprocess: Any) -> Scaling | None:
    steps = list(getattr(preprocess, "transforms", ()))
    names = [type(step).__name__ for step in steps]
    if names not in ([_RESIZE, *_TO_TENSOR], [_RESIZE, _CROP, *_TO_TENSOR]):
        return None
    resize, normalise, shortest = steps[0], steps[-1], isinstance(steps[0].size, int)
    height, width = _pair(resize.size)
    from torchvision.transforms.functional import pil_modes_mapping

    if resize.max_size is not None or resize.interpolation not in pil_modes_mapping:
        return None
    if shortest != (_CROP in names) or (shortest and _pair(steps[1].size) != (height, width)):
        return None
    resample = int(pil_modes_mapping[resize.interpolation])
    mean, deviation = (tuple(map(float, of)) for of in (normalise.mean, normalise.std))
    return Scaling(InputPixels(height, width, resample, shortest), mean, deviation)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _checked(preprocess: Any, scaling: Scaling | None) -> Scaling | None:
    """The same if both ways give the same digits on pictures of noise."""
    import torch
    from PIL import Image

    if scaling is None:
        return None
    noise = np.random.default_rng(0)
    for width, height in _PROBES:
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        pixels = np.array(scaling.pixels(image))[None]  # a copy that torch may write to
        if not torch.equal(preprocess(image), scaling.scaled(pixels)[0]):
            return None
    return scaling
