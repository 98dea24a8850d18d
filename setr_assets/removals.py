"""A person's consent, for one run, that the vectors of many images which are gone are removed."""

# No `from __future__ import annotations`: Dagster compares the function's annotations with the classes
# themselves.

from collections.abc import Iterable
from typing import Any

import dagster as dg
from pydantic import Field

from setr_assets.champion import VersionsConfig

ACCEPT = "accept_removals"
STEPS = ("gallery_images", "gallery_embeddings", "training_embeddings")
"""The assets that ask for consent."""
_GALLERY = ("gallery_images", "gallery_embeddings")


class RemovalsConfig(dg.Config):
    """Consent to the removal of a large part of what is stored."""

    accept_removals: bool = Field(
        default=False,
        description=(
            "Remove the vectors of images that are gone, however many they are. Without it a run stops where "
            "more than [storage] removable_share of a gallery would go, or all of it. For this run only; "
            "consent at gallery_images holds for gallery_embeddings of the same run."
        ),
    )


class EmbeddingsConfig(VersionsConfig, RemovalsConfig):
    """Versions that a run is pinned to, and consent to removals."""


def accepts(context: dg.AssetExecutionContext, config: RemovalsConfig) -> bool:
    """Whether a person consents to the removal of a gallery's images in this run.

    Args:
        context: The running step of a gallery.
        config: Its own config.

    Returns:
        Whether it, or the other step of the gallery in the same run, was told so.
    """
    run: dict[str, Any] = dict(context.run.run_config or {})
    ops: dict[str, Any] = run.get("ops") or {}
    told = [((ops.get(step) or {}).get("config") or {}).get(ACCEPT) for step in _GALLERY]
    return config.accept_removals or any(value is True for value in told)


def consent(steps: Iterable[str] = STEPS) -> dict[str, Any]:
    """The run config of a run that may remove whatever is gone.

    Args:
        steps: The assets that are told so.

    Returns:
        The value of ``ops``.
    """
    return {step: {"config": {ACCEPT: True}} for step in steps}
