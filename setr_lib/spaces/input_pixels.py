"""A model's input size: from a decoded picture to the 8-bit pixels that a model is given, by Pillow alone.

What is said here needs no torch, so that processes which only decode and resize can do it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class InputPixels:
    """How a picture is brought to a model's size, as torchvision's ``Resize`` and ``CenterCrop`` do it.

    Attributes:
        height: Pixels of the input.
        width: Pixels of the input.
        resample: Pillow's number of the interpolation.
        shortest: The short side becomes ``height`` (then equal to ``width``) and the middle is cut out; else
            the picture is squashed to the size.
    """

    height: int
    width: int
    resample: int
    shortest: bool

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize and crop.

        Args:
            image: An RGB image.

        Returns:
            uint8 [height, width, 3].
        """
        width, height = self._scaled(image.size)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling(self.resample))
        top, left = round((height - self.height) / 2.0), round((width - self.width) / 2.0)
        if (width, height) != (self.width, self.height):
            image = image.crop((left, top, left + self.width, top + self.height))
        return np.asarray(image)

    def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after resizing."""
        if not self.shortest:
            return self.width, self.height
        width, height = size
        if width <= height:
            return self.width, int(self.width * height / width)
        return int(self.height * width / height), self.height
