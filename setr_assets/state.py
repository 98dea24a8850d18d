"""What earlier runs have left, as Dagster has noted it, and what of it is stale: for ``setr status``.

A result is stale by Dagster's own rule: its code version is another than today's (the asset's code, or
settings, prompts and models that it reads), or what it was made from has another data version by now; and so
is what was made from a stale result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from setr_assets.blueprints import Blueprint
from setr_assets.code_versions import CodeVersions
from setr_assets.data_versions import DATA_VERSION_TAG, INPUT_TAG
from setr_assets.graph import blueprints
from setr_assets.instance import COMMAND, LIMIT, SETS, is_lost, persistent_instance, reason_of
from setr_assets.selection import LEADERBOARD, deps_of, selected
from setr_lib.benchmarks import evaluation_sets
from setr_lib.runners import OTHERS, LastRun, ProjectState, StepState
from setr_lib.settings import Settings

CODE_VERSION_TAG, POINTER_TAG = "dagster/code_version", "dagster/input_event_pointer/"
"""Tags that Dagster itself writes and compares; it has no public names for them."""


def project_state(settings: Settings) -> ProjectState:
    """What is there of a project's results.

    Args:
        settings: The settings.

    Returns:
        The state; everything is missing where no run was made yet.

    Raises:
        SetrError: Dagster's instance cannot be used.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or settings.base_dir / "dagster_home")
    if not home.is_dir():
        return state_in(settings, None)
    with persistent_instance(str(home)) as instance:
        return state_in(settings, instance)


def state_in(settings: Settings, instance: dg.DagsterInstance | None) -> ProjectState:
    """What is there of a project's results, by the notes of an instance.

    Args:
        settings: The settings.
        instance: The instance; None where there is none yet.

    Returns:
        The state.
    """
    states = _States(settings, instance)
    return ProjectState(
        states.shared(),
        {each.key: states.of_set(each.key) for each in evaluation_sets(settings)},
        None if instance is None else last_run(instance),
    )


def last_run(instance: dg.DagsterInstance) -> LastRun | None:
    """The newest run of an instance, with those that the same command began, and why steps failed.

    Args:
        instance: The instance.

    Returns:
        The run; None where there is none.
    """
    records = instance.get_run_records(limit=1)
    if not records:
        return None
    if command := records[0].dagster_run.tags.get(COMMAND):
        records = [*reversed(instance.get_run_records(dg.RunsFilter(tags={COMMAND: command})))]
    failed: dict[str, str] = {}
    for record in records:
        of = f" of {record.dagster_run.tags.get(SETS, '')}" if len(records) > 1 else ""
        for step, reason in _failures(instance, record.dagster_run.run_id).items():
            failed[f"{step}{of.replace(',', ', ')}"] = reason
    begun = records[0].start_time
    return LastRun(
        id=", ".join(record.dagster_run.run_id for record in records),
        status=_status([record.dagster_run for record in records]),
        begun=None if begun is None else datetime.fromtimestamp(begun).astimezone(),
        failed=failed,
        sets=tuple(
            key for record in records for key in record.dagster_run.tags.get(SETS, "").split(",") if key
        ),
        limit=_limit(records[0].dagster_run.tags.get(LIMIT, "")),
    )


def _limit(tag: str) -> int | None:
    return int(tag) if tag.isdecimal() else None


