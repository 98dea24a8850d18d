"""The consent that a step needs before a large part of a gallery's stored vectors is removed.

Asked for twice: where the gallery's images are inspected, before their table is written, and again where
vectors and captions are stored. What is compared is the vector store itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_json, fingerprint_file
from setr_lib.spaces.removals import RemovalRefusedError, RemovalRule

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks import EvaluationSet
    from setr_lib.benchmarks.image_folders import FolderListing
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.settings import Settings


def gallery_rule(
    context: PipelineContext, evaluation_set: EvaluationSet, asset: str, *, accepted: bool = False
) -> RemovalRule:
    """How much of an evaluation set's gallery a step may remove.

    Args:
        context: The settings.
        evaluation_set: The set.
        asset: The asset that Dagster calls the step, which takes the consent.
        accepted: Whether a person consents, for this run.

    Returns:
        The rule. What is stored of another folder, or of data that a source has drawn anew, is another
        gallery.
    """
    settings = context.settings
    return RemovalRule(
        share=settings.storage.removable_share,
        accepted=accepted,
        origin=_origin(settings, evaluation_set),
        gallery=evaluation_set.key,
        folder=str(evaluation_set.image_root or evaluation_set.root),
        consent=consent_of(asset),
    )


def training_rule(
    context: PipelineContext, consent: str, dataset: str | None = None, *, accepted: bool = False
) -> RemovalRule:
    """How much may be removed of the training images' vectors.

    Args:
        context: The settings.
        consent: How consent is given, as the end of a sentence.
        dataset: The data set whose train split the images are of; by default those of ``[training]``.
        accepted: Whether a person consents, for this run.

    Returns:
        The rule. Another file, or one that names other images, is another set of images.
    """
    from setr_lib.benchmarks.sets import train_set

    settings, training = context.settings, context.settings.training
    source = dataset or training.dataset
    if source is not None:
        train = train_set(settings, source)
        origin, folder = _origin(settings, train), str(train.image_root or train.root)
        what = f"the train split of {source}"
    else:
        files = [settings.resolve(file) for file in (training.captions, training.triplets) if file]
        folders = [settings.resolve(training.image_root)] if training.image_root else []
        places = [_place(settings, path) for path in (*files, *folders)]
        origin = digest_json([places, [_content(file) for file in files]])[:16]
        folder = str(next(iter([*folders, *(file.parent for file in files)]), settings.base_dir))
        what = "training images"
    share = settings.storage.removable_share
    return RemovalRule(share, accepted, origin, what, folder, consent)


def folder_rule(settings: Settings, folder: Path, *, accepted: bool = False) -> RemovalRule:
    """How much may be removed of a folder that no data set names.

    Args:
        settings: The settings.
        folder: The folder.
        accepted: Whether a person consents, for this call.

    Returns:
        The rule.
    """
    return RemovalRule(
        share=settings.storage.removable_share,
        accepted=accepted,
        gallery=str(folder),
        folder=str(folder),
        consent="pass accept_removals=True to Retriever.from_folder, for one call",
    )


def consent_of(asset: str) -> str:
    """How a person consents to the removal by a step, as the end of a sentence.

    Args:
        asset: The asset that Dagster calls the step.

    Returns:
        Both ways, with what is to be typed.
    """
    return (
        "say so for one run: `setr run --accept-removals`, `setr compare --accept-removals`, or in Dagster "
        f"the run config {{ops: {{{asset}: {{config: {{accept_removals: true}}}}}}}}"
    )


def check_gallery(
    context: PipelineContext,
    gallery_key: str,
    images: pl.DataFrame,
    rule: RemovalRule,
    listings: Iterable[FolderListing] = (),
) -> None:
    """Refuse a gallery of which so much is gone that consent is needed.

    A gallery may have tables of encoders that settings name no longer; it is refused here where all of its
    tables refuse it. Where vectors are stored, the very table is asked.

    Args:
        context: The vector store.
        gallery_key: What its images are stored under.
        images: All of its images: ``image_id`` and ``status``.
        rule: How much may be removed.
        listings: The folders that were listed.

    Raises:
        RemovalRefusedError: Consent is needed.
    """
    if rule.accepted:
        return
    refusals: list[RemovalRefusedError] = []
    readable, tables = images.filter(status="ok")["image_id"].to_list(), stored_tables(context, gallery_key)
    for ids, origins in tables:
        for listing in listings:
            rule.check_unlisted(ids - set(readable), listing.unlisted, listing.faults)
        try:
            rule.check(ids, readable, origins)
        except RemovalRefusedError as refusal:
            refusals.append(refusal)
    if refusals and len(refusals) == len(tables):
        raise refusals[0]


def stored_tables(context: PipelineContext, gallery_key: str) -> list[tuple[set[str], set[str]]]:
    """What the vector store holds of a gallery.

    Args:
        context: The vector store; one that is not there is not made.
        gallery_key: What the gallery's images are stored under.

    Returns:
        Of each table that has rows, image ids and the origins that they are of.
    """
    if not Path(context.settings.lancedb_uri).is_dir():
        return []
    from setr_lib.spaces.stored_galleries import stored_images_of

    return stored_images_of(context.gallery_store, gallery_key)


def _origin(settings: Settings, evaluation_set: EvaluationSet) -> str:
    """A digest of where a set's images come from: its folders, and the stamp of the source that made them."""
    from setr_lib.benchmarks.source import maker_of
    from setr_lib.sources import data_sources

    folders = [_place(settings, path) for path in (evaluation_set.root, evaluation_set.image_root) if path]
    try:
        maker = maker_of(evaluation_set.root, data_sources(settings))
    except SetrError:  # of an installed package that cannot be loaded; told where it is used
        maker = None
    stamp = "" if maker is None else _content(evaluation_set.root / maker.stamp)
    return digest_json([evaluation_set.kind, folders, stamp])[:16]


def _place(settings: Settings, folder: Path) -> str:
    """A folder as it is named in a project that may be moved: relative, where it is inside."""
    real, base = Path(os.path.realpath(folder)), Path(os.path.realpath(settings.base_dir))
    return real.relative_to(base).as_posix() if real.is_relative_to(base) else str(real)


def _content(file: Path) -> str:
    try:
        return fingerprint_file(file)
    except OSError:
        return ""


def captions_rule(rule: RemovalRule, file: Path | None) -> RemovalRule:
    """The same rule for the captions of a gallery's images.

    Args:
        rule: That of the gallery.
        file: The file of captions.

    Returns:
        The rule, whose messages name the file.
    """
    return rule if file is None else replace(rule, folder=str(file))
