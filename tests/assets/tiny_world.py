"""The smallest world in which the whole graph runs: drawn data sets of a few queries, random models of real
architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from setr_assets.definitions import build_definitions
from setr_assets.partitions import range_tags
from setr_lib.miniature.worlds import write_miniature
from setr_lib.settings import Settings

SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "data/cirr"
splits = ["val", "test1"]

[datasets.fashioniq]
kind = "fashioniq"
root = "data/fashioniq"
splits = ["val"]
rerank_top_k = 4

[datasets.circo]
kind = "circo"
root = "data/circo"
splits = ["val"]

[training]
captions = "data/training/captions.jsonl"

[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"
batch_size = 4

[models.judge]
name = "judge"
prompts = "miniature"
batch_size = 2
pair_batch_size = 8
max_new_tokens = 4

[coarse]
top_k = 10

[reranking]
top_k = 6

[reranking.pairs]
groups = 20

[reranking.adapter]
learning_rate = 1e-3
rank = 2
epochs = 1.0
groups_per_batch = 4
checkpoint_every = 1

[evaluation]
bootstrap_samples = 100
contact_sheet_queries = 1
"""

DONE_NOW = {
    "gallery_embeddings": ("embedded",),
    "training_embeddings": ("embedded",),
    "reference_captions": ("model calls",),
    "query_compositions": ("model calls",),
    "reranked_rankings": ("base judge: judged now", "adapter: judged now"),
    "reranker_adapter": ("trained now",),
}
"""Per asset, the metadata that count what a run had to do anew."""


def write_world(folder: Path, judge: str | None = "llava") -> Path:
    """Data, models and ``setr.toml`` under ``folder``; the path of that file. Without ``judge`` there is no
    multimodal LLM.
    """
    from tiny_encoder import write_tiny_clip

    write_miniature(folder / "data", seed=1, size=0.02, training_images=48, processes=1)
    write_tiny_clip(folder / "clip")
    if judge is not None:
        from tiny_judges import write_tiny_judge

        write_tiny_judge(judge, folder / "judge")
    path = folder / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Run:
    """What one run of a job left in Dagster."""

    success: bool
    metadata: dict[tuple[str, str | None], dict[str, Any]]
    """(asset, partition) -> metadata values of this run's materialisation."""
    checks: dict[str, bool]
    failures: dict[str, str]
    """Step -> the message that a person is shown."""

    def done_now(self) -> dict[str, int]:
        """How much each asset had to do anew, summed over partitions; assets that did not run are absent."""
        done: dict[str, int] = {}
        for (asset, _), values in self.metadata.items():
            for name in DONE_NOW.get(asset, ()):
                done[asset] = done.get(asset, 0) + int(values.get(name, 0))
        return done


def run_job(
    settings: Settings,
    job: str,
    keys: Sequence[str],
    config: dict[str, Any] | None = None,
    assets: Sequence[str] | None = None,
) -> Run:
    """Execute ``job``, or some of its ``assets``, over the range ``keys`` in this process, on an instance of
    its own.
    """
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(settings)
            .resolve_job_def(job)
            .execute_in_process(
                instance=instance,
                raise_on_error=False,
                tags=range_tags(keys) if keys else {},
                asset_selection=None if assets is None else [dg.AssetKey(asset) for asset in assets],
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
            )
        )
        metadata = {
            (event.asset_key.to_user_string(), event.partition): {
                name: value.value for name, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None
        }
        failures = {
            event.step_key or "": _shown(event)
            for event in result.filter_events(lambda each: each.is_step_failure)
        }
        checks = {
            f"{each.asset_key.to_user_string()}: {each.check_name}": each.passed
            for each in result.get_asset_check_evaluations()
        }
    return Run(result.success, metadata, checks, failures)


def _shown(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data.user_failure_data
    return str(failure.description) if failure is not None else str(event.step_failure_data.error)


def tables(settings: Settings) -> dict[str, pl.DataFrame]:
    """Every table on disk by its path below the tables' folder; without image paths, which say where the
    world lies.
    """
    root = settings.storage_root / "tables"
    return {
        str(path.relative_to(root)): pl.read_parquet(path).drop("path", strict=False)
        for path in sorted(root.rglob("*.parquet"))
    }
