"""What ``setr doctor`` says of models: whether their weights are here, how much is still to be downloaded and
whether there is room for it, and whether the device computes what is asked of it.

No model is loaded. Where weights are missing, the hub is asked once how large they are, unless
``HF_HUB_OFFLINE`` forbids it.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from setr_lib.commands.check import Check
from setr_lib.commands.console import size_words
from setr_lib.errors import SetrError
from setr_lib.models.hub import Answer, free_bytes, not_here, probe
from setr_lib.models.hub_cache import (
    HUB_ID,
    WEIGHTS,
    Repository,
    Source,
    endpoint,
    hub_cache,
    is_offline,
    transformers_sources,
)
from setr_lib.near_names import did_you_mean
from setr_lib.settings import LOCAL_FOLDER, Settings
from setr_lib.spaces.open_clip_config import HUB_MODEL, built_in_configs, download_sources, tag_fault
from setr_lib.spaces.sentence_space import sentence_sources

_NO_NATIVE = "this device has no {dtype} of its own and computes it by detours, which is slow"


def open_clip_check(what: str, name: str, pretrained: str | None, remedy: str) -> Check:
    """An open_clip model: whether there is such a model and tag, and where its weights are.

    Args:
        what: What it is, for the table.
        name: As settings name it, paths made absolute.
        pretrained: The tag or file of its weights.
        remedy: How settings name a local folder instead.

    Returns:
        The check.
    """
    if name.startswith(LOCAL_FOLDER):
        return folder_check(what, Path(name.removeprefix(LOCAL_FOLDER)), "open_clip_config.json")
    value = name if pretrained is None else f"{name}, {pretrained}"
    if not name.startswith(HUB_MODEL):
        if name.replace("/", "-") not in built_in_configs():
            near = did_you_mean(name, built_in_configs())
            return Check(what, name, "broken", f"open_clip has no model of that name{near}")
        if fault := tag_fault(name, pretrained):
            return Check(what, value, "broken", fault)
    found = _download_check(what, value, download_sources(name, pretrained), remedy)
    if pretrained is None and not name.startswith(HUB_MODEL) and found.status == "ok":
        return Check(what, name, "ok", "without `pretrained` its weights are random: for a trial only")
    return found


def sentence_check(what: str, name: str, revision: str | None) -> Check:
    """A model of sentence-transformers; see :func:`hub_check`."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return Check(what, name, "missing", "it needs the package: pip install 'sentence-transformers>=6.0'")
    return hub_check(what, name, revision, option_remedy("model"), sentence_sources(name, revision))


def hub_check(
    what: str, name: str, revision: str | None, remedy: str, sources: Sequence[Source] | None = None
) -> Check:
    """A model of transformers: a folder, or a hub id and where its weights are.

    Args:
        what: What it is, for the table.
        name: A local folder or a hub id.
        revision: A commit, branch or tag of the hub.
        remedy: How settings name a local folder instead.
        sources: What it is downloaded from; by default the repository of that id.

    Returns:
        The check.
    """
    if _is_hidden(Path(name)) or Path(name).is_dir():
        return folder_check(what, Path(name), "config.json")
    if not HUB_ID.fullmatch(name):
        return Check(what, name, "missing", "there is no such folder, and it is no hub id")
    found = transformers_sources(name, revision) if sources is None else sources
    return _download_check(what, name, found, remedy)


def option_remedy(key: str) -> str:
    """How the options of an embedding space name a local folder.

    Args:
        key: The option.

    Returns:
        The words.
    """
    return f'{key} = "FOLDER" in the options of that space'


def _is_hidden(folder: Path) -> bool:
    """Whether this user may not look into a folder, or not even at it."""
    try:
        with os.scandir(folder):
            return False
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False


def folder_check(what: str, folder: Path, config: str) -> Check:
    """A model's local folder, listed.

    Args:
        what: What it is, for the table.
        folder: The folder.
        config: The configuration file that it must hold.

    Returns:
        The check.
    """
    if _is_hidden(folder):
        return Check(what, str(folder), "missing", "this user may not look into it (permission denied)")
    if not folder.is_dir():
        return Check(what, str(folder), "missing", "there is no such folder")
    if not (folder / config).is_file():
        return Check(what, str(folder), "missing", f"it holds no {config}")
    if not any(file.suffix in WEIGHTS for file in folder.iterdir()):
        return Check(what, str(folder), "missing", "it holds no weights")
    return Check(what, str(folder), "ok")


