"""The one partitioning of the graph: a partition is an evaluation set, e.g. ``cirr-val`` or
``fashioniq-val``.

Read from the settings alone: listing the partitions opens no data set. The sets with targets come first, so
that they form one contiguous range.
"""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from setr_lib.datasets import evaluation_sets
from setr_lib.settings import Settings


def scored_set_keys(settings: Settings) -> list[str]:
    """The evaluation sets that have targets: what the demo and the weekly schedule cover.

    Args:
        settings: The settings.

    Returns:
        Keys, in the order of the partitions.
    """
    return [evaluation_set.key for evaluation_set in evaluation_sets(settings) if not evaluation_set.hidden]


def evaluation_set_partitions(settings: Settings) -> dg.StaticPartitionsDefinition:
    """Dagster's partitions: one per evaluation set.

    Args:
        settings: The settings.

    Returns:
        One partition per key.
    """
    return dg.StaticPartitionsDefinition([evaluation_set.key for evaluation_set in evaluation_sets(settings)])


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Run tags that make one run cover the contiguous range from the first to the last of ``keys``.

    Args:
        keys: A contiguous part of the partitions.

    Returns:
        Tag -> key.
    """
    return {
        "dagster/asset_partition_range_start": keys[0],
        "dagster/asset_partition_range_end": keys[-1],
    }
