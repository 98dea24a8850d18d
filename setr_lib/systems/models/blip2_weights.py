"""BLIP-2's retrieval weights under the names of :class:`~setr_lib.systems.models.qformer.QFormer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from setr_lib.systems.models.system_model import SystemModelError

_LAYERS = "qformer.encoder.layer."
"""Keys that begin so have one name in both."""
_RENAMED = {
    "query_tokens": "query_tokens",
    "embeddings.word_embeddings.weight": "qformer.embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight": "qformer.embeddings.position_embeddings.weight",
    "qformer.layernorm.weight": "qformer.embeddings.layernorm.weight",
    "qformer.layernorm.bias": "qformer.embeddings.layernorm.bias",
    "vision_projection.weight": "projection.weight",
    "vision_projection.bias": "projection.bias",
}
IGNORED = {
    "vision_model.": "the vision tower is the encoder's, frozen",
    "text_projection.": "is for the first token of a text that is read alone; here the query tokens read it",
    "itm_head.": "tells whether a text matches an image; nothing is asked so here",
}
"""Keys of a BLIP-2 that begin so have no place in the Q-Former, and why."""
_SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
    "cross_attention_frequency",
    "encoder_hidden_size",
)


def qformer_sizes(config: Any) -> dict[str, Any]:
    """The sizes of a BLIP-2's Q-Former.

    Args:
        config: The model's ``Blip2Config``.

    Returns:
        Keyword arguments of ``InstructBlipQFormerConfig``.
    """
    return {name: getattr(config.qformer_config, name) for name in _SHARED}


def from_blip2(stored: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A BLIP-2's tensors under the system's names.

    Args:
        stored: ``state_dict()`` of a ``Blip2ForImageTextRetrieval``.
        wanted: The system's names that BLIP-2 has weights for.

    Returns:
        A tensor for each of ``wanted``.

    Raises:
        SystemModelError: A key has no place here and is not one of ``IGNORED``, or a name has no key.
    """
    found, unknown = {}, []
    for key, value in stored.items():
        name = key if key.startswith(_LAYERS) else _RENAMED.get(key)
        if name is not None:
            found[name] = value
        elif not key.startswith(tuple(IGNORED)):
            unknown.append(key)
    needed = set(wanted)
    missing, unknown = sorted(needed - set(found)), sorted({*unknown, *(set(found) - needed)})
    if missing or unknown:
        raise SystemModelError(
            "these weights are not those of BLIP-2's Q-Former: "
            f"missing: {', '.join(missing) or 'none'}; without a place here: {', '.join(unknown) or 'none'}"
        )
    return found
