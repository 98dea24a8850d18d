"""A benchmark: all that SETR must know of one kind of data set, in one class.

``queries`` is the one method that a benchmark must have, ``kind`` the one attribute; everything else has a
default that suits a folder of images with a file of queries. ``cirr.py``, ``fashioniq.py``, ``circo.py``,
``genecis.py`` and ``folder.py`` are examples; ``registry.py`` says how settings name a benchmark of one's
own. Instances hold no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import GALLERY, SUBSET, Metric, recalls
from setr_lib.benchmarks.ranking_lists import RankingFile, RankingLists
from setr_lib.benchmarks.records import ImageRecord, QueryRecord, TripletRecord, first_targets
from setr_lib.near_names import did_you_mean
from setr_lib.pixel_rules import OFFICIAL, PixelRules
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks.sets import EvaluationSet
    from setr_lib.settings import DatasetSettings

COCO = "coco"
"""The namespace of COCO's image numbers, which are the same in all of its years and splits."""
_SECTION_KEYS = ("queries", "reference_root")
"""Keys of ``[datasets.NAME]`` itself that only some benchmarks read."""
YOUR_OWN = "your own"
"""The source of files that cannot be downloaded."""


@dataclass(frozen=True)
class OfficialFile:
    """One annotation file: where it belongs, what it holds, how many entries, and where it comes from."""

    path: Path
    what: str
    entries: int | None
    """The official number; ``None`` where there is none."""
    source: str


@dataclass(frozen=True)
class ImageSource:
    """Where the images of a data set belong and come from, and about how large one is."""

    folder: Path
    source: str
    bytes_each: int | None
    basis: str
    """How ``bytes_each`` was estimated."""
    elsewhere: Path | None = None
    """Where people often have them instead."""