def _download_check(what: str, value: str, sources: Sequence[Source], remedy: str) -> Check:
    """Whether what a model is downloaded from is here, can be had, or neither."""
    here = sum(source.bytes_here for source in sources)
    missing = [source for source in sources if not source.is_here]
    if not missing:
        detail = f"{size_words(here)} of weights in the cache" if here else ""
        return Check(what, value, "ok", detail, here)
    if is_offline():
        words = not_here(missing, Answer(False), remedy)
        return Check(what, value, "missing", words, here, _size(missing, {}))
    answers = {source: probe(source) for source in missing}
    size = _size(missing, answers)
    silent = next((answer for answer in answers.values() if not answer.reached), None)
    if silent is not None:
        return Check(what, value, "missing", not_here(missing, silent, remedy), here, size)
    amount = "an unknown amount" if size is None else size_words(size)
    return Check(what, value, "later", f"downloaded on first use: {amount} from {_from(missing)}", here, size)


def _from(missing: Sequence[Source]) -> str:
    return endpoint() if any(isinstance(source, Repository) for source in missing) else missing[0].name


def _size(missing: Iterable[Source], answers: dict[Source, Answer]) -> int | None:
    """Bytes to download: what the hub says, else about what names and architectures tell."""
    total = 0
    for source in missing:
        answer = answers.get(source)
        size = source.guessed_bytes if answer is None or answer.bytes is None else answer.bytes
        if size is None:
            return None
        total += size
    return total


def cache_check(checks: Sequence[Check]) -> Iterator[Check]:
    """What all models together take of the hub's cache, and whether there is room for what is to come.

    Args:
        checks: Those of the models.

    Yields:
        The check; none where every model is a local folder.
    """
    downloads = [check for check in checks if check.bytes_here or check.bytes_to_come != 0]
    concerned = list({check.value: check for check in downloads}.values())  # two may name the same model
    if not concerned:
        return
    here = sum(check.bytes_here for check in concerned)
    known = sum(check.bytes_to_come or 0 for check in concerned)
    unknown = [check.value for check in concerned if check.bytes_to_come is None]
    free = free_bytes(hub_cache())
    words = f"{size_words(here)} here, {size_words(known)} to download"
    words += f" and an unknown amount for {' and '.join(unknown)}" if unknown else ""
    words += "" if free is None else f"; free there: {size_words(free)}"
    if free is not None and known > free:
        words += ": make room, or name another folder by HF_HOME"
        yield Check("cache of models", str(hub_cache()), "missing", words)
    else:
        yield Check("cache of models", str(hub_cache()), "ok", words)


def device_checks(settings: Settings) -> Iterator[Check]:
    """The device of ``[models] device``, tried out, and the multimodal LLM's number format on it.

    Args:
        settings: The settings.

    Yields:
        The checks; of a plain ``cpu`` in float32 without importing torch.
    """
    name, dtype = settings.models.device, settings.models.judge.dtype
    if name == "cpu" and dtype in ("auto", "float32"):
        yield Check("device", name, "ok")
        return
    from setr_lib.models.device import pick_device

    try:
        device = pick_device(name)
    except SetrError as error:
        yield Check("device", name, "missing", str(error))
        return
    yield Check("device", name, "ok", _device_words(device))
    asked = _dtype(settings, str(device.type))
    if asked is not None and (problem := dtype_problem(device, asked)) is not None:
        yield Check("dtype", asked, *problem)


def _device_words(device: Any) -> str:
    import torch

    if device.type != "cuda":
        return str(device) if device.type != "cpu" else "cpu: neither CUDA nor MPS is here"
    free, total = torch.cuda.mem_get_info(device)
    return f"{device}: {torch.cuda.get_device_name(device)}, {size_words(free)} of {size_words(total)} free"


def _dtype(settings: Settings, device: str) -> str | None:
    """The number format that the judge is loaded in; None where that is not known before it is loaded."""
    if (said := settings.models.judge.dtype) != "auto":
        return said
    if device == "cpu":
        return "float32"
    name = settings.judge_name
    sources = transformers_sources(name, settings.models.judge.revision)
    folders = [source.snapshot for source in sources if isinstance(source, Repository)] or [Path(name)]
    try:
        values = json.loads((folders[0] or Path()).joinpath("config.json").read_text(encoding="utf-8"))
        found = values.get("dtype") or values.get("torch_dtype")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def dtype_problem(device: Any, dtype: str) -> tuple[Any, str] | None:
    """What is wrong with a number format on a device, found out by multiplying two small matrices.

    Args:
        device: The torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Returns:
        The status and the words; None where nothing is.
    """
    import torch

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        return None
    remedy = 'set [models.judge] dtype = "float32" (or "float16"), or another [models] device'
    try:
        square = torch.ones(2, 2, dtype=kind, device=device)
        (square @ square).sum().item()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return "missing", f"{device} cannot compute {dtype} ({reason}): {remedy}"
    if (
        device.type == "cuda"
        and dtype == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        return "warning", f"{_NO_NATIVE.format(dtype=dtype)}: {remedy}"
    return None
