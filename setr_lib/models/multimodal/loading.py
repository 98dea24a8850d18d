"""Loading an image-text-to-text model of transformers with its processor and a LoRA adapter; its identity."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.hashing import ABOUT_A_MODEL, digest_strings, fingerprint_file
from setr_lib.models.device import pick_device
from setr_lib.models.hub import load_from_hub
from setr_lib.models.hub_cache import Repository, transformers_sources
from setr_lib.models.multimodal.errors import JudgeError, first_line
from setr_lib.models.multimodal.model_files import model_files_problem
from setr_lib.models.multimodal.special_tokens import ANSWERS, Answers, SpecialTokens, read_special_tokens
from setr_lib.models.multimodal.suitability import loading_problem, open_parts, parts_problem

if TYPE_CHECKING:
    import torch

    from setr_lib.settings import JudgeSettings

LANGUAGE_MODEL_NAMES = frozenset({"language_model", "text_model"})
"""What transformers calls the language model inside an image-text-to-text model."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """An image-text-to-text model on its device, in evaluation mode, with its processor.

    Attributes:
        model: The transformers model. LoRA layers are injected into it in place.
        processor: The transformers processor: tokenizer, image processor and chat template.
        device: Where the model is.
        id: Identity of weights and adapter, independent of where they are stored; part of every cache key.
        base_id: The same without the adapter.
        special_tokens: Token ids by role.
    """

    model: Any
    processor: Any
    device: torch.device
    id: str
    base_id: str
    special_tokens: SpecialTokens

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer


def load_model(
    judge: JudgeSettings,
    *,
    adapter: Path | None,
    device: str,
    name: str | None,
    merge_adapter: bool,
    answers: Answers = ANSWERS,
    section: str = "models.judge",
) -> LoadedModel:
    """Load a model and, if given, an adapter; the arguments are those of ``MultimodalModel.load``.

    Args:
        judge: The settings section ``models.judge``.
        adapter: A PEFT LoRA adapter folder, or ``None``.
        device: A torch device, or ``auto``.
        name: A local folder or a hub id; ``None`` is ``judge.name``.
        merge_adapter: Add the adapter's weights to the model's own (in float32 only).
        answers: Spellings of Yes and No, the first choice first.
        section: The section of settings that names the model, for messages.

    Returns:
        The model in evaluation mode on its device.

    Raises:
        JudgeError: Model, chat template, answer tokens or adapter cannot be had.
        DeviceError: The device does not exist on this machine.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # only for loading; downloads keep theirs
    name = name or judge.name
    where = f"{section}.name = {name!r}"
    torch_device = pick_device(device)
    if (problem := model_files_problem(name, judge.revision)) is not None:
        raise JudgeError(f"{where}: {problem}")
    dtype = "float32" if judge.dtype == "auto" and torch_device.type == "cpu" else judge.dtype
    options = {"revision": judge.revision, "trust_remote_code": judge.trust_remote_code}

    def load() -> tuple[Any, Any]:
        config, processor = open_parts(judge, name)
        if (problem := parts_problem(config, processor, answers)) is not None:
            raise JudgeError(f"{where}: {problem}")
        return processor, AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **options)

    try:
        processor, model = load_from_hub(
            transformers_sources(name, judge.revision),
            load,
            kind=JudgeError,
            what=where,
            remedy=f'[{section}] name = "FOLDER"',
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise JudgeError(f"{where}: {loading_problem(error)}") from error
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token  # padding is masked, whatever it is
    model = model.to(torch_device)
    number = str(model.dtype).removeprefix("torch.")
    model_id = base_id = model_identity(name, model.config, number, judge.revision)
    if adapter is not None:
        model = _with_adapter(model, adapter, merge=merge_adapter and model.dtype == torch.float32)
        model_id += f"+{folder_digest(adapter)}"
    model.eval()
    return LoadedModel(
        model, processor, torch_device, model_id, base_id, read_special_tokens(model, processor, answers)
    )


def model_identity(name: str, config: Any, dtype: str, revision: str | None = None) -> str:
    """Name a model's weights independently of where they are stored.

    Args:
        name: The local folder or hub id that the model was loaded from.
        config: The model's transformers configuration.
        dtype: The weights' number format, such as ``float32``.
        revision: The commit, branch or tag of the hub that was loaded.

    Returns:
        ``folder@digest/dtype`` for a local folder, ``hub/id@commit/dtype`` otherwise.

    Raises:
        JudgeError: The folder holds no model files.
    """
    folder = Path(name)
    if folder.is_dir():
        return f"{folder.resolve().name}@{folder_digest(folder)}/{dtype}"
    snapshot = Repository(name, revision).snapshot
    commit = getattr(config, "_commit_hash", None) or (snapshot.name if snapshot else "unknown")
    return f"{name}@{commit[:12]}/{dtype}"


def folder_digest(folder: Path) -> str:
    """Digest of the weights, configuration and tokenizer in a model folder or an adapter folder.

    Args:
        folder: A folder in transformers' or PEFT's layout; subfolders are not read.

    Returns:
        12 hexadecimal digits.

    Raises:
        JudgeError: There are no model files in the folder.
    """
    kinds = {".safetensors", ".json", ".jinja", ".txt", ".model"}
    parts = (path for path in folder.iterdir() if path.suffix in kinds and path.name not in ABOUT_A_MODEL)
    files = sorted(path for path in parts if path.is_file())
    if not files:
        raise JudgeError(f"{folder}: no model files there")
    return digest_strings(part for path in files for part in (path.name, fingerprint_file(path)))[:12]


def _with_adapter(model: Any, adapter: Path, *, merge: bool) -> Any:
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise JudgeError(f"{adapter}: no adapter_config.json there; it is not a PEFT adapter folder")
    with warnings.catch_warnings():
        # PEFT only warns when weights are absent, and goes on with random ones.
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            wrapped = PeftModel.from_pretrained(model, str(adapter))
        except (Warning, RuntimeError, ValueError, OSError) as error:
            raise JudgeError(
                f"{adapter}: the adapter does not fit this model ({first_line(error)})"
            ) from error
    return wrapped.merge_and_unload() if merge else wrapped.get_base_model()  # pyright: ignore[reportCallIssue]
