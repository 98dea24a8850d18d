"""Checkpoints of the models' training: safetensors only, replaced in one move, so a killed training loses
minutes at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.files import replacing

if TYPE_CHECKING:
    import torch

_MOMENTS = ("exp_avg", "exp_avg_sq")
_FORMAT = 2
"""Part of what a run is: raise it when lessons, losses or schedules change, so that old checkpoints are not
continued."""


def save_checkpoint(
    path: Path,
    parameters: Iterable[tuple[str, torch.nn.Parameter]],
    optimiser: Any,
    step: int,
    run: str,
    seconds: float,
) -> None:
    """Save the parameters of a training with AdamW's moments.

    Args:
        path: The checkpoint's file, replaced in one move.
        parameters: (name, parameter) of everything that is trained.
        optimiser: The AdamW that trains them.
        step: Steps that are done.
        run: What is trained, and on what.
        seconds: Time that these steps took.
    """
    from safetensors.torch import save_file

    state = {}
    for name, parameter in parameters:
        state[f"weight/{name}"] = parameter.detach().contiguous()
        for kind in _MOMENTS:
            state[f"{kind}/{name}"] = optimiser.state[parameter][kind].contiguous()
    metadata = {"step": str(step), "run": f"{run}/{_FORMAT}", "seconds": f"{seconds:.1f}"}
    with replacing(path) as partial:
        save_file(state, partial, metadata=metadata)


def load_checkpoint(
    path: Path, parameters: Iterable[tuple[str, torch.nn.Parameter]], optimiser: Any, schedule: Any, run: str
) -> tuple[int, float]:
    """Put weights, moments and learning rate of a checkpoint back.

    Args:
        path: The checkpoint's file.
        parameters: (name, parameter) of everything that is trained; changed in place.
        optimiser: The AdamW that trains them; changed in place.
        schedule: Its learning-rate schedule; changed in place.
        run: What is trained, and on what; a checkpoint of another run is not used.

    Returns:
        The step to go on from, and the seconds of training before it; both 0 where there is no checkpoint of
        ``run``.
    """
    import torch
    from safetensors import safe_open

    if not path.is_file():
        return 0, 0.0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if metadata.get("run") != f"{run}/{_FORMAT}":
            return 0, 0.0
        step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter in parameters:
                parameter.copy_(file.get_tensor(f"weight/{name}"))
                moments = {kind: file.get_tensor(f"{kind}/{name}").to(parameter.device) for kind in _MOMENTS}
                optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    schedule.last_epoch = step
    for group, rate in zip(optimiser.param_groups, schedule.get_lr(), strict=True):
        group["lr"] = rate
    return step, float(metadata["seconds"])
