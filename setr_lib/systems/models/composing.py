"""``composing``: adapters in the text tower on top of the frozen ``mapping``, trained on few triplets."""

from __future__ import annotations

from collections.abc import Mapping as Tensors
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from setr_lib.systems.features import PATCHES, VECTORS, Batch, ImageFeatures, TripletBatch
from setr_lib.systems.models.image_words import ImageWords
from setr_lib.systems.models.losses import contrast, info_nce
from setr_lib.systems.models.pseudo_words import encode_composed, photo_prompts
from setr_lib.systems.models.system_model import SystemModel, SystemModelError
from setr_lib.systems.models.target_queue import TargetQueue, first_rows, keys_of
from setr_lib.systems.models.text_adapters import Bottlenecks, with_lora
from setr_lib.systems.models.text_tower import BlockHook, TextTower
from setr_lib.systems.options import ComposingOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace


class Composing(SystemModel[ComposingOptions]):
    """Stage II of "From Mapping to Composing": composing adapters, with everything of stage I frozen.

    The query is that of ``mapping``, ``T("a photo of $ that TEXT"; patches)``, with adapters in the text
    tower that change nothing at the start. The loss is InfoNCE of the query and its target against the
    ``hardest`` of the batch's other targets and of the ``queue`` of earlier ones, and against the query's own
    reference image (as in MagicLens, arXiv 2403.19651); without ``hard_negatives``, against the batch's other
    targets. An image is a negative once, and never where it is the target. Wang et al., arXiv 2504.17990; a
    reconstruction: the paper's widths, constants and mining are not public.

    Raises:
        SystemModelError: As of ``mapping``; or ``base`` was trained with other settings of the pseudo-words.
    """

    reads: ClassVar[frozenset[str]] = frozenset({VECTORS, PATCHES})

    def __init__(
        self, encoder: OpenClipSpace, options: ComposingOptions, base: Tensors[str, Tensor] | None = None
    ) -> None:
        super().__init__(encoder, options, base)
        self._plain = self._tower = TextTower(encoder)
        self.image = ImageWords(encoder, self._plain, options).requires_grad_(False)
        if base is not None:
            _load_stage_one(self.image, base)
        self.adapters = self.lora = None
        if options.adapter == "lora":
            self._tower, tensors = with_lora(encoder, options.lora_rank, options.lora_alpha, options.seed)
            self.lora = nn.ParameterDict(tensors)
        else:
            self.adapters = Bottlenecks(self._tower, options.adapter_width, options.seed)
        self.queue = TargetQueue(options.queue if options.hard_negatives else 0, self.dimension)
        self.to(self.device)

    def training_state(self) -> dict[str, Tensor]:
        """The queue of earlier targets."""
        if not len(self.queue.keys):
            return {}
        return {"queue.vectors": self.queue.vectors, "queue.keys": self.queue.keys}

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """The sentence of the pseudo-words and the text, through the adapters."""
        prompts = photo_prompts(texts, "that")
        hooks = self.image.hooks(references) + self._adapter_hooks()
        words = self.image.words(references)
        return encode_composed(self._tower, prompts, words, references, texts, hooks, plain=self._plain)

    def loss(self, batch: Batch) -> Tensor:
        """InfoNCE against the hardest targets of this and earlier steps, and the reference image."""
        assert isinstance(batch, TripletBatch)
        queries, temperature = self.encode_queries(batch.references, batch.texts), self.options.temperature
        if not self.options.hard_negatives:
            return info_nce(queries, batch.targets.vectors, batch.target_ids, temperature)
        own = (queries * batch.targets.vectors).sum(dim=1)
        negatives = self._hardest(queries, batch)
        if self.options.reference_negative:
            negatives = torch.cat([negatives, self._references(queries, batch)], dim=1)
        self.queue.push(batch.targets.vectors, batch.target_ids)
        return contrast(own, negatives, temperature)

    def _adapter_hooks(self) -> list[BlockHook]:
        return [] if self.adapters is None else self.adapters.hooks()

    def _hardest(self, queries: Tensor, batch: TripletBatch) -> Tensor:
        """Cosines with the hardest negatives of batch and queue, [q, h]; -inf where there are fewer."""
        queue, keys = self.queue, keys_of(batch.target_ids, self.device)
        first = torch.zeros(len(keys), dtype=torch.bool, device=self.device)
        first[first_rows(batch.target_ids)] = True
        usable = torch.cat([first, queue.filled & ~torch.isin(queue.keys, keys)])
        candidates = torch.cat([keys, queue.keys])
        usable = usable & (keys[:, None] != candidates)
        if self.options.reference_negative:  # which is added beside them
            usable = usable & (keys_of(batch.reference_ids, self.device)[:, None] != candidates)
        cosines = queries @ torch.cat([batch.targets.vectors, queue.vectors]).T
        cosines = cosines.masked_fill(~usable, -torch.inf)
        return cosines.topk(min(self.options.hardest, cosines.shape[1]), dim=1).values

    def _references(self, queries: Tensor, batch: TripletBatch) -> Tensor:
        """Cosines with the queries' own references, [q, 1]; -inf for one that is the target or unreadable."""
        vectors = batch.references.vectors
        targets, references = (keys_of(ids, self.device) for ids in (batch.target_ids, batch.reference_ids))
        usable = vectors.any(dim=1) & (references != targets)
        return (queries * vectors).sum(dim=1).masked_fill(~usable, -torch.inf)[:, None]


def _load_stage_one(image: ImageWords, base: Tensors[str, Tensor]) -> None:
    """Put the tensors of a ``mapping`` into the pseudo-words of this system."""
    stored = {name.removeprefix("image."): tensor for name, tensor in base.items()}
    mine = {name: tensor.shape for name, tensor in image.state_dict().items()}
    if mine != {name: tensor.shape for name, tensor in stored.items()}:
        raise SystemModelError(
            "composing: the mapping that it builds on was trained with other settings of the pseudo-words: "
            "give tokens, visual_injection and injection_layers of [systems.mapping] to [systems.composing], "
            "too, or train mapping anew"
        )
    image.load_state_dict(stored)
