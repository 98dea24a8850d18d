"""Data versions: every asset reports a digest of its result, so that an equal result leaves what follows
current.

Several partitions are made by one run. Dagster has one ``MaterializeResult`` for all of them, with one data
version (dagster-io/dagster#18649, #34013), which would make every partition look changed when one is. So such
a run reports twice: Dagster's own event per partition, bare, and after it one with the partition's metadata
and its own data version; the later one counts. A run of a single partition reports once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from setr_lib.escaping import visible
from setr_lib.hashing import digest_json

# The tags that Dagster itself writes and compares; it has no public names for them.
DATA_VERSION_TAG = "dagster/data_version"
INPUT_TAG = "dagster/input_data_version/"


def rounded(value: float) -> float:
    """A number as people read it.

    Args:
        value: Any number.

    Returns:
        One digit after the point from 10 on, else four digits that count. What is not whole never becomes 1:
        a coverage of 0.99998 stays.
    """
    if not math.isfinite(value):
        return value
    shorter = round(value, 1) if abs(value) >= 10 else float(f"{value:.4g}")
    return value if shorter == 1 else shorter


def readable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata whose texts show what would act on a page instead of being seen.

    Args:
        metadata: Name -> a value that Dagster takes; tables and pictures are Markdown that
            ``setr_assets.previews`` has made harmless.

    Returns:
        The same, its plain texts as ``setr_lib.escaping.visible`` has them, its numbers rounded.
    """
    return {visible(name): _readable(value) for name, value in metadata.items()}


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    return rounded(value) if isinstance(value, float) else value


@dataclass
class PartitionResults:
    """What one run made of an asset, partition by partition; an asset's function returns it.

    ``metadata`` and ``tags`` are of the whole run and given to every partition.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    check_results: Sequence[dg.AssetCheckResult] = ()
    _made: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def add(self, partition: str, data_version: str, metadata: Mapping[str, Any]) -> None:
        """Say that a partition is made.

        Args:
            partition: The partition.
            data_version: A digest of its content.
            metadata: What Dagster shows of it.
        """
        self._made[partition] = (data_version, dict(metadata))

    def events(
        self, context: dg.AssetExecutionContext
    ) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
        """The events that Dagster is told of, in this order.

        Args:
            context: The running step.

        Yields:
            One result for the run, then one materialisation per partition where there are several.
        """
        one = len(self._made) == 1
        versions = {key: version for key, (version, _) in self._made.items()}
        alone, facts = next(iter(self._made.values())) if one else (digest_json(versions), {})
        yield dg.MaterializeResult(
            metadata=readable({**self.metadata, **facts}),
            data_version=dg.DataVersion(alone),
            tags=self.tags,
            check_results=self.check_results,
        )
        if one:
            return
        for key, (version, facts) in self._made.items():
            yield dg.AssetMaterialization(
                context.asset_key,
                partition=key,
                metadata=readable({**self.metadata, **facts}),
                tags={**_reported_tags(context, key), DATA_VERSION_TAG: version},
            )


def _reported_tags(context: dg.AssetExecutionContext, partition: str) -> Mapping[str, str]:
    """The tags of this run's own event for ``partition``: code version, and what each dependency was."""
    wanted = dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[partition])
    for record in context.instance.fetch_materializations(wanted, limit=20).records:
        found = record.asset_materialization
        if record.run_id == context.run.run_id and found is not None:
            return found.tags or {}
    raise dg.DagsterInvariantViolationError(f"{context.asset_key}: Dagster has not stored its own event")