class BenchmarkFacts:
    """What a kind of data set says of itself in class attributes, and what follows from that."""

    # What it is.
    kind: ClassVar[str]
    """The word for it in settings (``kind = ...``) and in the names of prompt overrides
    (``compose.KIND.jinja``)."""
    title: ClassVar[str] = ""
    """The name in messages and reports; ``kind`` by default."""
    protocol: ClassVar[str] = ""
    """How it is measured, for a report; ``**`` around a word makes it bold. By default told from the metrics.
    """

    namespace: ClassVar[str] = ""
    """What its image ids belong to; ``kind`` by default. Benchmarks whose ids name the very same pictures
    share one: ``coco`` for COCO's numbers."""

    # What it consists of.
    splits: ClassVar[tuple[str, ...]] = ("all",)
    """Every split that there is; ``all`` stands for a data set that has none."""
    hidden_splits: ClassVar[tuple[str, ...]] = ()
    """Splits whose targets only the benchmark's own server knows; the first is the one that is submitted."""
    default_splits: ClassVar[tuple[str, ...]] = ()
    """What is evaluated where settings name no splits; all that are not hidden by default."""
    train_split: ClassVar[str] = ""
    """The one of ``splits`` that systems may be trained on; empty where the benchmark has none."""
    galleries: ClassVar[tuple[str, ...]] = ("all",)
    """Names of the protocols that choose the gallery, the usual one first."""
    categories: ClassVar[tuple[str, ...]] = ()
    """Galleries (``QueryRecord.gallery``) that are searched each on its own: metrics are the unweighted mean
    of theirs and also reported for each (``R@10/dress``), and a ranking file may answer only some of them."""
    gallery_per_query: ClassVar[bool] = False
    """Whether every query searches a gallery of its own (GeneCIS); metrics are means over all queries."""
    pixels: ClassVar[PixelRules] = OFFICIAL
    """How its image files become RGB where settings say nothing: by default no EXIF turn, and transparency is
    dropped, as the pipelines of the benchmarks do. ``OWN_FOLDER`` suits pictures of one's own."""
    settings_keys: ClassVar[tuple[str, ...]] = ()
    """What it reads of ``[datasets.*]`` beyond what all do: ``queries``, ``reference_root``, and keys of
    ``options``."""

    # How it is measured.
    removes_reference: ClassVar[bool] = False
    """Whether a query's reference is taken out of its ranking."""
    ties_count_against: ClassVar[bool] = False
    """Whether a target is ranked behind all images of the same score, where the scores are known."""
    metrics: ClassVar[tuple[Metric, ...]] = recalls(1, 5, 10)
    """In the order of its tables."""
    aspect_metrics: ClassVar[tuple[str, ...]] = ()
    """Names of metrics that are also reported for each of the queries' ``aspects`` (``mAP@10/negation``)."""
    headline: ClassVar[tuple[str, ...]] = ()
    """Names of the few metrics that it is known by; the first ranks the rows of tables. By default the first
    three."""
    averaged: ClassVar[str] = ""
    """Name of the metric whose mean over all ``splits`` papers report, shown where all were evaluated."""
    stage_1_metric: ClassVar[str] = ""
    """The metric by which coarse retrieval is compared with rivals; the first headline by default."""
    stage_2_metric: ClassVar[str] = ""
    """The metric by which re-ranking is compared with coarse retrieval; the first headline by default."""

    # What its files and its test server look like.
    ranking_format: ClassVar[str] = "an object from query id to a list of image ids"
    """What a JSON ranking file holds (see :meth:`read_rankings`)."""
    server: ClassVar[str | None] = None
    """The address of the test server that scores the hidden splits."""
    submitted_lengths: ClassVar[Mapping[str, int]] = {}
    """Pool (``gallery``, ``subset``) -> how many images a submission names for each query."""
    submission_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of a submission file that are not queries."""
    captions_source: ClassVar[str] = YOUR_OWN
    """Where captions of the gallery's images can be had."""

    @property
    def name(self) -> str:
        """``title``, or ``kind`` without one."""
        return self.title or self.kind

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools of images that a query has a ranking of: ``gallery``, ``subset``, in this order."""
        needed = frozenset[str]().union(*(metric.pools for metric in self.metrics))
        return tuple(pool for pool in (GALLERY, SUBSET) if pool in needed)

    @property
    def headline_metrics(self) -> tuple[str, ...]:
        """The names in ``headline``, or its default."""
        return self.headline or tuple(metric.name for metric in self.metrics[:3])

    @property
    def compared_metrics(self) -> tuple[str, str]:
        """The metric of stage 1's comparisons and of stage 2's."""
        first = self.headline_metrics[0]
        return self.stage_1_metric or first, self.stage_2_metric or first

    @property
    def protocol_text(self) -> str:
        """``protocol``, or its default."""
        if self.protocol:
            return self.protocol
        told = dict.fromkeys(metric.explanation for metric in self.metrics if metric.explanation)
        reference = ["The reference is taken out of every ranking."] if self.removes_reference else []
        return " ".join(["A query is a reference image and a modification text.", *reference, *told])


class Benchmark(BenchmarkFacts, ABC):
    """One kind of data set: how it is read, measured, described and submitted."""

    @abstractmethod
    def queries(self, evaluation_set: EvaluationSet) -> Sequence[QueryRecord] | pl.DataFrame:
        """The queries of ``evaluation_set.split``, in the official order; no image is opened.

        Args:
            evaluation_set: What is asked for: its ``split``, ``root``, ``queries`` and ``options`` say where
                to read.

        Returns:
            Records, or a frame with the columns of ``tables.QUERIES``. Hidden targets are left empty.

        Raises:
            DatasetError: A file is missing or wrong; it names file, row and reason.
        """

    def gallery(self, evaluation_set: EvaluationSet) -> Sequence[ImageRecord] | pl.DataFrame:
        """The images that are searched; by default all images of the image folder, each named by its path in
        there (``folder_gallery``).

        Args:
            evaluation_set: As for :meth:`queries`; its ``gallery`` is one of ``galleries``.

        Returns:
            Records, or a frame of ``image_id``, ``path`` (absolute) and ``galleries`` (list). No image is
            opened.

        Raises:
            DatasetError: A file is missing or wrong; it names file, row and reason.
        """
        from setr_lib.benchmarks.folder_gallery import folder_gallery

        return folder_gallery(evaluation_set)

    def train_triplets(self, train: EvaluationSet) -> Sequence[TripletRecord] | pl.DataFrame:
        """The triplets of the train split, in the official order; no image is opened. By default its
        queries, each with its first target.

        Args:
            train: The set of ``train_split``. Its gallery says where the images are.

        Returns:
            Records, or a frame of ``reference_id``, ``modification``, ``target_id``.

        Raises:
            DatasetError: A file is missing or wrong; it names file, row and reason.
        """
        from setr_lib.benchmarks.loading import read_queries

        return first_targets(read_queries(train))

    def image_folder(self, evaluation_set: EvaluationSet) -> Path:
        """The folder of the images: ``image_root`` of the settings, else by default the data set's root.

        Args:
            evaluation_set: The set whose images are asked for.

        Returns:
            An absolute path; whether it exists is not checked.
        """
        return evaluation_set.image_root or evaluation_set.root

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """Where the images are looked for, and where they can be had.

        Args:
            evaluation_set: The set whose images are asked for.

        Returns:
            Folder, place of the download, and the size of an image.
        """
        folder = self.image_folder(evaluation_set)
        return ImageSource(folder, YOUR_OWN, None, "not known before they are there")

    def cut_images(self, evaluation_set: EvaluationSet, progress: Progress = silent) -> int:
        """Make those images that are parts of downloaded ones, for ``setr crop``; what is there stays.

        Args:
            evaluation_set: The set whose images are asked for.
            progress: Told how many are looked at.

        Returns:
            How many were made; 0 by default: a benchmark's images are files as they are.

        Raises:
            DatasetError: An annotation file is wrong, or a downloaded image is missing or broken; what can
                be made is made before.
        """
        return 0

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """The annotation files that ``evaluation_set`` is read from, for ``setr doctor``.

        Args:
            evaluation_set: The set; its ``split`` and ``root`` say which files, and where.

        Returns:
            The files, present or not; none by default.
        """
        return []

    def has_queries(self, evaluation_set: EvaluationSet) -> bool:
        """Whether there are queries at all; a gallery without any can be searched, and is not evaluated.

        Args:
            evaluation_set: The set. No file of it need be there, and none is read.

        Returns:
            True by default: a benchmark is its queries.
        """
        return True

    def query_notes(self, evaluation_set: EvaluationSet) -> list[str]:
        """What was assumed where the queries were read, and what of them is not read, for a person to check.

        Args:
            evaluation_set: The set whose queries are asked for.

        Returns:
            Sentences; none by default.

        Raises:
            DatasetError: As of :meth:`queries`.
        """
        return []

    def official_queries(self, split: str) -> int | None:
        """How many queries the official files of ``split`` hold; None where there is no such number.

        Args:
            split: One of ``splits``.

        Returns:
            The count, or None.
        """
        return None

    def official_images(self, split: str, gallery: str) -> Mapping[str, int] | None:
        """Official sizes of the galleries of a split.

        Args:
            split: One of ``splits``.
            gallery: The protocol, one of ``galleries``.

        Returns:
            Gallery name -> number of images; None where there is no official number.
        """
        return None

    def gallery_key(self, evaluation_set: EvaluationSet) -> str:
        """A name for the gallery, the same for sets that share one; one gallery per split by default.

        Args:
            evaluation_set: The set that searches the gallery.

        Returns:
            The name, by which vectors and captions of the gallery are stored.
        """
        usual = evaluation_set.gallery == self.galleries[0]
        return evaluation_set.key if usual else f"{evaluation_set.key}-{evaluation_set.gallery}"

    def image_namespace(self, evaluation_set: EvaluationSet) -> str:
        """Within what the ids of the set's images mean something: equal ids of one namespace are one image.

        Args:
            evaluation_set: The set.

        Returns:
            ``namespace``, by default ``kind``.
        """
        return self.namespace or self.kind

    def unlisted_gallery(self, evaluation_set: EvaluationSet) -> str | None:
        """Why the gallery cannot be listed though rankings can be scored; None, as by default, where it can.

        Args:
            evaluation_set: The set whose gallery is asked for.

        Returns:
            A sentence, or None.
        """
        return None

    def image_id_fault(self, image_id: str) -> str | None:
        """Why ``image_id`` cannot be an image's id, checked without a gallery; None where it can.

        Args:
            image_id: An id that a ranking file names.

        Returns:
            A sentence, or None.
        """
        return None

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """What sets this set apart from published numbers, besides its counts.

        Args:
            evaluation_set: The set that is reported.

        Returns:
            Short phrases, which are shown with its rows; none by default.
        """
        return []

    def ranking_notes(
        self, evaluation_set: EvaluationSet, queries: pl.DataFrame, rankings: pl.DataFrame
    ) -> list[str]:
        """What is suspicious about rankings from elsewhere; each note makes their rows not comparable.

        Args:
            evaluation_set: The set that they answer.
            queries: The queries that are answered (``tables.QUERIES``).
            rankings: ``query_id``, ``pool``, ``rank``, ``image_id`` of ``tables.RANKINGS``.

        Returns:
            Sentences; none by default.
        """
        return []

    def check_settings(self, name: str, settings: DatasetSettings) -> None:
        """Refuse keys of ``[datasets.NAME]`` that this benchmark does not know.

        Args:
            name: NAME, for the message.
            settings: The section.

        Raises:
            DatasetError: It names the key and what to do.
        """
        if settings.gallery is not None and settings.gallery not in self.galleries:
            known = " or ".join(self.galleries)
            near = did_you_mean(settings.gallery, self.galleries)
            what = f"use {known}{near}" if len(self.galleries) > 1 else "there is one gallery only: remove it"
            raise DatasetError(
                f"[datasets.{name}] gallery = {settings.gallery!r} is not one of {self.name}'s: {what}"
            )
        for key in _SECTION_KEYS:
            if getattr(settings, key) is not None and key not in self.settings_keys:
                raise DatasetError(f"[datasets.{name}] {key}: {self.name} does not read that key: remove it")
        for key in settings.options:
            if key not in self.settings_keys:
                options = [known for known in self.settings_keys if known not in _SECTION_KEYS]
                known = f"{', '.join(options) or 'none'}{did_you_mean(key, options)}"
                raise DatasetError(f"[datasets.{name}] options: {self.name} has no {key!r}; there is {known}")

    def read_rankings(self, file: RankingFile) -> RankingLists:
        """The lists of a JSON ranking file in the benchmark's own format, by default that of
        ``ranking_format``.

        Args:
            file: The decoded file.

        Returns:
            Query ids and their ranked images.

        Raises:
            RankingFileError: The file has another format; it names query and reason.
        """
        lists = {query: file.image_names(query) for query in file.content}
        return RankingLists(lists, submission=bool(self.submitted_lengths))

    def submission(self, name: str, lists: Mapping[str, Mapping[str, list[str]]]) -> dict[str, object]:
        """What the test server takes.

        Args:
            name: What file names begin with.
            lists: Pool -> query id -> image ids, best first, as many as ``submitted_lengths`` says.

        Returns:
            File name -> JSON value.
        """
        return {f"{name}.json": dict(lists[GALLERY])}
