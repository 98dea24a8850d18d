"""A tiny, randomly initialised BLIP-2 for image-text retrieval in a local folder: the layout of
``Salesforce/blip2-itm-vit-g``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    "the",
    "a",
    "red",
    "blue",
    "dress",
    "shirt",
    "with",
    "shorter",
    "sleeves",
    "longer",
    "and",
    "no",
    "belt",
)
QUERY_TOKENS, DIMENSION, SIDE, PATCHES = 5, 12, 28, 5


def write_tiny_blip2(folder: Path, seed: int = 0, **qformer: Any) -> Path:
    """Write model, image processor and tokenizer to ``folder``; another ``seed``, another model. ``qformer``
    replaces keys of the Q-Former's configuration.
    """
    import torch
    from transformers import (
        BertTokenizer,
        Blip2Config,
        Blip2ForImageTextRetrieval,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
    )

    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    vocabulary = {token: number for number, token in enumerate((*specials, *WORDS))}
    text_side: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
        "cross_attention_frequency": 2,
        "use_qformer_text_input": True,
    }
    vision = Blip2VisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        initializer_range=0.2,  # by default a random tower is all but zero
    )
    config = Blip2Config(
        vision_config=vision,
        qformer_config=Blip2QFormerConfig(**{**text_side, **qformer}),
        num_query_tokens=QUERY_TOKENS,
        image_text_hidden_size=DIMENSION,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Blip2ForImageTextRetrieval(config)
        for value in model.parameters():  # biases, norms and query tokens are ones or zeros in a new model
            value.data += 0.2 * torch.randn_like(value)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def rename_weight(folder: Path, key: str, new: str) -> None:
    """Store a weight under another name."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[new] = tensors.pop(key)
    save_file(tensors, path, metadata={"format": "pt"})
