"""What a trained retrieval system reads of images: the encoder's vectors, patch tokens or pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from setr_lib.spaces.open_clip_space import OpenClipSpace

VECTORS, PATCHES, PIXELS = "vectors", "patches", "pixels"
"""What a system may read of an image; see :class:`ImageFeatures`."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the frozen encoder gives of some images, on the system's device; row i is image i.

    Attributes:
        vectors: float32 [images, d]: unit vectors of the encoder's space. A zero row: the picture cannot
            be read.
        patches: float32 [images, patches, width]: the vision tower's patch tokens, not normalised; None where
            the system does not read them.
        pixels: float32 [images, 3, height, width]: as the encoder's preprocessing gives them; None where the
            system does not read them.
    """

    vectors: torch.Tensor
    patches: torch.Tensor | None = None
    pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class TripletBatch:
    """The triplets of a training step.

    Attributes:
        references: Features of the reference images, [q].
        texts: The modification texts, q of them.
        targets: Features of the target images, [q].
        reference_ids: Ids of the references.
        target_ids: Ids of the targets: equal ids are the same image, or copies of one, and no negatives of
            each other.
        negatives: Features of mined hard negatives, [q * m], those of a query beside each other; None where
            the system asks for none.
    """

    references: ImageFeatures
    texts: list[str]
    targets: ImageFeatures
    reference_ids: list[str]
    target_ids: list[str]
    negatives: ImageFeatures | None = None


@dataclass(frozen=True)
class ImageBatch:
    """The images of a training step.

    Attributes:
        images: Their features, [n].
        image_ids: Their ids.
        captions: Their captions; empty texts where there are none.
    """

    images: ImageFeatures
    image_ids: list[str]
    captions: list[str]


Batch = TripletBatch | ImageBatch


def features_of(encoder: OpenClipSpace, images: Sequence[Any], reads: frozenset[str]) -> ImageFeatures:
    """The features of prepared images, with the frozen encoder.

    Args:
        encoder: The encoder.
        images: As its ``preprocess`` gives them.
        reads: What is wanted besides vectors: ``PATCHES``, ``PIXELS``.

    Returns:
        The features, on the encoder's device.
    """
    import torch

    items, device = list(images), encoder.device
    return ImageFeatures(
        vectors=torch.from_numpy(encoder.embed_preprocessed(items)).to(device),
        patches=torch.from_numpy(encoder.embed_patches(items)).to(device) if PATCHES in reads else None,
        pixels=torch.stack(items).to(device) if PIXELS in reads else None,
    )
