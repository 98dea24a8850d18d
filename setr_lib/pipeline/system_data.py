"""The triplets that trained retrieval systems learn from: made once for each source, and read back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.pipeline.embedding import TRAINING, embed
from setr_lib.pipeline.removals import training_rule
from setr_lib.progress import Progress, silent
from setr_lib.records import TripletsRecord

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.settings import Settings
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.data import Features, SystemData
    from setr_lib.systems.models.system_model import SystemModel
    from setr_lib.systems.options import SystemOptions
    from setr_lib.training.trained_on import TrainedOn

_LOG = logging.getLogger(__name__)
ASSET = "training_triplets"
_IMAGES = "training_triplets_images"


@dataclass(frozen=True)
class StoredFeatures:
    """The features of a source's images.

    Attributes:
        features: Gives them by image id.
        table: The LanceDB table of the images' vectors in the encoder's space.
        version: Its version.
        data: The source's triplets and images, less those of images that cannot be read any more, or that the
            encoder's preprocessing refuses.
        failed: What is wrong with these images, by id.
    """

    features: Features
    table: str
    version: int
    data: SystemData
    failed: Mapping[str, str]


def make_triplets(context: PipelineContext, source: str, progress: Progress = silent) -> SystemData:
    """Make the triplets of a source and store them: training ones, and held-out ones that share no image with
    them, by id or by the bytes of its file.

    Args:
        context: Settings and tables.
        source: ``"synthesised"``, or a data set of ``[datasets]`` with a train split.
        progress: Told how many images are opened.

    Returns:
        The triplets and their images.

    Raises:
        NotMadeYetError: The Yes/No pairs were not made yet; the message names the asset.
        DatasetError: The data set has no train split, or a file is missing or wrong.
    """
    from setr_lib.systems.data import SystemData
    from setr_lib.systems.options import SYNTHESISED
    from setr_lib.tables import SPLIT_TRIPLETS, TRIPLET_IMAGES

    made, total = _of_pairs(context) if source == SYNTHESISED else _of_train_split(context, source, progress)
    made = made.without_copies()
    # As they are read back: a digest depends on the order of columns.
    data = SystemData(source, made.triplets.select(SPLIT_TRIPLETS.names()), made.images)
    record = TripletsRecord(source=source, digest=data.digest, dropped=total - data.triplets.height)
    context.tables.write(_IMAGES, data.images, TRIPLET_IMAGES, source)
    context.tables.write(ASSET, data.triplets, SPLIT_TRIPLETS, source, record)
    return data


def read_triplets(context: PipelineContext, source: str) -> SystemData:
    """The triplets of a source.

    Args:
        context: The tables.
        source: As of :func:`make_triplets`.

    Returns:
        What was made of it.

    Raises:
        NotMadeYetError: It was not made yet; the message names the asset.
    """
    from setr_lib.systems.data import SystemData
    from setr_lib.tables import SPLIT_TRIPLETS, TRIPLET_IMAGES

    tables = context.tables
    triplets = tables.read(ASSET, SPLIT_TRIPLETS, source)
    return SystemData(source, triplets, tables.read(_IMAGES, TRIPLET_IMAGES, source))


def features_of_data(
    context: PipelineContext,
    data: SystemData,
    encoder: OpenClipSpace,
    reads: Iterable[str],
    progress: Progress = silent,
) -> StoredFeatures:
    """The features of a source's images; their vectors are in the vector store, what is new is embedded.

    Args:
        context: The vector store.
        data: The triplets.
        encoder: The frozen encoder.
        reads: What a system reads besides vectors.
        progress: Told how many images are embedded.

    Returns:
        What gives features by image id, and the table of the vectors.

    Raises:
        TrainingDataError: No held-out triplet is left whose images can be embedded.
    """
    from setr_lib.pixels import picture_files
    from setr_lib.systems.data import Features, TrainingDataError
    from setr_lib.systems.options import SYNTHESISED

    is_synthesised = data.source == SYNTHESISED
    key = TRAINING if is_synthesised else f"train-{data.source}"
    consent = f"delete the folders {key}--*.lance in {context.settings.lancedb_uri}"
    rule = training_rule(context, consent, None if is_synthesised else data.source)
    report = embed(context, key, data.images, encoder, progress, rule)
    ids, vectors = context.gallery_store.read(report.table, report.version)
    features = Features(encoder, picture_files(data.images), ids, vectors, frozenset(reads))
    failed = {image.image_id: image.reason for image in report.failed}
    usable = data.without(failed)
    if failed:
        _LOG.warning(
            "%s: %d images cannot be embedded, %d triplets are left out; the first: %s",
            data.source,
            len(failed),
            data.triplets.height - usable.triplets.height,
            next(iter(failed.values())),
        )
    if failed and usable.held_out.is_empty():
        raise TrainingDataError(
            f"{data.source!r}: {len(failed)} images cannot be embedded, and no held-out triplet is left, by "
            f"which versions could be compared; the first: {next(iter(failed.values()))}"
        )
    return StoredFeatures(features, report.table, report.version, usable.measurable(), failed)


def mined_negatives(
    context: PipelineContext,
    model: SystemModel,
    data: SystemData,
    rows: pl.DataFrame,
    stored: StoredFeatures,
    progress: Progress = silent,
) -> list[list[str]]:
    """Hard negatives of training triplets, by the queries of the untrained system; none is a held-out image,
    the query's reference or an answer of it, or a copy of these.

    Args:
        context: The vector store.
        model: The system before its first step.
        data: All triplets: every answer of a query is no negative of it.
        rows: The training triplets.
        stored: Their features, and the table that is searched.
        progress: Told how many queries are done.

    Returns:
        Image ids for each row; nothing where the system is not trained on mined negatives.

    Raises:
        MiningError: A query has no negative at all.
    """
    import polars as pl

    from setr_lib.systems.data import COPY, HELD_OUT
    from setr_lib.systems.held_out import encoded_queries
    from setr_lib.systems.mining import MiningQueries, mine_negatives
    from setr_lib.systems.options import MinedOptions

    if not isinstance(model.options, MinedOptions):
        return []
    references, texts = rows["reference_id"].to_list(), rows["modification"].to_list()
    answers: dict[tuple[str, str], list[str]] = {}
    for reference, text, target in data.triplets.select("reference_id", "modification", "target_id").rows():
        answers.setdefault((reference, text), []).append(target)
    asked = [*zip(references, texts, strict=True)]
    others = data.images.filter(~pl.col("split").is_in([HELD_OUT, COPY]))["image_id"].to_list()
    queries = MiningQueries(
        vectors=encoded_queries(model, stored.features, references, texts),
        targets=[answers[query] for query in asked],
        excluded=[_with_copies(data, [reference, *answers[reference, text]]) for reference, text in asked],
    )
    found = mine_negatives(
        context.gallery_store, stored.table, queries, model.options, stored.version, others, progress
    )
    return found.ids


def _with_copies(data: SystemData, images: Iterable[str]) -> list[str]:
    return [each for image in images for each in data.copies.get(image, [image])]


def trained_on_data(
    settings: Settings, data: SystemData, rows: pl.DataFrame, options: SystemOptions
) -> TrainedOn:
    """The images and triplets of a training, and the held-out ones, by which versions are chosen.

    Args:
        settings: They say where the source's images and triplets come from.
        data: All of the source.
        rows: What is trained on: triplets, or images.
        options: Whether hard negatives are mined: then all images count that are not held out, because any
            may be one.

    Returns:
        The record of the training.
    """
    import polars as pl

    from setr_lib.pipeline.training_origin import origin_of_split, origin_of_training
    from setr_lib.systems.data import COPY, HELD_OUT
    from setr_lib.systems.options import SYNTHESISED, MinedOptions

    is_synthesised = data.source == SYNTHESISED
    origin = origin_of_training(settings) if is_synthesised else origin_of_split(settings, data.source)
    is_held_out, triplets = pl.col("split") == HELD_OUT, data.held_out
    used = rows
    if "target_id" in rows.columns:
        named = pl.concat([rows["reference_id"], rows["target_id"]]).unique()
        is_named = pl.col("image_id").is_in(named.implode())
        may_be_mined = ~pl.col("split").is_in([HELD_OUT, COPY])
        is_used = may_be_mined if isinstance(options, MinedOptions) else is_named
        used, triplets = data.images.filter(is_used), pl.concat([rows, triplets])
    return origin.trained_on(pl.concat([used, data.images.filter(is_held_out)]), triplets)


def _of_pairs(context: PipelineContext) -> tuple[SystemData, int]:
    """The groups behind the Yes/No pairs, each one's positive as its triplet, less those with an image that
    cannot be read; and how many there are in all.
    """
    import polars as pl

    from setr_lib.reranking.pairs import POSITIVE
    from setr_lib.systems.data import HELD_OUT, TRAIN, SystemData
    from setr_lib.systems.options import SYNTHESISED
    from setr_lib.tables import PAIRS, TRAINING_IMAGES

    pairs = context.tables.read("reranker_pairs", PAIRS)
    images = context.tables.read("training_images", TRAINING_IMAGES).filter(status="ok")
    every = pairs.filter(kind=POSITIVE).select(
        "split", "reference_id", "modification", target_id="candidate_id"
    )
    triplets = every.filter(_readable(images))
    searched = pairs.filter(split=HELD_OUT)
    held_out = {*searched["reference_id"], *searched["candidate_id"]}
    split = pl.when(pl.col("image_id").is_in(list(held_out))).then(pl.lit(HELD_OUT)).otherwise(pl.lit(TRAIN))
    return SystemData(SYNTHESISED, triplets, images.with_columns(split=split)), every.height


def _readable(images: pl.DataFrame) -> pl.Expr:
    """Whether both images of a triplet are among these."""
    import polars as pl

    known = images["image_id"].implode()
    return pl.all_horizontal(pl.col("reference_id", "target_id").is_in(known))


def _of_train_split(context: PipelineContext, source: str, progress: Progress) -> tuple[SystemData, int]:
    """A data set's train split, less the triplets that join a training image and a held-out one, or have an
    image that cannot be read; and how many there are in all. A data source that makes the split makes it
    first.
    """
    import polars as pl

    from setr_lib.benchmarks import train_set
    from setr_lib.datasets import inspect_training_images, split_triplets
    from setr_lib.datasets.train_splits import train_split
    from setr_lib.sources import ensure_train_split
    from setr_lib.systems.data import HELD_OUT, TRAIN, SystemData, TrainingDataError

    ensure_train_split(context.settings, source, progress)
    read, options = train_split(context.settings, source), context.settings.reranking.pairs
    rules = train_set(context.settings, source).pixels
    images = inspect_training_images(read.image_frame, progress, rules).filter(status="ok")
    readable = read.triplets.filter(_readable(images))
    if readable.is_empty():
        raise TrainingDataError(
            f"{source}: none of the {read.triplets.height:,} train triplets has two readable images; "
            f"`setr doctor` says which files are missing"
        )
    split = split_triplets(readable, options.held_out_share, options.seed)
    triplets = readable.with_columns(split=split).filter(pl.col("split").is_in([TRAIN, HELD_OUT]))
    of = {
        name: triplets.filter(split=name).select("reference_id", "target_id").unpivot()["value"].implode()
        for name in (HELD_OUT, TRAIN)
    }
    image = pl.col("image_id")
    part = pl.when(image.is_in(of[HELD_OUT])).then(pl.lit(HELD_OUT))
    images = images.with_columns(
        split=part.when(image.is_in(of[TRAIN])).then(pl.lit(TRAIN)).otherwise(pl.lit("dropped"))
    )
    return SystemData(source, triplets, images), read.triplets.height
