"""``mapping``: pseudo-words from patch tokens, with visual semantics injected into the text tower."""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from setr_lib.systems.features import PATCHES, VECTORS, Batch, ImageBatch, ImageFeatures
from setr_lib.systems.models.image_words import ImageWords
from setr_lib.systems.models.losses import info_nce, soft_alignment, symmetric_info_nce
from setr_lib.systems.models.pseudo_words import PHOTO, encode_composed, photo_prompts
from setr_lib.systems.models.system_model import SystemModel
from setr_lib.systems.models.text_tower import TextTower
from setr_lib.systems.options import MappingOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace


class Mapping(SystemModel[MappingOptions]):
    """Stage I of "From Mapping to Composing": textual inversion with visual semantic injection.

    The query is ``T("a photo of $ that TEXT"; patches)``, where ``$`` are the pseudo-words of
    :class:`ImageWords` and the patches are injected into the text tower; an empty text gives
    ``T("a photo of $"; patches)``. The loss on captioned images is symmetric InfoNCE between
    ``t = T("a photo of $"; patches)`` and ``V(image)``, plus ``alignment_weight`` times the soft text
    alignment ``KL(softmax(c_i . c_j / caption_temperature) || softmax(t_i . c_j / temperature))`` with the
    captions' vectors c, or, with one-hot targets, InfoNCE of t over c. Wang et al., arXiv 2504.17990; a
    reconstruction: the paper's equations and constants are not public.

    Raises:
        SystemModelError: The text tower does not take injected vectors, or the vision tower gives no patch
            tokens.
    """

    reads: ClassVar[frozenset[str]] = frozenset({VECTORS, PATCHES})

    def __init__(
        self, encoder: OpenClipSpace, options: MappingOptions, base: Tensors[str, Tensor] | None = None
    ) -> None:
        super().__init__(encoder, options, base)
        self._tower = TextTower(encoder)
        self.image = ImageWords(encoder, self._tower, options)
        self.to(self.device)

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """The sentence of the pseudo-words and the text; ``a photo of $`` for an empty text."""
        words, hooks = self.image.words(references), self.image.hooks(references)
        prompts = photo_prompts(texts, "that")
        return encode_composed(self._tower, prompts, words, references, texts, hooks)

    def loss(self, batch: Batch) -> Tensor:
        """Symmetric InfoNCE of sentences and images, plus the alignment with the captions."""
        assert isinstance(batch, ImageBatch)
        images, options = batch.images, self.options
        sentences = self._tower.encode_with(
            [PHOTO] * len(images), self.image.words(images), self.image.hooks(images)
        )
        loss = symmetric_info_nce(sentences, images.vectors, batch.image_ids, options.temperature)
        if options.alignment_weight:
            loss = loss + options.alignment_weight * self._alignment(sentences, batch.captions)
        return loss

    def _alignment(self, sentences: Tensor, captions: Sequence[str]) -> Tensor:
        """The alignment of the sentences of images that have a caption with these; 0 for fewer than two."""
        rows = [row for row, caption in enumerate(captions) if caption.strip()]
        if len(rows) < 2:
            return sentences.new_zeros(())
        chosen = [captions[row] for row in rows]
        with torch.no_grad():
            targets = self._tower.encode(chosen)
        if self.options.alignment == "one-hot":
            return info_nce(sentences[rows], targets, chosen, self.options.temperature)
        return soft_alignment(
            sentences[rows], targets, self.options.temperature, self.options.caption_temperature
        )
