"""Who a model is: digests of weights and configurations, for the ids of embedding spaces."""

from __future__ import annotations

import json
from typing import Any

from setr_lib.hashing import digest_json

_NOT_THE_MODEL = frozenset({"transformers_version", "_name_or_path", "dtype", "torch_dtype"})
"""Keys of a configuration that say how a model was stored or loaded."""


def digest_weights(model: Any) -> str:
    """Digest of all tensors of a torch module's ``state_dict()``: names, number types, shapes and values.

    Args:
        model: The module, on any device.

    Returns:
        32 hexadecimal digits.
    """
    import torch
    import xxhash

    hasher = xxhash.xxh3_128()
    for key, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        hasher.update(f"{key}:{data.dtype}:{tuple(data.shape)}".encode())
        hasher.update(data.view(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def configuration_values(config: Any) -> Any:
    """What a configuration of transformers says of the model, defaults included.

    Args:
        config: A ``PreTrainedConfig``.

    Returns:
        JSON values, without the keys that say how the model was stored or loaded.
    """
    return _without(json.loads(config.to_json_string(use_diff=False)))


def image_processor_id(images: Any) -> str:
    """Identity of an image processor of transformers.

    Args:
        images: The image processor.

    Returns:
        Its class, and a digest of its configuration.
    """
    return f"{type(images).__name__}-{digest_json(json.loads(images.to_json_string()))[:8]}"


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(item) for key, item in value.items() if key not in _NOT_THE_MODEL}
    return [_without(item) for item in value] if isinstance(value, list) else value
