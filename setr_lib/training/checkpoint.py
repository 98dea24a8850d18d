"""Checkpoints of a training: safetensors and JSON, each whole or not there at all.

A checkpoint is a folder ``step-000050`` with ``weights.safetensors`` (the trained tensors),
``moments.safetensors`` (AdamW's), ``more.safetensors`` (what else a step changes, where there is any) and
``state.json``. It is written beside its name and renamed, so SIGKILL costs at most one interval. One training
at a time may use the folder that holds them: see :func:`only_trainer`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

from setr_lib.errors import SetrError
from setr_lib.faults import json_fault, safetensors_fault
from setr_lib.files import read_json, write_json
from setr_lib.progress import Progress, silent
from setr_lib.training.notes import is_numbers, put_aside

if TYPE_CHECKING:
    import torch

_MOMENTS, _STEPS = ("exp_avg", "exp_avg_sq"), "step"
"""What AdamW keeps of each tensor: its two moments, and how often it was moved."""
_STATE, _WEIGHTS, _ADAM, _MORE = (
    "state.json",
    "weights.safetensors",
    "moments.safetensors",
    "more.safetensors",
)
_LOOK_AGAIN = 0.25
"""Seconds between two attempts to take a lock that another training holds."""
_PATIENCE = 4
"""Attempts after which a lock whose holder has not said what it trains is believed to be another
training's.
"""


class CheckpointError(SetrError):
    """A checkpoint does not fit the training that it is of; the message names the folder to delete."""


class FolderBusyError(CheckpointError):
    """Another training uses the checkpoint folder now."""


_held = threading.local()


@contextmanager
def only_trainer(folder: Path, run: str, progress: Progress = silent) -> Iterator[None]:
    """Hold the lock of checkpoint folder ``folder`` for the training ``run``; the system releases it with the
    process.

    Where the same run is being trained elsewhere this waits for its end, and tells ``progress`` so: the
    caller then finds the finished result. A thread may enter again what it holds. On a system without such
    locks, one training at a time is the caller's duty.

    Args:
        folder: The checkpoint folder; the lock is a file beside it, which stays.
        run: Digest of everything that the training depends on.
        progress: Told that another process is waited for.

    Raises:
        FolderBusyError: Another run is being trained into this folder.
    """
    mine: set[Path] = vars(_held).setdefault("folders", set())
    path = folder.absolute().with_name(f".{folder.name}.lock")
    try:
        import fcntl
    except ImportError:
        yield
        return
    if path in mine:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        attempts = 0
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                attempts += 1
                _wait_for_holder(file, folder, run, attempts, progress)
        mine.add(path)
        try:
            _say_who_holds(file, f"{run} {os.getpid()}")
            yield
        finally:
            _say_who_holds(file, "")
            mine.discard(path)


def _wait_for_holder(file: TextIO, folder: Path, run: str, attempts: int, progress: Progress) -> None:
    file.seek(0)
    # What a killed holder wrote may still stand here until the next one has written: hence some patience.
    theirs, _, process = file.read().partition(" ")
    # An empty name is that of a holder who has just begun, or is about to let go.
    if theirs and theirs != run and attempts > _PATIENCE:
        raise FolderBusyError(
            f"{folder}: another training{f' (process {process})' if process else ''} keeps its checkpoints "
            "here: wait until it has finished, or give this one another folder"
        )
    if theirs == run:
        progress(0, 1, f"trainings done: process {process} runs this very training, its result is waited for")
    time.sleep(_LOOK_AGAIN)


def _say_who_holds(file: TextIO, words: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(words)
    file.flush()


def save_checkpoint(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
    more: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> Path:
    """Write a checkpoint, and remove the older ones.

    Args:
        folder: The training's folder of checkpoints.
        parameters: The trained tensors by name.
        optimiser: The AdamW that moves them.
        state: What else a resumed training needs, with ``step`` and ``run``.
        more: Tensors besides the parameters that a step changes (``Objective.state``).

    Returns:
        The checkpoint's folder.
    """
    target = folder / f"step-{state['step']:06d}"
    partial = folder / f".{target.name}.{os.getpid()}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(partial, parameters, optimiser, state, more)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for older in _checkpoints(folder):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def _write(
    partial: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
    more: Mapping[str, torch.Tensor],
) -> None:
    """Write the files of a checkpoint into a folder."""
    from safetensors.torch import save_file

    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
    moments = {
        f"{moment}/{name}": optimiser.state[parameter][moment].cpu().contiguous()
        for name, parameter in parameters.items()
        for moment in (*_MOMENTS, _STEPS)
        if parameter in optimiser.state
    }
    save_file(weights, partial / _WEIGHTS)
    save_file(moments, partial / _ADAM)
    if more:
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in more.items()}
        save_file(kept, partial / _MORE)
    write_json(partial / _STATE, state)


def load_checkpoint(
    folder: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    run: str,
    more: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> dict[str, Any] | None:
    """Put the newest whole checkpoint of a training back into its parameters and optimiser.

    A damaged one is put aside, and said so.

    Args:
        folder: The training's folder of checkpoints.
        parameters: The trained tensors by name; changed in place.
        optimiser: The AdamW that moves them; changed in place.
        run: Digest of everything that the training depends on: another run's checkpoints are removed.
        more: As of :func:`save_checkpoint`; changed in place.

    Returns:
        The checkpoint's state; None where there is no checkpoint of this run.

    Raises:
        CheckpointError: A checkpoint of this very run does not fit.
    """
    import torch
    from safetensors.torch import load_file

    for path in reversed(_checkpoints(folder)):
        fault, state = _state_fault(path / _STATE), read_json(path / _STATE)
        if fault is None and state is not None and state["run"] != run:
            shutil.rmtree(path, ignore_errors=True)
            continue
        if (fault := fault or _tensors_fault(path, parameters, bool(more))) is not None or state is None:
            put_aside(path, f"cannot be used: {fault}", "training goes on from an earlier one, or anew")
            continue
        weights, moments = load_file(path / _WEIGHTS), load_file(path / _ADAM)
        kept = load_file(path / _MORE) if more else {}
        if set(weights) != set(parameters) or set(kept) != set(more):
            raise CheckpointError(
                f"{path}: its tensors are not those of this training; delete the folder to train anew"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
                if f"{_MOMENTS[0]}/{name}" not in moments:
                    continue  # no step has had a gradient for it yet
                # A checkpoint of an earlier version of SETR says of no tensor how often it was moved.
                moved = moments.get(f"{_STEPS}/{name}", torch.tensor(float(state["step"])))
                optimiser.state[parameter] = {
                    _STEPS: moved,
                    **{
                        moment: moments[f"{moment}/{name}"].to(parameter.device, parameter.dtype)
                        for moment in _MOMENTS
                    },
                }
            for name, tensor in more.items():
                tensor.copy_(kept[name])
        return state
    return None


def _state_fault(path: Path) -> str | None:
    """What is wrong with the state of a checkpoint; None where it is whole, of whichever run."""
    if (fault := json_fault(path)) is not None:
        return f"{path.name} {fault}"
    state = read_json(path) or {}
    try:
        whole = (
            isinstance(state["run"], str)
            and isinstance(state["step"], int)
            and isinstance(state.get("seconds", 0.0), (int, float))
            and all(is_numbers(point, 3) for point in state.get("curve", []))
        )
    except (KeyError, TypeError):
        whole = False
    return None if whole else f"{path.name} lacks what SETR writes there"


def _tensors_fault(path: Path, parameters: Mapping[str, torch.nn.Parameter], has_more: bool) -> str | None:
    """What is wrong with the tensors of a checkpoint; None where each is there, readable and a number."""
    import torch
    from safetensors.torch import load_file

    for name in (_WEIGHTS, _ADAM, *((_MORE,) if has_more else ())):
        if (fault := safetensors_fault(path / name)) is not None:
            return f"{name} {fault}"
        try:
            tensors = load_file(path / name)
        except Exception:  # safetensors has no class of errors in common with the system
            return f"{name} is cut or overwritten"
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            return f"{name} holds values that are no numbers"
        half = [each for each in tensors if name == _ADAM and each.startswith(f"{_MOMENTS[0]}/")]
        if any(f"{_MOMENTS[1]}/{each.partition('/')[2]}" not in tensors for each in half):
            return f"{name} lacks some of its tensors"
        if name == _WEIGHTS and any(
            each in parameters and parameters[each].shape != tensor.shape for each, tensor in tensors.items()
        ):
            return f"{name} has tensors of another shape"
    return None


def _checkpoints(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())
