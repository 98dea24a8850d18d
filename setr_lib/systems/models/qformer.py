"""A Q-Former that fuses reference image and modification text into one vector, in a space of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from setr_lib.spaces.blip2_space import Blip2Space, model_name
from setr_lib.systems.features import PATCHES, VECTORS, ImageFeatures, TripletBatch
from setr_lib.systems.models.blip2_weights import from_blip2, qformer_sizes
from setr_lib.systems.models.system_model import SystemModel, SystemModelError
from setr_lib.systems.models.text_tokens import TextTokens
from setr_lib.systems.options import QFormerOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.features import Batch

_LOWEST_TEMPERATURE = 0.01
"""CLIP's bound of a learned temperature."""
_INITIAL_SPREAD = 0.02
"""Standard deviation of new query tokens: of equal ones (zeros) all would stay the same vector."""


class QFormer(SystemModel[QFormerOptions]):
    """A light Q-Former between a frozen vision tower and an embedding space of its own.

    The BLIP-2 with a light Q-Former of "Zero Shot Composed Image Retrieval" (arXiv 2506.06602), whose details
    are not published: a reconstruction on the lines of SPRC (ICLR 2024), which builds on BLIP-2
    (arXiv 2301.12597). Learned query tokens attend to one another, to the text's tokens, and to the patch
    tokens of the image; a vector is the mean of their projected unit vectors, divided by its norm. A gallery
    image is read by the same Q-Former without a text. The vision tower is frozen.

    It differs from SPRC: one pass over image and text in place of two; the query is read from the query
    tokens, not from the text's first; an image has one vector, and its similarity is a mean over the query
    tokens where BLIP-2 and SPRC take their maximum; the contrastive loss alone, without the learned prompt
    and the alignment loss; no dropout, so that a vector is the same in training and after.

    - A text without words has no tokens: the query is the image side's, and where the projection is shared
      exactly the image's own vector.
    - A reference that cannot be read has zeros in place of patch tokens: its cross-attention adds the same
      to every query, so that the text alone counts.

    Args:
        encoder: An encoder with patch tokens: any of open_clip's vision transformers, or a BLIP-2.
        options: The settings of the training; with ``start_from``, the encoder is this BLIP-2.
        base: Not used: it builds on no other system.

    Raises:
        SystemModelError: The encoder gives no patch tokens, its tokenizer cannot be used, or it is not the
            model of ``start_from``.
    """

    reads: ClassVar[frozenset[str]] = frozenset({VECTORS, PATCHES})

    def __init__(
        self,
        encoder: OpenClipSpace | Blip2Space,
        options: QFormerOptions,
        base: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(cast("OpenClipSpace", encoder), options, base)
        from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

        if not encoder.embeds_patches:
            raise SystemModelError(
                f"qformer reads patch tokens, and the encoder {encoder.id} gives none: take a vision "
                "transformer of open_clip"
            )
        self._tokens = TextTokens(encoder.tokenizer, options.text_length)
        start = None if options.start_from is None else _checked_start(encoder, options.start_from)
        sizes = _sizes(encoder, options, self._tokens.vocab_size) if start is None else _sizes_of(start)
        if options.text_length > sizes["max_position_embeddings"]:
            raise SystemModelError(
                f"text_length, {options.text_length}, is more than the {sizes['max_position_embeddings']} "
                f"tokens that the Q-Former of {options.start_from} can read"
            )
        count = options.query_tokens if start is None else start.model.config.num_query_tokens
        self._dimension = options.dimension if start is None else start.dimension
        config = InstructBlipQFormerConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(options.seed)
            self.qformer: Any = InstructBlipQFormerModel(config)
            self.query_tokens = nn.Parameter(_INITIAL_SPREAD * torch.randn(1, count, config.hidden_size))
            self.projection = nn.Linear(config.hidden_size, self._dimension)
        if start is not None:
            stored = from_blip2(start.model.state_dict(), self.state_dict())
            self.load_state_dict({name: value.float() for name, value in stored.items()}, strict=True)
        self.query_projection: nn.Linear | None = None
        if not options.shared_projection:
            self.query_projection = nn.Linear(config.hidden_size, self._dimension)
            self.query_projection.load_state_dict(self.projection.state_dict())
        if options.learned_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(options.temperature)))
        self.to(encoder.device)

    @property
    def dimension(self) -> int:
        """Length of a vector of the system's own space."""
        return self._dimension

    @property
    def temperature(self) -> Tensor | float:
        """What cosines are divided by in the loss; a learned one is at least 0.01."""
        if not self.options.learned_temperature:
            return self.options.temperature
        return self.log_temperature.exp().clamp(min=_LOWEST_TEMPERATURE)

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """The vectors of composed queries: the query tokens read reference and text together."""
        return self._vectors(references, self.query_projection or self.projection, texts)

    def encode_images(self, images: ImageFeatures) -> Tensor:
        """The vectors of images: the query tokens read the image alone. One that cannot be read has a zero
        row."""
        return self._vectors(images, self.projection) * _readable(images)[:, None]

    def loss(self, batch: Batch) -> Tensor:
        """InfoNCE over the targets of the batch; equal target ids are no negatives of each other."""
        if not isinstance(batch, TripletBatch):
            raise SystemModelError("qformer learns from triplets, not from images")
        queries = self.encode_queries(batch.references, batch.texts)
        targets = self.encode_images(batch.targets)
        return _contrastive(queries @ targets.T / self.temperature, batch.target_ids)

    def _vectors(self, images: ImageFeatures, projection: nn.Linear, texts: Sequence[str] = ()) -> Tensor:
        if images.patches is None:
            raise SystemModelError("qformer reads patch tokens, and was given images without them")
        if not len(images):
            return images.vectors.new_zeros(0, self.dimension)
        patches = torch.where(_readable(images)[:, None, None], images.patches, 0.0)
        projected = functional.normalize(projection(self._read(patches, texts)), dim=-1)
        return functional.normalize(projected.mean(dim=1), dim=-1)

    def _read(self, patches: Tensor, texts: Sequence[str]) -> Tensor:
        """The query tokens after the last layer, [images, query tokens, hidden size]."""
        queries = self.query_tokens.expand(len(patches), -1, -1)
        words: dict[str, Tensor | None] = {"input_ids": None}
        if any(text.strip() for text in texts):
            ids, is_text = (found.to(patches.device) for found in self._tokens(texts))
            is_query = is_text.new_ones(queries.shape[:2])
            words = {"input_ids": ids, "attention_mask": torch.cat([is_query, is_text], dim=1).long()}
        read = self.qformer(query_embeds=queries, encoder_hidden_states=patches, **words)
        return read.last_hidden_state[:, : queries.shape[1]]