def _failures(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    return {
        entry.dagster_event.step_key or "": reason_of(entry.dagster_event)
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        if entry.dagster_event is not None
    }


def _status(runs: Sequence[dg.DagsterRun]) -> str:
    """What became of the runs of one command, in one word: what is worst."""
    words = ["killed" if is_lost(run) else run.status.value.lower() for run in runs]
    return next((word for word in words if word != "success"), "success")


class _Made(NamedTuple):
    """A materialisation: its place among all events, and its tags."""

    position: int
    tags: Mapping[str, str]


class _States:
    """The states of steps; every note of Dagster's is read once.

    Args:
        settings: The settings.
        instance: The instance; None where there is none yet.
    """

    def __init__(self, settings: Settings, instance: dg.DagsterInstance | None) -> None:
        self._settings, self._instance = settings, instance
        self._declared = {each.name: each for each in blueprints(settings)}
        self._versions = CodeVersions(settings)
        self._made: dict[tuple[str, str | None, int | None], _Made | None] = {}
        self._states: dict[tuple[str, str | None], StepState] = {}

    @cached_property
    def _steps(self) -> Sequence[Blueprint]:
        return [self._declared[name] for name in selected(self._settings).names]

    def shared(self) -> list[StepState]:
        """Steps of no evaluation set; the leaderboard is made by every run, and left out."""
        once = [each for each in self._steps if not each.partitioned and each.name != LEADERBOARD]
        return [self._state(each, None) for each in once]

    def of_set(self, key: str) -> list[StepState]:
        """Steps of an evaluation set.

        Args:
            key: The set.
        """
        return [self._state(each, key) for each in self._steps if each.partitioned]

    def _state(self, step: Blueprint, key: str | None) -> StepState:
        where = (step.name, key)
        if where not in self._states:
            made = self._newest(step.name, key)
            if made is None:
                self._states[where] = StepState(step.name, "missing")
            else:
                reasons = [*self._code(step, made.tags), *self._inputs(step, key, made.tags)]
                state = "stale" if reasons else "current"
                self._states[where] = StepState(step.name, state, "; ".join(reasons))
        return self._states[where]

    def _code(self, step: Blueprint, tags: Mapping[str, str]) -> Iterator[str]:
        now, then = self._versions.version(step.number, step.reads), tags.get(CODE_VERSION_TAG, "")
        if now != then:
            same_code = now.partition("-")[0] == then.partition("-")[0]
            yield OTHERS if same_code else "made by another version of SETR"

    def _inputs(self, step: Blueprint, key: str | None, tags: Mapping[str, str]) -> Iterator[str]:
        for dep in deps_of(step, self._settings):
            source = self._declared.get(dep)
            if source is None:
                if self._is_another(self._observed(dep), tags.get(INPUT_TAG + dep)):
                    yield f"{dep} is another"
            elif not source.partitioned or key is not None:
                part = key if source.partitioned else None
                if self._has_changed(dep, part, tags):
                    yield f"{dep} has changed"
                elif self._state(source, part).state == "stale":
                    yield f"{dep} is stale"

    def _has_changed(self, dep: str, key: str | None, tags: Mapping[str, str]) -> bool:
        """Whether a step's input has another data version than it had. The tag with the version is of all
        partitions of a run together; that with the event tells the version of each.
        """
        made = self._newest(dep, key)
        if key is None:
            return self._is_another(made.tags if made else None, tags.get(INPUT_TAG + dep))
        pointer = tags.get(POINTER_TAG + dep, "")
        if made is None or not pointer.isdecimal() or made.position <= int(pointer):
            return False
        then = self._newest(dep, key, before=int(pointer) + 1)
        return then is not None and then.tags.get(DATA_VERSION_TAG) != made.tags.get(DATA_VERSION_TAG)

    @staticmethod
    def _is_another(now: Mapping[str, str] | None, then: str | None) -> bool:
        return now is not None and then is not None and now.get(DATA_VERSION_TAG) != then

    def _newest(self, name: str, key: str | None, before: int | None = None) -> _Made | None:
        """The newest materialisation, or the newest before an event; None where there is none."""
        if self._instance is None:
            return None
        if (name, key, before) not in self._made:
            wanted = dg.AssetRecordsFilter(
                asset_key=dg.AssetKey(name),
                asset_partitions=None if key is None else [key],
                before_storage_id=before,
            )
            records = self._instance.fetch_materializations(wanted, limit=1).records
            made = records[0].asset_materialization if records else None
            found = None if made is None else _Made(records[0].storage_id, made.tags or {})
            self._made[name, key, before] = found
        return self._made[name, key, before]

    def _observed(self, name: str) -> Mapping[str, str] | None:
        """The tags of the newest observation of a source; None where there is none."""
        if self._instance is None:
            return None
        records = self._instance.fetch_observations(dg.AssetKey(name), limit=1).records
        seen = records[0].asset_observation if records else None
        return None if seen is None else (seen.tags or {})
