"""The result of an adapter's training: what it holds, storing it beside the adapter, and loading it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from setr_lib.faults import json_fault, safetensors_fault
from setr_lib.files import write_json
from setr_lib.reranking.held_out import HeldOutReport
from setr_lib.settings import AdapterSettings
from setr_lib.tables import write_parquet_atomically
from setr_lib.training.notes import is_numbers, put_aside, read_note

_RESULT, _HELD_OUT, ADAPTER_FOLDER = "result.json", "held_out.parquet", "adapter"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_TRAINED_ON = "training goes on from its last checkpoint, or anew"


@dataclass(frozen=True)
class AdapterResult:
    """A finished training of an adapter.

    Attributes:
        folder: A PEFT adapter folder (``adapter_model.safetensors``, ``adapter_config.json``).
        run: Digest of everything that determines the result.
        base_id: Identity of the base model.
        prompt_hash: Identity of the judge prompt.
        pairs_digest: Digest of all pairs.
        held_out_digest: Digest of the held-out pairs.
        steps: Optimiser steps.
        seconds: Time of training, that of interrupted runs included.
        trainable_parameters: Number of LoRA weights.
        resumed_from: The step of the checkpoint that the training continued, or 0.
        reused: Nothing was trained: the same run had been finished before.
        before: Held-out measures of the base judge.
        after: Held-out measures of the adapted judge.
        curve: One row per step: step, loss, learning_rate.
        held_out: The held-out pairs: the columns of ``PAIRS``, ``before`` and ``after`` (float32, logit
            differences).
        settings: The training's settings.
        versions: Versions of the libraries, by name.
        left_out: Pairs, held-out ones too, whose pictures cannot be read or are refused by the model's
            processor.
    """

    folder: Path
    run: str
    base_id: str
    prompt_hash: str
    pairs_digest: str
    held_out_digest: str
    steps: int
    seconds: float
    trainable_parameters: int
    resumed_from: int
    reused: bool
    before: HeldOutReport
    after: HeldOutReport
    curve: pl.DataFrame
    held_out: pl.DataFrame
    settings: AdapterSettings
    versions: dict[str, str]
    left_out: int = 0


def load_result(checkpoint_dir: Path, run: str | None = None) -> AdapterResult | None:
    """Load a finished training.

    Args:
        checkpoint_dir: The folder that was given to ``train_adapter``.
        run: The digest of the training wanted; ``None`` for any.

    Returns:
        The result, marked as ``reused``; ``None`` where there is no finished training, or that of another
        run.
    """
    adapter = checkpoint_dir / ADAPTER_FOLDER
    if not (adapter / _WEIGHTS).is_file():
        return None
    if (stored := read_note(checkpoint_dir / _RESULT, run, _is_sound)) is None:
        return None
    if (fault := safetensors_fault(adapter / _WEIGHTS) or json_fault(adapter / _CONFIG)) is not None:
        put_aside(adapter, f"holds a file that {fault}", _TRAINED_ON)
        return None
    try:
        held_out = pl.read_parquet(checkpoint_dir / _HELD_OUT)
    except (OSError, pl.exceptions.PolarsError):
        if (checkpoint_dir / _HELD_OUT).exists():
            put_aside(checkpoint_dir / _HELD_OUT, "is cut or overwritten", _TRAINED_ON)
        return None
    return _result(stored, adapter, held_out)


def _result(stored: Mapping[str, Any], adapter: Path, held_out: pl.DataFrame) -> AdapterResult:
    return AdapterResult(
        **{
            **stored,
            "folder": adapter,
            "reused": True,
            "before": HeldOutReport(**stored["before"]),
            "after": HeldOutReport(**stored["after"]),
            "settings": AdapterSettings(**stored["settings"]),
            "curve": curve_frame(stored["curve"]),
            "held_out": held_out,
        }
    )


def _is_sound(stored: dict[str, Any]) -> bool:
    """Whether a stored result has what is read of one."""
    result = _result(stored, Path(), pl.DataFrame())
    texts = (result.base_id, result.prompt_hash, result.pairs_digest, result.held_out_digest)
    return all(isinstance(text, str) for text in texts) and is_numbers(
        [result.steps, result.seconds, result.trainable_parameters], 3
    )


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries on which an adapter's scores depend.

    Returns:
        Versions by the name of the distribution.
    """
    return {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}


def store_result(result: AdapterResult, folder: Path) -> None:
    """Write a result beside its adapter, for :func:`load_result`.

    Args:
        result: The finished training; its adapter is in ``folder`` already.
        folder: The training's checkpoint folder.
    """
    write_parquet_atomically(result.held_out, folder / _HELD_OUT)
    stored = {
        name: getattr(result, name)
        for name in AdapterResult.__dataclass_fields__
        if name not in ("folder", "reused", "before", "after", "curve", "held_out", "settings")
    }
    stored |= {
        "before": result.before.as_dict(),
        "after": result.after.as_dict(),
        "settings": result.settings.model_dump(),
        "curve": [list(row) for row in result.curve.rows()],
    }
    # Last: its presence says that all the rest is there.
    write_json(folder / _RESULT, stored)


def curve_frame(curve: Iterable[Sequence[float]]) -> pl.DataFrame:
    """The training curve as a table.

    Args:
        curve: (step, loss, learning rate) of each step.

    Returns:
        The columns step (Int64), loss and learning_rate (Float64).
    """
    schema = {"step": pl.Int64(), "loss": pl.Float64(), "learning_rate": pl.Float64()}
    return pl.DataFrame([tuple(row) for row in curve], schema=schema, orient="row")
