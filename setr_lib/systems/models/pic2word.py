"""``pic2word``: one pseudo-word for an image, by an MLP from its vector; CLIP is frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from setr_lib.systems.features import Batch, ImageBatch, ImageFeatures
from setr_lib.systems.models.losses import symmetric_info_nce
from setr_lib.systems.models.pseudo_words import PHOTO, encode_composed, photo_prompts
from setr_lib.systems.models.seeding import seeded
from setr_lib.systems.models.system_model import SystemModel
from setr_lib.systems.models.text_tower import TextTower
from setr_lib.systems.options import Pic2WordOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace


class Pic2Word(SystemModel[Pic2WordOptions]):
    """Textual inversion of an image into one pseudo-word, learned from images alone (Pic2Word).

    The query is ``T("a photo of $ , TEXT")``, where the embedding of ``$`` is ``MLP(V(reference))``; an empty
    text gives ``T("a photo of $")``, the image's sentence alone. The loss is symmetric InfoNCE between
    ``T("a photo of $")`` and ``V(image)``. Saito et al., arXiv 2302.03084; a reconstruction: its network
    (three linear layers with dropout and ReLU between them), here on the unit vector times the root of its
    length, so that its components have variance 1 for every encoder.

    Raises:
        SystemModelError: The text tower does not take injected vectors.
    """

    def __init__(
        self, encoder: OpenClipSpace, options: Pic2WordOptions, base: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(encoder, options, base)
        self._tower = TextTower(encoder)
        hidden = options.hidden
        with seeded(options.seed):
            self.word = nn.Sequential(
                *(nn.Linear(self.dimension, hidden), nn.Dropout(options.dropout), nn.ReLU()),
                *(nn.Linear(hidden, hidden), nn.Dropout(options.dropout), nn.ReLU()),
                nn.Linear(hidden, self._tower.width),
            )
        self.to(self.device)

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """The sentence of the pseudo-word and the text; ``a photo of $`` for an empty text."""
        prompts = photo_prompts(texts, ",")
        return encode_composed(self._tower, prompts, self._words(references), references, texts)

    def loss(self, batch: Batch) -> Tensor:
        """Symmetric InfoNCE between the images' sentences and their vectors."""
        assert isinstance(batch, ImageBatch)
        images = batch.images
        sentences = self._tower.encode_with([PHOTO] * len(images), self._words(images))
        return symmetric_info_nce(sentences, images.vectors, batch.image_ids, self.options.temperature)

    def _words(self, images: ImageFeatures) -> Tensor:
        """Pseudo-words, float32 [images, 1, width]."""
        return self.word(images.vectors * self.dimension**0.5)[:, None]
