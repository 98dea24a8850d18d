"""Embedding spaces of retrieval systems whose image side is trained: each version has galleries of its own.

Settings name one as ``[spaces.NAME] kind``: the system's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.settings import BUILT_IN_SPACES, OPEN_CLIP
from setr_lib.spaces.space import CATALOGUE, EmbeddingSpace, SpaceError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image

    from setr_lib.spaces.input_pixels import InputPixels
    from setr_lib.systems.features import ImageFeatures
    from setr_lib.systems.models.system_model import SystemModel
    from setr_lib.weights import Weights


class SystemSpace(EmbeddingSpace):
    """The images and composed queries of a trained retrieval system as vectors of one space.

    Subclasses say by ``trained`` which system it is. Use it from one thread at a time; only
    :meth:`preprocess` may be called from several.

    Args:
        model: The system on top of its encoder.
        name: What its id begins with: :attr:`setr_lib.weights.Weights.id`.
    """

    def __init__(self, model: SystemModel, name: str) -> None:
        encoder = model.encoder
        self.model = model.eval()
        self.id = f"{name}@{encoder.id.rpartition('@')[2]}"
        self.preprocessing_id = encoder.preprocessing_id
        self.dimension = model.dimension
        self.batch_size = encoder.batch_size

    @classmethod
    def with_weights(cls, weights: Weights, *, kind: str = OPEN_CLIP, **options: Any) -> SystemSpace:
        """The space of a registered version.

        Args:
            weights: The version.
            kind: The kind of embedding space that its encoder is.
            options: The options of such a space: ``name`` and ``pretrained`` for ``open_clip``.

        Returns:
            The space.

        Raises:
            SpaceError: The version is of another system, or the encoder cannot be loaded.
            SystemBundleError: The version is not readable, or was trained on another encoder.
        """
        from setr_lib.systems.bundle import FOLDER, load_system, read_system

        folder = weights.folders[FOLDER]
        stored = read_system(folder).record.system
        if stored != cls.trained:
            raise SpaceError(f"{weights.words} is of the system {stored!r}, the space is of {cls.trained!r}")
        if kind not in BUILT_IN_SPACES:
            raise SpaceError(
                f"kind = {kind!r} is no kind of encoder: write one of {', '.join(BUILT_IN_SPACES)}"
            )
        encoder = CATALOGUE.get(kind)(**options, device=weights.device)
        return cls(load_system(folder, encoder), weights.id)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """As the encoder does: float32 [3, height, width] on the CPU."""
        return self.model.encoder.preprocess(image)

    @property
    def input_pixels(self) -> InputPixels | None:
        """As the encoder's."""
        overridden = type(self).preprocess is not SystemSpace.preprocess
        return None if overridden else self.model.encoder.input_pixels

    def from_input_pixels(self, pixels: NDArray[np.uint8]) -> Any:
        """As the encoder does."""
        return self.model.encoder.from_input_pixels(pixels)

    def embed_images(self, images: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        """By the system's image side, float32 [images, dimension]."""
        return self._embedded(images, self.model.encode_images)

    def embed_queries(self, images: Sequence[torch.Tensor], texts: Sequence[str]) -> NDArray[np.float32]:
        """By the system's query side, float32 [queries, dimension]."""
        return self._embedded(images, lambda features: self.model.encode_queries(features, texts))

    def embed_lone_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """By the system's query side, float32 [texts, dimension], as of references that cannot be read."""
        from setr_lib.models.refusals import control_image

        def encode(features: ImageFeatures) -> torch.Tensor:
            lost = replace(features, vectors=features.vectors.new_zeros(features.vectors.shape))
            return self.model.encode_queries(lost, texts)

        return self._embedded([self.preprocess(control_image())] * len(texts), encode)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """As the encoder's tokenizer cuts them."""
        return self.model.encoder.count_truncated(texts)

    def _embedded(self, images: Sequence[torch.Tensor], encode: Callable[[Any], Any]) -> NDArray[np.float32]:
        import torch

        from setr_lib.systems.features import features_of

        if not len(images):
            return np.zeros((0, self.dimension), dtype=np.float32)
        with torch.inference_mode():
            features = features_of(self.model.encoder, images, self.model.reads)
            return encode(features).float().cpu().numpy()


class FusedSpace(SystemSpace):
    """The space of ``retrieval_dpo_fused``: both towers of the encoder, with LoRA."""

    trained = "retrieval_dpo_fused"

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """By the trained text tower, float32 [texts, dimension]."""
        import torch

        from setr_lib.systems.models.retrieval_dpo_fused import RetrievalDpoFused

        assert isinstance(self.model, RetrievalDpoFused)
        starts = range(0, len(texts), self.batch_size)
        with torch.inference_mode():
            rows = [
                self.model.encode_texts(texts[start : start + self.batch_size]).cpu().numpy()
                for start in starts
            ]
        return np.concatenate(rows) if rows else np.zeros((0, self.dimension), dtype=np.float32)


class QformerSpace(SystemSpace):
    """The space of ``qformer``: its image side and its fused queries. It has no text side."""

    trained = "qformer"
