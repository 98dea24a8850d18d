"""What a model's configuration and class say of how it works, without its weights."""

from __future__ import annotations

import inspect
from typing import Any


def architecture(config: Any) -> type | None:
    """The class of transformers that a model of a configuration is.

    Args:
        config: transformers' configuration.

    Returns:
        An image-text-to-text class; None where there is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    found = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    return found[0] if isinstance(found, (tuple, list)) else found


def accepts_vision_outputs(kind: type) -> bool:
    """Whether an architecture takes vision outputs in place of images, and attends as text does.

    Args:
        kind: The class of a transformers image-text-to-text model.

    Returns:
        False where caching is impossible; True where it must still be compared with the plain pass.
    """
    parameters = inspect.signature(kind.forward).parameters  # pyright: ignore[reportAttributeAccessIssue]
    return "mm_encoder_outputs" in parameters and "token_type_ids" not in parameters


def layers_attend_to_all(config: Any) -> bool:
    """Whether each layer of a language model attends to all earlier tokens, as its configuration says.

    Args:
        config: The transformers configuration of the whole model.

    Returns:
        False for sliding windows and recurrent layers.
    """
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None)
    if layers is None:
        return getattr(text, "sliding_window", None) is None
    return set(layers) == {"full_attention"}


def longest_prompt(config: Any) -> int | None:
    """How many tokens a model reads.

    Args:
        config: Its transformers configuration.

    Returns:
        The number of its language model's positions; None where it does not say.
    """
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None
