"""What a model's configuration and class say of how it works, without its weights."""

from __future__ import annotations

import inspect
import sys
from typing import Any

_BOTH_WAYS = ("or_mask_function", "block_sequence_ids", "token_type_ids_mask_function")
"""What transformers calls the masks by which the tokens of one picture attend to one another."""


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
    if "mm_encoder_outputs" not in parameters or "token_type_ids" in parameters:
        return False
    try:
        source = inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError):  # a class without a source file
        return True
    return not any(word in source for word in _BOTH_WAYS)


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


def has_recurrent_layers(config: Any) -> bool:
    """Whether a language model has layers without keys and values, such as linear attention.

    Args:
        config: The transformers configuration of the whole model.

    Returns:
        As its list of layers says; False where it has none.
    """
    layers = getattr(config.get_text_config(), "layer_types", None) or ()
    return not all("attention" in layer and "linear" not in layer for layer in layers)


def longest_prompt(config: Any) -> int | None:
    """How many tokens a model reads.

    Args:
        config: Its transformers configuration.

    Returns:
        The number of its language model's positions; None where it does not say.
    """
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None
