"""What open_clip's configuration of a model says of it, read without open_clip, torch or the weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from setr_lib.settings import LOCAL_FOLDER


def built_in_configs() -> dict[str, Path]:
    """The architectures that come with open_clip by name, found without importing it (and with it torch)."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        return {}
    return {path.stem: path for path in (Path(found.origin).parent / "model_configs").glob("*.json")}


def model_config(name: str) -> dict[str, Any] | None:
    """The configuration of a model.

    Args:
        name: As settings name it: an architecture, or ``local-dir:`` and an absolute folder.

    Returns:
        Its values (``embed_dim``, ``vision_cfg``, ``text_cfg``); None where they are not on this machine, or
        not readable.
    """
    if name.startswith(LOCAL_FOLDER):
        path = Path(name.removeprefix(LOCAL_FOLDER)) / "open_clip_config.json"
    elif (built_in := built_in_configs().get(name.replace("/", "-"))) is not None:
        path = built_in
    else:
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("model_cfg", values)
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) else None


def gives_patch_tokens(name: str) -> bool | None:
    """Whether a model's vision tower gives patch tokens: open_clip's own vision transformers do, its ResNets
    and towers of timm do not.

    Args:
        name: As of :func:`model_config`.

    Returns:
        Whether it does; None where that is not known.
    """
    config = model_config(name)
    vision = None if config is None else config.get("vision_cfg")
    if not isinstance(vision, dict):
        return None
    return not (vision.get("timm_model_name") or isinstance(vision.get("layers"), list))
