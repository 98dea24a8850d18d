"""LoRA layers in a judge's language model: which layers, putting them in and taking them out, saving them."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.models.multimodal import MultimodalModel
from setr_lib.models.multimodal.loading import LANGUAGE_MODEL_NAMES
from setr_lib.settings import AdapterSettings
from setr_lib.training.loop import TrainingError, cuda_devices

if TYPE_CHECKING:
    import torch


class AdapterError(TrainingError):
    """The adapter cannot be trained on this model or these pairs; the message says what to change."""


def lora_targets(model: Any, names: Sequence[str]) -> str:
    """The target modules of LoRA: linear layers of the language model only, not of the vision tower.

    Args:
        model: A transformers image-text-to-text model.
        names: The last parts of the layers' names, such as ``q_proj``.

    Returns:
        A regular expression that PEFT matches to whole module names.

    Raises:
        AdapterError: The language model was not found, or has no linear layers of these names.
    """
    import torch

    decoder = _language_model_name(model)
    wanted = "|".join(re.escape(name) for name in names)
    pattern = rf"{re.escape(decoder)}\.(?:.*\.)?(?:{wanted})"
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not any(re.fullmatch(pattern, name) for name in linear):
        inside = sorted({name.rsplit(".", 1)[-1] for name in linear if name.startswith(decoder + ".")})
        raise AdapterError(
            f"reranking.adapter.target_modules = {list(names)}: none is a linear layer of the language "
            f"model; its linear layers are called {inside}"
        )
    return pattern


def _language_model_name(model: Any) -> str:
    """The dotted name of the text decoder inside an image-text-to-text model."""
    decoder = model.get_decoder()
    for name, module in model.named_modules():
        if module is decoder and name:
            break
    else:
        name = ""
    towers = ("visual", "vision_tower", "vision_model")
    if not name or any(hasattr(decoder, tower) for tower in towers):
        inner = [n for n, _ in model.named_modules() if n.split(".")[-1] in LANGUAGE_MODEL_NAMES]
        if not inner:
            raise AdapterError(
                f"{type(model).__name__}: its language model was not found; it cannot be adapted"
            )
        name = min(inner, key=len)
    return name


class lora_layers:
    """Context manager: LoRA layers inside a model for the duration of a ``with`` block, removed at its end.

    Entering gives the PEFT model. Afterwards ``base.model`` is as before: weights, ``requires_grad`` and
    module names.

    Args:
        base: The model, without an adapter; its ``model`` is changed in place.
        settings: Rank, alpha, dropout, target modules and the seed of the initial LoRA weights.
    """

    def __init__(self, base: MultimodalModel, settings: AdapterSettings) -> None:
        self._base, self._settings = base, settings

    def __enter__(self) -> Any:
        import torch
        from peft import LoraConfig, get_peft_model

        model, settings = self._base.model, self._settings
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=lora_targets(model, settings.target_modules),
            bias="none",
        )
        self._was_trainable = {
            name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        with torch.random.fork_rng(devices=cuda_devices(self._base.device)):
            torch.manual_seed(settings.seed)
            # The base is on its device already: LoRA layers made before a move may silently not be trained.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
                self._peft_model = get_peft_model(model, config)
        return self._peft_model

    def __exit__(self, *_: object) -> None:
        model = self._peft_model.unload()
        model.requires_grad_(False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._was_trainable)
        # PEFT leaves its marks on the model, and would warn about a second adapter at the next training.
        for mark in ("peft_config", "_hf_peft_config_loaded"):
            if mark in vars(model):
                delattr(model, mark)
        model.eval()


def trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters of a model that require a gradient, by name.

    Args:
        model: A torch module.

    Returns:
        The LoRA weights, inside a ``with lora_layers(...)`` block.
    """
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_adapter(peft_model: Any, folder: Path, base_id: str) -> Path:
    """Write a PEFT adapter folder, without the model card and the local paths that PEFT would add.

    Args:
        peft_model: The PEFT model with the trained LoRA layers.
        folder: Where to write; an existing folder is replaced once the new one is complete.
        base_id: The identity of the base model, which the configuration names.

    Returns:
        ``folder``.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        partial / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = peft_model.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = base_id, True
    config.save_pretrained(str(partial))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder
