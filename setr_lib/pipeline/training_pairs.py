"""The Yes/No pairs that the re-ranker learns from, made from the tables of the training images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from setr_lib.progress import Progress, silent
from setr_lib.records import PairsRecord

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pixels import PictureFile
    from setr_lib.reranking.pairs import ModificationWriter
    from setr_lib.settings import PairSettings


@dataclass(frozen=True)
class MadePairs:
    """Yes/No pairs, and what they were made from.

    Attributes:
        pairs: A PAIRS table.
        images: The training images, a TRAINING_IMAGES table.
        record: What made the pairs, and their digest.
    """

    pairs: pl.DataFrame
    images: pl.DataFrame
    record: PairsRecord

    @property
    def words(self) -> str:
        """How many there are, in a sentence."""
        held_out = self.pairs.filter(split="held_out").height
        groups = self.pairs["group"].n_unique()
        return f"{self.pairs.height:,} pairs in {groups:,} groups, {held_out:,} pairs held out"

    @property
    def files(self) -> dict[str, PictureFile]:
        """The file of each training image, by id."""
        from setr_lib.pixels import picture_files

        return picture_files(self.images)


def make_pairs(
    context: PipelineContext, progress: Progress = silent, options: PairSettings | None = None
) -> MadePairs:
    """Make Yes/No pairs of the training images; hard negatives are mined among their vectors.

    Args:
        context: Settings, tables and models.
        progress: Told how far it is.
        options: How pairs are made; ``[reranking.pairs]`` by default.

    Returns:
        The pairs.

    Raises:
        NotMadeYetError: The training images are not embedded; the message names the asset.
        PairError: The images give no pairs; the message says what they lack.
    """
    from setr_lib.datasets.training import read_training_triplets, triplet_source
    from setr_lib.pipeline.retrieval import training_vectors
    from setr_lib.reranking.pairs import pairs_digest, synthesise_pairs
    from setr_lib.tables import TRAINING_IMAGES

    options = options or context.settings.reranking.pairs
    images = context.tables.read("training_images", TRAINING_IMAGES)
    stored, index = training_vectors(context)
    pairs = synthesise_pairs(
        images,
        index.ids,
        index.vectors,
        options,
        embed_texts=context.models.space().embed_texts,
        triplets=read_training_triplets(context.settings),
        triplet_source=triplet_source(context.settings),
        writer=_writer(context, options, progress),
        progress=progress,
    )
    record = PairsRecord(
        digest=pairs_digest(pairs),
        seed=options.seed,
        writer=options.writer,
        rows=len(index.ids),
        **stored._asdict(),
    )
    return MadePairs(pairs, images, record)


def _writer(context: PipelineContext, options: PairSettings, progress: Progress) -> ModificationWriter | None:
    """Who phrases the modifications: the multimodal LLM where the settings say so, else templates."""
    from setr_lib.reranking.writer import CACHE_KIND, model_writer

    if options.writer == "templates":
        return None
    return model_writer(context.models.multimodal(), context.cache(CACHE_KIND), progress)
