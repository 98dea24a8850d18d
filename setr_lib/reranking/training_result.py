"""The result of an adapter's training: what it holds, storing it beside the adapter, and loading it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import polars as pl

from setr_lib.reranking.checkpoint import read_json, write_json
from setr_lib.reranking.held_out import HeldOutReport
from setr_lib.settings import AdapterSettings
from setr_lib.tables import write_parquet_atomically

_RESULT, _HELD_OUT, _ADAPTER = "result.json", "held_out.parquet", "adapter"


@dataclass(frozen=True)
class AdapterResult:
    """A finished training.

    ``folder`` is a PEFT adapter folder (``adapter_model.safetensors``, ``adapter_config.json``). ``before`` and
    ``after`` are the held-out reports of the base and of the adapted judge; ``held_out`` has both judges' scores:
    the columns of PAIRS, ``before`` and ``after`` (float32, the logit differences). ``curve`` has step, loss,
    learning_rate. ``run`` is the digest of everything that determines the result. ``reused``: nothing was trained,
    the same run had been finished before. ``resumed_from``: the step of the checkpoint it went on from, or 0.
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


def load_result(checkpoint_dir: Path, run: str | None = None) -> AdapterResult | None:
    """The finished training in ``checkpoint_dir`` (of ``run``, if given), or ``None``."""
    stored = read_json(checkpoint_dir / _RESULT)
    if stored is None or (run is not None and stored["run"] != run):
        return None
    if not (checkpoint_dir / _ADAPTER / "adapter_model.safetensors").is_file():
        return None
    curve = _curve_frame(stored.pop("curve"))
    return AdapterResult(
        **{
            **stored,
            "folder": checkpoint_dir / _ADAPTER,
            "reused": True,
            "before": HeldOutReport(**stored["before"]),
            "after": HeldOutReport(**stored["after"]),
            "settings": AdapterSettings(**stored["settings"]),
            "curve": curve,
            "held_out": pl.read_parquet(checkpoint_dir / _HELD_OUT),
        }
    )


def library_versions() -> dict[str, str]:
    """The versions of what an adapter's weights mean something to."""
    return {name: version(name) for name in ("torch", "transformers", "peft", "safetensors")}


def _store_result(result: AdapterResult, folder: Path) -> None:
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


def _curve_frame(curve: Iterable[Sequence[float]]) -> pl.DataFrame:
    schema = {"step": pl.Int64(), "loss": pl.Float64(), "learning_rate": pl.Float64()}
    return pl.DataFrame([tuple(row) for row in curve], schema=schema, orient="row")
