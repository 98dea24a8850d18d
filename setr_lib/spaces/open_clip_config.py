"""What open_clip's configuration of a model says of it, read without open_clip, torch or the weights."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from setr_lib.models.hub_cache import HUB_ID, OPEN_CLIP_WEIGHTS, Download, Repository, Source
from setr_lib.settings import LOCAL_FOLDER

HUB_MODEL = "hf-hub:"
"""What comes before a hub id in open_clip's model names."""
_ALONE = "_setr_open_clip_tables"


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


def pretrained_tags(name: str) -> dict[str, dict[str, Any]]:
    """The pretrained weights that open_clip knows of an architecture, by tag, read without building a model.

    Args:
        name: The architecture, e.g. ``ViT-L-14``.

    Returns:
        What open_clip says of each: ``hf_hub`` (``organisation/name/`` and perhaps a file), ``url``, and the
        preprocessing; empty for an architecture without any.
    """
    table = getattr(_pretrained_module(), "_PRETRAINED", {})
    return dict(table.get(name.replace("/", "-"), {}))


def pretrained_tag(name: str, tag: str) -> dict[str, Any] | None:
    """What open_clip says of one tag of an architecture, which may be written with ``-`` for ``_``.

    Args:
        name: The architecture.
        tag: The tag.

    Returns:
        As of :func:`pretrained_tags`; None where there is no such tag.
    """
    return pretrained_tags(name).get(tag.lower().replace("-", "_"))


def tag_fault(name: str, pretrained: str | None) -> str | None:
    """What is wrong with ``pretrained`` where it is neither a file nor one of open_clip's tags of ``name``.

    Args:
        name: As settings name the model.
        pretrained: The tag or file of its weights.

    Returns:
        The words, with the nearest tag; None where nothing is wrong, or the architecture is not known.
    """
    if pretrained is None or ":" in name or name.replace("/", "-") not in built_in_configs():
        return None
    tags = list(pretrained_tags(name))
    if pretrained_tag(name, pretrained) is not None or Path(pretrained).is_file():
        return None
    words = f"pretrained = {pretrained!r} is no file here, and no tag that open_clip has of {name}"
    if not tags:
        return f"{words}, which has none: name a file, or another architecture"
    written = pretrained.lower().replace("-", "_")
    begun = [tag for tag in tags if tag.startswith(written)][:1]
    close = begun or get_close_matches(written, tags, n=1, cutoff=0.4)
    if not close:
        return f"{words}; there is {', '.join(tags)}"
    others = ", ".join(tag for tag in tags if tag not in close)
    return f"{words}; did you mean {close[0]}?" + (f" There is also {others}" if others else "")


def _pretrained_module() -> Any:
    """open_clip's module of pretrained weights. Where open_clip is not imported yet, the module is loaded
    without its package, which would import torchvision and every architecture.
    """
    loaded = sys.modules.get("open_clip.pretrained")
    found = importlib.util.find_spec("open_clip")
    if loaded is not None or found is None or found.origin is None:
        return loaded
    if _ALONE not in sys.modules:
        package = ModuleType(_ALONE)
        package.__path__ = [str(Path(found.origin).parent)]
        sys.modules[_ALONE] = package
    return importlib.import_module(f"{_ALONE}.pretrained")


def download_sources(name: str, pretrained: str | None) -> list[Source]:
    """What an open_clip model is downloaded from.

    Args:
        name: As settings name it: an architecture, ``hf-hub:`` and a hub id, or ``local-dir:`` and a folder.
        pretrained: The tag or file of an architecture's weights.

    Returns:
        The repositories and files of weights, tokenizer and the text tower's configuration; none for what is
        on this machine by its nature, or what open_clip does not know.
    """
    if name.startswith(LOCAL_FOLDER):
        return []
    if name.startswith(HUB_MODEL):
        repository = Repository(name.removeprefix(HUB_MODEL), file=OPEN_CLIP_WEIGHTS)
        return [repository, *_of_text_tower(_hub_config(repository))]
    tower = _of_text_tower(model_config(name))
    if pretrained is None or Path(pretrained).is_file():
        return tower
    described = pretrained_tag(name, pretrained) or {}
    if hub := described.get("hf_hub"):
        repository, _, file = str(hub).rpartition("/")
        return [Repository(repository, file=file or OPEN_CLIP_WEIGHTS, size=weight_bytes(name)), *tower]
    return [*([Download(str(described["url"]), weight_bytes(name))] if described.get("url") else []), *tower]


def _of_text_tower(config: dict[str, Any] | None) -> list[Source]:
    text = (config or {}).get("text_cfg")
    if not isinstance(text, dict):
        return []
    tokenizer, tower = text.get("hf_tokenizer_name"), text.get("hf_model_name")
    return [
        *([Repository(str(tokenizer), part="tokenizer")] if _is_hub_id(tokenizer) else []),
        *([Repository(str(tower), part="config")] if _is_hub_id(tower) else []),
    ]


def _is_hub_id(name: object) -> bool:
    """Whether a configuration names something of the hub; ``.`` is the folder that it lies in."""
    return bool(isinstance(name, str) and name.strip(".") and HUB_ID.fullmatch(name))


def _hub_config(repository: Repository) -> dict[str, Any] | None:
    """open_clip's configuration of a repository, where it is in the cache."""
    snapshot = repository.snapshot
    return None if snapshot is None else model_config(f"{LOCAL_FOLDER}{snapshot}")


def weight_bytes(name: str) -> int | None:
    """About the bytes of a vision transformer's weights in float32, by its configuration.

    Args:
        name: An architecture of open_clip.

    Returns:
        Four bytes a parameter; None for architectures that are not open_clip's own vision transformer and
        text transformer.
    """
    config = model_config(name) or {}
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    try:
        joint = int(config["embed_dim"])
        if (
            vision.get("timm_model_name")
            or text.get("hf_model_name")
            or not isinstance(vision["layers"], int)
        ):
            return None
        width, words = int(vision["width"]), int(text["width"])
        patches = (int(vision["image_size"]) // int(vision["patch_size"])) ** 2
        image = _blocks(vision, width) + width * (3 * int(vision["patch_size"]) ** 2 + patches + 6 + joint)
        rows = int(text["vocab_size"]) + int(text["context_length"]) + 2 + joint
    except (KeyError, TypeError, ValueError):
        return None
    return 4 * (image + _blocks(text, words) + words * rows)


def _blocks(tower: dict[str, Any], width: int) -> int:
    """Parameters of a tower's layers: attention, MLP, their biases and two layer norms."""
    ratio = float(tower.get("mlp_ratio", 4.0))
    hidden = int(width * ratio)
    return int(tower["layers"]) * (4 * width * width + 2 * width * hidden + hidden + 9 * width)
