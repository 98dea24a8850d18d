"""Checkpoints of an adapter's training: safetensors and JSON, each whole or not there at all.

A checkpoint is a folder ``step-000050`` with ``weights.safetensors`` (the LoRA tensors), ``moments.safetensors``
(AdamW's) and ``state.json``. It is written beside its name and renamed, so SIGKILL costs at most one interval.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError

if TYPE_CHECKING:
    import torch

_MOMENTS = ("exp_avg", "exp_avg_sq")
_STATE = "state.json"


class CheckpointError(SetrError):
    """A checkpoint does not fit the training that it is of; the message names the folder to delete."""


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of ``state["step"]`` under ``folder`` and remove the older ones."""
    from safetensors.torch import save_file

    target = folder / f"step-{state['step']:06d}"
    partial = folder / f".{target.name}.{os.getpid()}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
    moments = {
        f"{moment}/{name}": optimiser.state[parameter][moment].cpu().contiguous()
        for name, parameter in parameters.items()
        for moment in _MOMENTS
        if parameter in optimiser.state
    }
    save_file(weights, partial / "weights.safetensors")
    save_file(moments, partial / "moments.safetensors")
    write_json(partial / _STATE, state)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for older in _checkpoints(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def load_checkpoint(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    run: str,
) -> dict[str, Any] | None:
    """Put the newest checkpoint of ``run`` back into ``parameters`` and ``optimiser``; its state, or ``None``.

    ``run`` is the digest of everything that the training depends on: another run's checkpoints are removed.
    Raises ``CheckpointError`` when a checkpoint of this very run does not fit.
    """
    import torch
    from safetensors.torch import load_file

    for path in reversed(_checkpoints(folder)):
        state = read_json(path / _STATE)
        if state is None or state.get("run") != run:
            shutil.rmtree(path, ignore_errors=True)
            continue
        weights, moments = load_file(path / "weights.safetensors"), load_file(path / "moments.safetensors")
        if set(weights) != set(parameters):
            raise CheckpointError(
                f"{path}: its tensors are not those of this adapter; delete the folder to train anew"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
                optimiser.state[parameter] = {
                    "step": torch.tensor(float(state["step"])),
                    **{
                        moment: moments[f"{moment}/{name}"].to(parameter.device, parameter.dtype)
                        for moment in _MOMENTS
                    },
                }
        return state
    return None


def write_json(path: Path, value: object) -> None:
    """Write ``value`` so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or ``None`` where there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _checkpoints(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
