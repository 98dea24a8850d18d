"""What runs by itself: a weekly re-evaluation, off until someone turns it on. Training is always a person's
choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from setr_assets.jobs import EMBEDDED, EVALUATION, RANKED, RERANKED
from setr_assets.partitions import range_tags, scored_set_keys
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.trained_system import champions
from setr_lib.settings import Settings

WEEKLY = "weekly_reevaluation"


def build_schedules(settings: Settings) -> Sequence[dg.ScheduleDefinition]:
    """The weekly re-evaluation of every evaluation set that has targets.

    Args:
        settings: The settings.

    Returns:
        The schedule; none where no set has targets.
    """
    keys = scored_set_keys(settings)
    if not keys:
        return []

    @dg.schedule(
        name=WEEKLY,
        job_name=EVALUATION,
        cron_schedule="0 3 * * 1",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=(
            "Mondays, 03:00 UTC: all scored sets in one run. The champions of all trained systems are "
            "looked up here, once, and passed on by version, so that a promotion during the run does not "
            "mix two versions."
        ),
    )
    def weekly_reevaluation(
        context: dg.ScheduleEvaluationContext, setr: dg.ResourceParam[PipelineContext]
    ) -> dg.RunRequest:
        return dg.RunRequest(
            run_key=context.scheduled_execution_time.isoformat(),
            run_config=champion_config(champions(setr)),
            tags=range_tags(keys),
        )

    return [weekly_reevaluation]


def champion_config(versions: Mapping[str, str]) -> dict:
    """Run config that fixes the versions of an evaluation.

    Args:
        versions: Version by registered model.

    Returns:
        The run config; empty where there is no champion yet.
    """
    pinned = {"config": {"versions": dict(versions)}}
    return {"ops": dict.fromkeys((EMBEDDED, RANKED, RERANKED), pinned)} if versions else {}
