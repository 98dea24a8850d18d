"""What Dagster is told: the graph, its jobs and schedules, as a snapshot; and the few rules that a snapshot
cannot say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from setr_assets.automation import WEEKLY, champion_config
from setr_assets.champion import CHAMPION, FUSION
from setr_assets.definitions import build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE, TRAINING
from setr_assets.partitions import evaluation_set_partitions, range_tags, scored_set_keys
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.settings import Settings, load_settings
from setr_lib.systems.recipe import RECIPES

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(REPOSITORY / "setr.toml")


@pytest.fixture(scope="module")
def definitions(settings: Settings) -> dg.Definitions:
    return build_definitions(settings)


def described(definitions: dg.Definitions) -> dict[str, Any]:
    """The definitions in plain values; nothing that differs from machine to machine."""
    specs = sorted(definitions.resolve_all_asset_specs(), key=lambda spec: spec.key)
    repository = definitions.get_repository_def()
    return {
        "assets": {
            spec.key.to_user_string(): {
                "group": spec.group_name,
                "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
                "owners": list(spec.owners),
                "kinds": sorted(spec.kinds),
                "code": (spec.code_version or "").partition("-")[0] or None,
                "partitioned": spec.partitions_def is not None,
            }
            for spec in specs
        },
        "checks": sorted(
            f"{key.asset_key.to_user_string()}: {key.name}" for key in repository.asset_checks_defs_by_key
        ),
        "jobs": {
            job.name: sorted(key.to_user_string() for key in job.asset_layer.executable_asset_keys)
            for job in definitions.resolve_all_job_defs()
            if not job.name.startswith("__")
        },
        "schedules": {
            schedule.name: [schedule.cron_schedule, schedule.job_name, str(schedule.default_status)]
            for schedule in repository.schedule_defs
        },
    }


def test_graph_jobs_and_schedules_are_as_recorded(
    definitions: dg.Definitions, snapshot: SnapshotAssertion
) -> None:
    # After a wanted change: `make test ARGS="tests/assets/test_definitions.py --snapshot-update"`.
    assert described(definitions) == snapshot(extension_class=JSONSnapshotExtension)


def test_assets_of_trained_retrieval_systems_are_as_recorded(
    settings: Settings, snapshot: SnapshotAssertion
) -> None:
    named = settings.model_copy(deep=True)
    named.systems = {name: {} for name in RECIPES if name != "mapping"}  # which composing builds on
    definitions = build_definitions(named)
    added = described(definitions)["assets"].keys() - described(build_definitions(settings))["assets"].keys()
    found = described(definitions)["assets"]
    assert {name: found[name] for name in sorted(added)} == snapshot(extension_class=JSONSnapshotExtension)
    test_every_asset_is_described(definitions)


def test_every_asset_is_described(definitions: dg.Definitions) -> None:
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description and len(spec.description) > 60, spec.key
        assert spec.owners and spec.kinds, spec.key
        assert spec.code_version or spec.key.to_user_string() in (CHAMPION, FUSION), spec.key


def test_scored_sets_come_first_so_that_they_are_one_range(settings: Settings) -> None:
    keys = evaluation_set_partitions(settings).get_partition_keys()
    scored = scored_set_keys(settings)
    assert scored == ["cirr-val", "fashioniq-val", "circo-val"]
    assert keys == [*scored, "cirr-test1", "circo-test"]
    assert set(range_tags(scored).values()) == {"cirr-val", "circo-val"}


def test_several_partitions_are_one_run(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.executable_asset_keys:
        node = graph.get(key)
        if node.partitions_def is not None:
            assert node.backfill_policy == dg.BackfillPolicy.single_run(), key


def test_evaluation_is_not_downstream_of_promotion(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert dg.AssetKey("promoted_reranker") not in graph.get_ancestor_asset_keys(
        dg.AssetKey("evaluation_report")
    )


def test_jobs_divide_the_graph(definitions: dg.Definitions) -> None:
    jobs = {
        name: set(definitions.resolve_job_def(name).asset_layer.executable_asset_keys)
        for name in (FULL_PIPELINE, EVALUATION, TRAINING)
    }
    assert jobs[EVALUATION] | jobs[TRAINING] == jobs[FULL_PIPELINE]
    assert not jobs[EVALUATION] & jobs[TRAINING]


def systems_and(*others: str) -> list[str]:
    """The registered models of the trained retrieval systems, and others."""
    return [*others, *(f"setr-{name.replace('_', '-')}" for name in RECIPES)]


@pytest.mark.parametrize(
    ("champion", "config"),
    [("7", champion_config(dict.fromkeys(systems_and("setr-reranker"), "7"))), (None, {})],
)
def test_weekly_run_is_pinned_to_the_champion_of_its_start(
    definitions: dg.Definitions,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    champion: str | None,
    config: dict[str, Any],
) -> None:
    monkeypatch.setattr(PipelineContext, "champion_version", lambda _, model=None: champion)
    schedule = definitions.resolve_schedule_def(WEEKLY)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance,
            resources={"setr": pipeline_context(settings)},
            scheduled_execution_time=__import__("datetime").datetime(2026, 11, 23, 3),
        )
        tick = schedule.evaluate_tick(context)
    (request,) = tick.run_requests or []
    assert request.run_config == config
    assert range_tags(scored_set_keys(settings)).items() <= request.tags.items()
    if champion is not None:
        job = definitions.resolve_job_def(EVALUATION)
        assert dg.validate_run_config(job, request.run_config)


def test_no_data_set_no_schedule(tmp_path: Path) -> None:
    definitions = build_definitions(Settings(base_dir=tmp_path))
    assert not definitions.get_repository_def().schedule_defs
