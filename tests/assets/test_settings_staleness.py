"""What a changed setting makes stale: written down for every key, and for some of them tried on the tiny world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from pydantic import BaseModel
from tiny_world import run_job, tables, write_world

from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_lib.cli import main
from setr_lib.settings import DatasetSettings, Settings, load_settings

NOTHING: frozenset[str] = frozenset()
DATA = frozenset({"queries", "gallery_images"})
CANDIDATES = frozenset({"coarse_rankings", "reranked_rankings", "reranking_fusion"})
ENCODED = frozenset(
    {"gallery_embeddings", "training_embeddings", "coarse_rankings", "reranker_pairs", "reranking_fusion"}
)
WRITTEN = frozenset({"reference_captions", "query_compositions", "reranker_pairs", "reranking_fusion"})
JUDGED = frozenset({"reranker_adapter", "promoted_reranker", "reranking_fusion", "reranked_rankings"})
REGISTERED = frozenset({"reranker_adapter", "registered_reranker", *JUDGED})
PAIRS, ADAPTER = frozenset({"reranker_pairs"}), frozenset({"reranker_adapter"})
REPORT = frozenset({"evaluation_report"})
EVERYTHING = frozenset(
    {
        "queries",
        "gallery_images",
        "training_images",
        "leaderboard",
        "gallery_embeddings",
        *ENCODED,
        *WRITTEN,
        *REGISTERED,
        *REPORT,
    }
)

AFFECTS: dict[str, frozenset[str]] = {
    "storage.root": EVERYTHING,  # another place: nothing is made there yet
    "datasets.kind": DATA | CANDIDATES | REPORT | WRITTEN - PAIRS,
    "datasets.root": DATA | {"gallery_embeddings", "reference_captions", "query_compositions"},
    "datasets.image_root": frozenset({"gallery_images"}),
    "datasets.splits": DATA,
    "datasets.gallery": frozenset({"gallery_images"}) | REPORT,
    "datasets.queries": frozenset({"queries"}),
    "datasets.image_captions": frozenset({"gallery_embeddings", "reference_captions", "query_compositions"}),
    "datasets.rerank_top_k": frozenset({"reranked_rankings"}),
    "training.captions": frozenset({"training_images"}) | PAIRS,
    "training.image_root": frozenset({"training_images"}),
    "training.triplets": frozenset({"training_images"}) | PAIRS,
    "models.device": NOTHING,  # how fast, and the last digits
    "models.encoder.name": ENCODED,
    "models.encoder.pretrained": ENCODED,
    "models.encoder.batch_size": NOTHING,
    "models.judge.name": WRITTEN | REGISTERED,
    "models.judge.revision": WRITTEN | REGISTERED,
    "models.judge.prompts": WRITTEN | REGISTERED,
    "models.judge.dtype": WRITTEN | REGISTERED,
    "models.judge.trust_remote_code": WRITTEN | REGISTERED,
    "models.judge.batch_size": NOTHING,
    "models.judge.pair_batch_size": NOTHING,
    "models.judge.max_new_tokens": WRITTEN - PAIRS,
    "coarse.strategies": frozenset({"coarse_rankings"}) | REPORT,
    "coarse.default": frozenset({"reranked_rankings", "reranking_fusion"}) | REPORT,
    "coarse.top_k": CANDIDATES,
    "coarse.anchor_share": frozenset({"coarse_rankings", "reranking_fusion"}),
    "coarse.caption_strategies": frozenset({"coarse_rankings"}) | REPORT,
    "coarse.caption_default": frozenset({"reranked_rankings"}) | REPORT,
    "reranking.top_k": frozenset({"reranked_rankings", "reranking_fusion"}),
    "reranking.fusion": frozenset({"reranked_rankings"}),
    "reranking.judge_weight": frozenset({"reranked_rankings"}),
    "reranking.pairs.groups": PAIRS,
    "reranking.pairs.held_out_share": PAIRS,
    "reranking.pairs.negatives_per_group": PAIRS,
    "reranking.pairs.near_duplicate_cosine": PAIRS,
    "reranking.pairs.writer": PAIRS,
    "reranking.pairs.seed": PAIRS,
    "reranking.adapter.rank": ADAPTER,
    "reranking.adapter.alpha": ADAPTER,
    "reranking.adapter.dropout": ADAPTER,
    "reranking.adapter.target_modules": ADAPTER,
    "reranking.adapter.learning_rate": ADAPTER,
    "reranking.adapter.warmup_share": ADAPTER,
    "reranking.adapter.weight_decay": ADAPTER,
    "reranking.adapter.epochs": ADAPTER,
    "reranking.adapter.groups_per_batch": ADAPTER,
    "reranking.adapter.checkpoint_every": NOTHING,
    "reranking.adapter.seed": ADAPTER,
    "evaluation.bootstrap_samples": REPORT,
    "evaluation.seed": REPORT,
    "evaluation.contact_sheet_queries": REPORT,  # its page, not its numbers
    "evaluation.limit": frozenset({"queries"}),
    "registry.tracking_uri": REGISTERED,
    "registry.experiment": REGISTERED,
    "registry.model": REGISTERED,
    "miniature.seed": NOTHING,  # files that are drawn before any asset reads them, as all of this section
    "miniature.size": NOTHING,
    "miniature.models_seed": NOTHING,
    "miniature.training_images": NOTHING,
    "miniature.objects_per_scene": NOTHING,
    "miniature.near_misses": NOTHING,
    "miniature.background_correlation": NOTHING,
}
"""Key -> the assets that read it; what lies downstream of these in the graph is stale with them."""


def keys(section: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, info in section.model_fields.items():
        if info.exclude:
            continue  # no key of the file
        kind = DatasetSettings if (path, name) == ("", "datasets") else info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_every_key_says_what_depends_on_it() -> None:
    assert sorted(AFFECTS) == sorted(keys(Settings)), "a settings key needs its line in AFFECTS"


def downstream(settings: Settings) -> dict[str, set[str]]:
    """Asset -> all that lie below it."""
    below: dict[str, set[str]] = {}
    graph = build_definitions(settings).resolve_asset_graph()
    for key in reversed(graph.toposorted_asset_keys):
        children = {child.to_user_string() for child in graph.get(key).child_keys}
        below[key.to_user_string()] = children.union(*(below[child] for child in children))
    return below


def test_the_assets_named_are_those_of_the_graph() -> None:
    below = downstream(Settings())
    assert below.keys() == EVERYTHING
    assert set().union(*AFFECTS.values()) <= below.keys()
    assert "leaderboard" in below["queries"] and "queries" not in below["coarse_rankings"]


def changed_by(settings: Settings, key: str, value: object) -> Settings:
    """``settings`` with one key changed, as a file would say it."""
    made: Any = settings.model_dump()
    *path, name = key.split(".")
    section = made
    for part in path:
        section = section[part]
    section[name] = value
    return Settings.model_validate({**made, "base_dir": settings.base_dir})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, pl.DataFrame]]:
    """The tiny world after one run of everything, and its tables."""
    settings = load_settings(write_world(tmp_path_factory.mktemp("world")))
    run = run_job(settings, FULL_PIPELINE, ["cirr-val"])
    assert run.success, run.failures
    return settings, tables(settings)


REPORTED = {"evaluation_report/cirr-val.parquet", "leaderboard.parquet"}
RERANKED = {f"reranked_rankings/cirr-val/{stage}.parquet" for stage in ("base-judge", "adapter")}


@pytest.mark.parametrize(
    ("key", "value", "must", "may"),
    [
        ("coarse.anchor_share", 1.0, {"coarse_rankings/cirr-val/intersection_anchor.parquet"}, REPORTED),
        ("reranking.top_k", 2, RERANKED, REPORTED),
        ("evaluation.bootstrap_samples", 250, REPORTED, set()),
        ("evaluation.contact_sheet_queries", 2, set(), set()),
    ],
)
def test_an_evaluation_after_a_change_makes_anew_what_depends_on_it(
    world: tuple[Settings, dict[str, pl.DataFrame]], key: str, value: object, must: set[str], may: set[str]
) -> None:
    settings, before = world
    run = run_job(changed_by(settings, key, value), EVALUATION, ["cirr-val"])
    assert run.success, run.failures
    after = tables(settings)
    assert after.keys() == before.keys()
    changed = {name for name, frame in after.items() if not frame.equals(before[name])}
    assert must <= changed <= must | may, changed
    below = downstream(settings)
    stale = AFFECTS[key].union(*(below[asset] for asset in AFFECTS[key]))
    assert {name.split("/")[0].removesuffix(".parquet") for name in changed} <= stale


def test_lists_too_short_for_a_metric_leave_it_out_to_the_end(
    world: tuple[Settings, dict[str, pl.DataFrame]], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = changed_by(world[0], "coarse.top_k", 8)
    assert settings.rerank_depth("cirr") == 6
    run = run_job(settings, EVALUATION, ["fashioniq-val", "circo-val"])
    assert run.success, run.failures
    rows = pl.read_parquet(settings.table_path("evaluation_report", "fashioniq-val"))
    assert set(rows["stage"]) == {"random"}, "R@10 and R@50 are all that FashionIQ has"
    page = (settings.report_root / "fashioniq-val" / "index.html").read_text(encoding="utf-8")
    assert "left out: R@10" in page and "a ranking is only 8 long" in page
    rows = pl.read_parquet(settings.table_path("evaluation_report", "circo-val"))
    measured = set(rows.filter(rows["stage"] != "random")["metric"])
    assert {"mAP@5", "R@5"} <= measured and not {"mAP@10", "R@50"} & measured
    assert main(["--config", str(settings.base_dir / "setr.toml"), "leaderboard"]) == 0
    assert "fashioniq val" in capsys.readouterr().out
