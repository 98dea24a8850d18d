"""Encoders of the tests of trained systems: the miniature's, and tiny ones with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import setr_lib
from setr_lib.settings import EncoderSettings
from setr_lib.spaces.open_clip_space import OpenClipSpace

CONTEXT, WIDTH, DIMENSION = 24, 16, 12
"""Of the random encoders: tokens, width of the text tower, length of a vector."""
_VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
_TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 3}
# SigLIP's text towers see both ways, pool the last token, and project with a bias.
SIGLIP: dict[str, Any] = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "pad_id": 1}


@cache
def miniature() -> OpenClipSpace:
    """The miniature's CLIP: trained weights, a byte-level tokenizer in which ``$`` is not 259."""
    folder = Path(setr_lib.__file__).parent / "miniature" / "weights" / "clip"
    return OpenClipSpace.load(EncoderSettings(name=f"local-dir:{folder}"), "cpu")


def random_encoder(kind: str = "CLIP", clean: str = "lower", **text: Any) -> OpenClipSpace:
    """A tiny open_clip model of random weights with open_clip's own tokenizer.

    Args:
        kind: The class in open_clip, ``CLIP`` or ``CustomTextCLIP``.
        clean: What the tokenizer does first: ``canonicalize`` drops punctuation, as SigLIP's do.
        text: Keys of the text tower's configuration to replace.

    Returns:
        The encoder.
    """
    import open_clip
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = getattr(open_clip, kind)(
            embed_dim=DIMENSION, vision_cfg=dict(_VISION), text_cfg={**_TEXT, **text}
        )
    return encoder_of(model, open_clip.SimpleTokenizer(context_length=CONTEXT, clean=clean))


def encoder_of(model: Any, tokenizer: Any) -> OpenClipSpace:
    """An encoder of a model and a tokenizer; its preprocessing is not used."""
    import torch

    model.visual.preprocess_cfg = {"size": 32}
    return OpenClipSpace(model, None, tokenizer, "tiny", torch.device("cpu"))
