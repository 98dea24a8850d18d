"""What is wrong with the folder of a multimodal LLM, as far as its files tell; nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setr_lib.faults import json_fault, safetensors_fault
from setr_lib.models.hub_cache import HUB_ID, Repository

A_MULTIMODAL_ONE = "a multimodal LLM is needed, such as Qwen/Qwen3-VL-2B-Instruct"
ENCODERS = frozenset(
    {"align", "altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2", "x_clip"}
)
"""Model types of encoders of images and texts."""
_OTHER_FORMS = {
    "internvl_chat": "the checkpoint of the same name that ends in -hf",
    "llava_qwen": "one for transformers, such as llava-hf/llava-onevision-qwen2-7b-ov-hf",
}
"""Model types of published checkpoints that transformers reads in another form."""
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_LFS = b"version https://git-lfs"


def model_folder(name: str, revision: str | None = None) -> Path | None:
    """Where the files of a model are on this machine.

    Args:
        name: A local folder, or a hub id.
        revision: Of a hub id.

    Returns:
        The folder, or the snapshot in the hub's cache; None where there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    found = Repository(name, revision).snapshot
    return found if found is not None and (found / "config.json").is_file() else None


def model_files_problem(name: str, revision: str | None = None) -> str | None:
    """Why a model cannot be loaded, as far as its files tell without any library that loads models.

    Args:
        name: A local folder, or a hub id.
        revision: Of a hub id.

    Returns:
        A sentence without its subject; None where nothing is wrong, or files are still to be downloaded.
    """
    folder = model_folder(name, revision)
    if folder is None:
        return None if HUB_ID.fullmatch(name) else "there is no such folder, and it is no hub id"
    if (folder / "adapter_config.json").is_file() and not [*_weights(folder, adapter=False)]:
        return _adapter(folder)
    if not (folder / "config.json").is_file():
        return "it holds no config.json, so it is no model folder of transformers"
    if (fault := json_fault(folder / "config.json")) is not None:
        return f"its config.json {fault}"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (problem := _kind_problem(config)) is not None:
        return problem
    # A hub's snapshot may hold some of the files only: the rest is downloaded.
    return _missing_files(folder) if Path(name).is_dir() else _broken_weights(folder)


def _adapter(folder: Path) -> str:
    base = None
    if json_fault(folder / "adapter_config.json") is None:
        told = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = told.get("base_model_name_or_path")
    return (
        f"it is a PEFT adapter{f' of {base}' if base else ''}, not a model: name the base model here; an "
        "adapter of SETR's own is a version of a registered model"
    )


def _kind_problem(config: dict[str, Any]) -> str | None:
    """Why a model of this configuration neither sees nor writes, where its names say so."""
    kind = str(config.get("model_type"))
    if kind in _OTHER_FORMS:
        return f"its files are in the form of its authors' own code ({kind}): name {_OTHER_FORMS[kind]}"
    if kind in ENCODERS:
        return (
            f"it is an encoder of images and texts ({kind}), which writes nothing and belongs to "
            f"[models.encoder]; {A_MULTIMODAL_ONE}"
        )
    architectures = config.get("architectures") or []
    sees = any("vision" in key or "visual" in key for key in config)
    writes = bool(architectures) and str(architectures[0]).endswith("ForCausalLM")
    if writes and not sees and "auto_map" not in config:  # code of its own may see in its own way
        return f"it is a language model ({kind}) that sees no pictures; {A_MULTIMODAL_ONE}"
    return None


def _missing_files(folder: Path) -> str | None:
    if not any((folder / name).is_file() for name in _PROCESSORS):
        return (
            f"it holds no processor ({' or '.join(_PROCESSORS)}): copy the files of tokenizer and processor "
            "from the model that it was made of"
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return "it holds no tokenizer: copy its files from the model that it was made of"
    if not [*_weights(folder)]:
        return "it holds no weights"
    return _broken_weights(folder)


def _broken_weights(folder: Path) -> str | None:
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if (fault := json_fault(index)) is not None:
            return f"its {index.name} {fault}"
        told = json.loads(index.read_text(encoding="utf-8"))
        named = sorted({str(name) for name in told.get("weight_map", {}).values()})
        missing = [name for name in named if not (folder / name).is_file()]
        if missing:
            return f"{len(missing)} of its {len(named)} files of weights are missing, the first: {missing[0]}"
    for path in sorted(folder.glob("*.safetensors")):
        if (fault := safetensors_fault(path)) is None:
            continue
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                return f"{path.name} only points to its content: run `git lfs pull` in the folder"
        return f"{path.name} {fault}"
    return None


def _weights(folder: Path, *, adapter: bool = True) -> Iterator[Path]:
    for pattern in _WEIGHTS:
        for path in folder.glob(pattern):
            if adapter or not path.name.startswith("adapter_model."):
                yield path
