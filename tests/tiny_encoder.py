"""A tiny, randomly initialised CLIP as an open_clip ``local-dir:`` folder, for tests that need a real encoder
offline.

The tokenizer is open_clip's own (its vocabulary ships with the package), so nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TINY_PREPROCESSING: dict[str, Any] = {"resize_mode": "squash", "interpolation": "bicubic"}


def write_tiny_clip(folder: Path, seed: int = 0, **model_config: Any) -> str:
    """Write the model to ``folder`` and return its name for open_clip, ``local-dir:FOLDER``.

    ``model_config`` replaces keys of ``TINY_CLIP``; another ``seed`` gives another model.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {**TINY_CLIP, **model_config}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(
            embed_dim=config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=config["text_cfg"]
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": TINY_PREPROCESSING}), encoding="utf-8"
    )
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
