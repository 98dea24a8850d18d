"""The gates of the graph: a blocking check stops everything downstream of its asset in the same run.

Checks run with their asset (``check_specs``), not after it: nothing is loaded twice. What they judge by is
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from setr_lib.pipeline.context import PipelineContext

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.spaces.vector_store import SyncReport


def unique_ids(asset: str) -> dg.AssetCheckSpec:
    """A check that blocks ranking over a table that lost an image or holds one twice.

    Args:
        asset: The asset that is checked.

    Returns:
        The check.
    """
    return dg.AssetCheckSpec(
        "every_image_once",
        asset=asset,
        blocking=True,
        description=(
            "The vector table holds every readable image of the gallery exactly once, and nothing else."
        ),
    )


def round_trip(asset: str) -> dg.AssetCheckSpec:
    """A check that blocks promotion of an adapter that does not come back as it was saved.

    Args:
        asset: The asset that is checked.

    Returns:
        The check.
    """
    return dg.AssetCheckSpec(
        "reloads_in_a_fresh_process",
        asset=asset,
        blocking=True,
        description=(
            "A fresh process loaded the registered adapter: no key was missing, its logits are those of "
            "training, and it differs from the base model."
        ),
    )


def better_than_champion(asset: str) -> dg.AssetCheckSpec:
    """A check that warns, without failing the run, where a new version did not beat the champion.

    Args:
        asset: The asset that is checked.

    Returns:
        The check.
    """
    return dg.AssetCheckSpec(
        "newest_version_is_champion",
        asset=asset,
        description="The newest registered version holds the champion alias; a warning says why it does not.",
    )


def no_lost_or_doubled_images(
    setr: PipelineContext, report: SyncReport, images: pl.DataFrame, what: str
) -> dict[str, str]:
    """Compare the stored ids of a table with the readable images of its gallery.

    Args:
        setr: The pipeline context.
        report: Of the table's synchronisation.
        images: The gallery: ``image_id`` and ``status``.
        what: What the message calls the gallery.

    Returns:
        The fault by ``what``; empty where there is none.
    """
    from collections import Counter

    stored = Counter(setr.gallery_store.ids(report.table, report.version))
    expected = set(images.filter(status="ok")["image_id"]) - {failed.image_id for failed in report.failed}
    twice = sorted(image_id for image_id, count in stored.items() if count > 1)
    missing, unexpected = sorted(expected - set(stored)), sorted(set(stored) - expected)
    faults = [
        f"{len(ids):,} {fault}, e.g. {', '.join(ids[:3])}"
        for fault, ids in (
            ("stored twice", twice),
            ("not stored", missing),
            ("not of the gallery", unexpected),
        )
        if ids
    ]
    return {what: f"{what}: table {report.table}: {'; '.join(faults)}"} if faults else {}
