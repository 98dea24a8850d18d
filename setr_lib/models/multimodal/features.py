"""Outputs of the vision tower and projector for one image, and the memory of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setr_lib.models.device import free_memory, gives_way

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class VisionFeatures:
    """Output of the vision tower and projector for one image; tensors in the model's dtype, on its device.

    Attributes:
        embeds: [tokens, hidden], what takes the place of the image's placeholder tokens.
        deepstack: [tokens, hidden] for each language layer that adds vision features of its own (Qwen3-VL).
        grid: (time, height, width) in patches, where positions depend on it; else ``None``.
        placeholder: The token ids that stand for the image in a sequence; ``tokens`` of them are the image
            token.
        container: The transformers class in which the model expects such tensors.
        stacked: Whether it expects those of several images as one tensor, not as a list.
    """

    embeds: Tensor
    deepstack: tuple[Tensor, ...]
    grid: tuple[int, int, int] | None
    placeholder: tuple[int, ...]
    container: type[Any]
    stacked: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in (self.embeds, *self.deepstack))


def by_picture(outputs: Any, counts: Sequence[int]) -> list[Tensor]:
    """Vision outputs of a batch, those of each picture together, whatever parts it was cut in.

    A model puts its outputs in place of the image tokens of a prompt in their order, so the number of image
    tokens of each picture says where it ends.

    Args:
        outputs: What the model gives: a tensor of [parts, tokens, hidden], or a list of [tokens, hidden].
        counts: The image tokens of each picture, in order.

    Returns:
        For each picture [image tokens, hidden]; copies.

    Raises:
        ValueError: There are fewer or more outputs than image tokens.
    """
    import torch

    parts = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    flat = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    if len(flat) != sum(counts):
        raise ValueError(f"{sum(counts)} image tokens for {len(flat)} vision outputs")
    return [part.clone() for part in flat.split(list(counts))]


VISION_CACHE_BYTES = 6 * 2**30
"""The most memory that vision outputs take by default: about 1,500 images of Qwen3-VL-2B at 256 tokens."""
_SHARE = 3
"""By default they take no more than this fraction (one third) of what is free beside the model."""
_LEAST = 8
"""Where memory runs out, at least this fraction (one eighth) of the limit is left to them."""


def vision_cache_bytes(device: torch.device) -> int:
    """How much memory vision outputs may take where no setting says so.

    Args:
        device: The model's device, the model on it.

    Returns:
        6 GiB, or a third of what is free where that is less.
    """
    free = free_memory(device)
    return VISION_CACHE_BYTES if free is None else max(0, min(VISION_CACHE_BYTES, free // _SHARE))


class VisionMemory:
    """Least-recently-used cache of vision outputs, by the identity of images. Where a batch does not fit in
    memory, it gives up half of its room, until an eighth is left.

    Args:
        limit: Bytes that the kept outputs may take; beyond it, what was not used for the longest time is
            dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._least = limit // _LEAST
        self._taken = 0
        self._kept: OrderedDict[str, VisionFeatures] = OrderedDict()
        gives_way(self)

    def __contains__(self, identity: str) -> bool:
        return identity in self._kept

    def __getitem__(self, identity: str) -> VisionFeatures:
        return self._kept[identity]

    def keep(self, found: Mapping[str, VisionFeatures]) -> None:
        """Store outputs as the most recently used; all of them, even where they alone exceed the limit.

        Args:
            found: Outputs by identity, stored already or new.
        """
        for key, features in found.items():
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = features
                self._taken += features.nbytes
        self._drop(len(found))

    def give_way(self) -> None:
        """Halve the limit, and drop what does not fit in it any more: memory ran out."""
        self.limit = max(self._least, min(self.limit, self._taken) // 2)
        self._drop(0)

    def _drop(self, spared: int) -> None:
        """Drop what was not used for the longest time, beyond the limit; the last so many stay."""
        while self._taken > self.limit and len(self._kept) > spared:
            _, oldest = self._kept.popitem(last=False)
            self._taken -= oldest.nbytes

    def of(self, identities: Iterable[str]) -> VisionMemory:
        """Another memory of some images' outputs, as far as they are here; this one stays as it is.

        Args:
            identities: The images.

        Returns:
            The memory, with the same limit.
        """
        other = VisionMemory(self.limit)
        other.keep({identity: self._kept[identity] for identity in identities if identity in self._kept})
        return other

    def clear(self) -> None:
        """Drop all outputs."""
        self._kept.clear()
        self._taken = 0
