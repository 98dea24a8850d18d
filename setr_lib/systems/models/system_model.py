"""What all trained retrieval systems have in common: an encoder, trained tensors, a loss, query vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from setr_lib.errors import SetrError
from setr_lib.systems.features import VECTORS, ImageFeatures
from setr_lib.systems.options import SystemOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.features import Batch

Options = TypeVar("Options", bound=SystemOptions)


class SystemModelError(SetrError):
    """A trained retrieval system cannot work with this encoder, these settings or these weights."""


class SystemModel(nn.Module, ABC, Generic[Options]):
    """A stage-1 model that is trained on top of a frozen open_clip encoder.

    The encoder is shared with other users of the process: a system that changes its weights works on a copy
    (``copy.deepcopy(encoder.model)``), one that hooks into it removes its hooks before a call returns. It is
    kept out of ``parameters()`` and ``state_dict()``: these hold what the system adds or changes, and nothing
    else, so ``state_dict()`` is what a bundle stores.

    Args:
        encoder: The encoder of the gallery's vectors.
        options: The settings of the training.
        base: ``state_dict()`` of the system that this one builds on; None where it builds on none.

    Attributes:
        reads: What it reads of the images, of ``VECTORS``, ``PATCHES``, ``PIXELS``; vectors always come.
        negatives: How many mined hard negatives a training step has for each query.
    """

    reads: ClassVar[frozenset[str]] = frozenset({VECTORS})

    def __init__(
        self, encoder: OpenClipSpace, options: Options, base: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)  # in a tuple: torch would register it as a part of this module
        self.options = options
        self.negatives = 0

    @property
    def encoder(self) -> OpenClipSpace:
        """The frozen encoder."""
        return self._encoder[0]

    @property
    def device(self) -> torch.device:
        """Where the encoder is."""
        return self.encoder.device

    @property
    def dimension(self) -> int:
        """Length of a query vector, and of an image's."""
        return self.encoder.dimension

    def trained(self) -> dict[str, nn.Parameter]:
        """The tensors that the training moves, by the names of ``state_dict()``."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def training_state(self) -> dict[str, Tensor]:
        """Tensors besides the trained ones that :meth:`loss` changes in place, e.g. a queue of earlier
        vectors: in checkpoints, so that a killed training goes on to the same end, and not in bundles.
        """
        return {}

    @abstractmethod
    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """The vectors of composed queries, with gradients.

        Args:
            references: Features of the reference images.
            texts: A modification text for each.

        Returns:
            Unit vectors, float32 [queries, dimension]. For a reference that cannot be read (a zero row) the
            text alone counts.
        """

    def encode_images(self, images: ImageFeatures) -> Tensor:
        """The vectors of gallery images, with gradients where the image side is trained.

        Args:
            images: Features of the images.

        Returns:
            Unit vectors, float32 [images, dimension]; by default the encoder's own.
        """
        return images.vectors

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a training step's batch; torch is seeded by the step.

        Args:
            batch: A ``TripletBatch`` or an ``ImageBatch``, as the recipe's ``learns_from`` says.

        Returns:
            A scalar with gradients.
        """
