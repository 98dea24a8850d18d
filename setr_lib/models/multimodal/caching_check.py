"""Whether cached vision outputs and prefixes reproduce a model's own forward pass.

A new architecture may do something with images that the caches do not know; so both ways are compared, once
per model.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from setr_lib.errors import SetrError
from setr_lib.models.device import is_out_of_memory
from setr_lib.models.multimodal.errors import first_line
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.prompt import Request
from setr_lib.models.multimodal.vision import VisionTower

_LOG = logging.getLogger(__name__)
_LOOKED_AT = 16
"""Of so many requests, the shortest and the longest are compared."""


def accepts_vision_outputs(model: Any) -> bool:
    """Whether an architecture takes vision outputs in place of images, and attends as text does.

    Args:
        model: A transformers image-text-to-text model.

    Returns:
        False where caching is impossible; True where it must still be compared with the plain pass.
    """
    parameters = inspect.signature(model.forward).parameters
    return "mm_encoder_outputs" in parameters and "token_type_ids" not in parameters


def caches_reproduce_plain_scores(
    requests: Sequence[Request],
    loaded: LoadedModel,
    vision: VisionTower,
    plain_scores: Callable[[Sequence[Request]], np.ndarray],
    cached_scores: Callable[[Sequence[Request]], Sequence[float]],
) -> bool:
    """Score two requests both ways and compare.

    Args:
        requests: At least one request; the shortest and the longest of the first 16 are used, so that padding
            is tried.
        loaded: The model.
        vision: Its vision tower; its memory is the same afterwards, so whether the check ran shows in no
            later result.
        plain_scores: float32 [n], the model's own forward pass.
        cached_scores: [n], the pass with cached vision outputs.

    Returns:
        Whether the scores agree, within what rounding explains. Where they do not, a warning is logged.

    Raises:
        SetrError: A request cannot be run at all, such as ``PictureError``.
    """
    ordered = sorted(
        requests[:_LOOKED_AT], key=lambda request: sum(len(str(part)) for part in request[0].parts)
    )
    sample = [ordered[0], ordered[-1]]
    plain = plain_scores(sample)
    try:
        with vision.separate_memory():
            cached = np.asarray(cached_scores(sample), dtype=np.float32)
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, SetrError):
            raise
        _LOG.warning("%s: vision outputs cannot be reused (%s); slower", loaded.id, first_line(error))
        return False
    # Half precision rounds a logit of 20 to 0.1; float32 is exact but for the order of sums.
    import torch

    close = 1e-2 if loaded.model.dtype == torch.float32 else 0.5
    agree = bool(np.allclose(plain, cached, atol=close, rtol=close / 10))
    if not agree:
        _LOG.warning("%s: cached scores %s differ from plain %s; caching is off", loaded.id, cached, plain)
    return agree