def _contrastive(logits: Tensor, target_ids: Sequence[str]) -> Tensor:
    """The mean cross-entropy of each query's own target among the batch's.

    Args:
        logits: Similarity of query i and target j, float32 [q, q].
        target_ids: Ids of the targets; another target of the same id is left out of the sum.

    Returns:
        A scalar.
    """
    numbers = {name: number for number, name in enumerate(target_ids)}
    ids = torch.tensor([numbers[name] for name in target_ids], device=logits.device)
    own = torch.arange(len(ids), device=logits.device)
    twice = (ids[:, None] == ids) & (own[:, None] != own)
    return functional.cross_entropy(logits.masked_fill(twice, -torch.inf), own)


def _readable(images: ImageFeatures) -> Tensor:
    """Which pictures can be read, bool [images]."""
    return images.vectors.any(dim=1)


def _checked_start(encoder: OpenClipSpace | Blip2Space, start_from: str) -> Blip2Space:
    if isinstance(encoder, Blip2Space) and encoder.name == model_name(start_from):
        return encoder
    raise SystemModelError(
        f"qformer starts from the BLIP-2 {start_from!r}, whose Q-Former reads this model's own vision "
        f"tokens, and the encoder is {encoder.id}: let the encoder be that model, or leave start_from out"
    )


def _sizes_of(start: Blip2Space) -> dict[str, Any]:
    return qformer_sizes(start.model.config)


def _sizes(encoder: OpenClipSpace | Blip2Space, options: QFormerOptions, vocab_size: int) -> dict[str, Any]:
    """The sizes of a new Q-Former: keyword arguments of ``InstructBlipQFormerConfig``."""
    from PIL import Image

    patches = encoder.embed_patches([Image.new("RGB", (64, 64))])
    return {
        "vocab_size": vocab_size,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "intermediate_size": 4 * options.hidden_size,
        "max_position_embeddings": options.text_length,
        "initializer_range": 0.02 * math.sqrt(768 / options.hidden_size),  # 0.02 is BERT's at a width of 768
        "pad_token_id": None,  # its embedding would not be trained, and it may be a word's id, too
        "cross_attention_frequency": options.cross_attention_frequency,
        "encoder_hidden_size": int(patches.shape[-1]),
    }
