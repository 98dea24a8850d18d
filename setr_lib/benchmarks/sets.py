"""Evaluation sets: the (data set, split) pairs that settings ask for, each with its benchmark and where its
files are.

Light on purpose: Dagster's partitions are made from this at every import of the code location, without data
present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from setr_lib.benchmarks.benchmark import Benchmark
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.registry import benchmark_of
from setr_lib.errors import told_as
from setr_lib.near_names import did_you_mean
from setr_lib.pixel_rules import OFFICIAL, OWN_FOLDER, PixelRules
from setr_lib.settings import NAMES_OF_KINDS, DatasetSettings, Settings, TrainingSettings


@dataclass(frozen=True)
class EvaluationSet:
    """A data set and a split of it: what is evaluated as one, and a partition in Dagster.

    Paths are absolute; nothing is checked to exist.
    """

    key: str
    """``cirr-val``, ``circo-test``, ...; the data set's name alone for one without splits."""
    dataset: str
    """The name under ``[datasets.*]``."""
    benchmark: Benchmark
    """How its files are read, what is measured, and all else that depends on the kind of data set."""
    split: str
    """``val``, ``test1``, ...; ``all`` for a data set without splits."""
    gallery: str
    """The protocol that a leaderboard row names: one of the benchmark's ``galleries``."""
    root: Path
    image_root: Path | None
    """Where settings say the images are; ``None`` means the benchmark's own place under ``root``."""
    queries: Path | None = None
    """The query file that settings name, for benchmarks that read one."""
    image_captions: Path | None = None
    """Where settings say the images' captions are; ``None`` means ``image_captions.json`` under ``root``."""
    reference_root: Path | None = None
    """Where settings say that reference images are which are no part of the gallery."""
    outside_links: bool = False
    """Whether links to folders are followed that end outside of the folders above."""
    own_folders: tuple[Path, ...] = ()
    """Folders of SETR's own, which are no part of any gallery."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings that only the benchmark understands."""
    pixels: PixelRules = OFFICIAL
    """How its image files become RGB."""

    @property
    def kind(self) -> str:
        """The benchmark's word in settings, by which prompts are overridden."""
        return self.benchmark.kind

    @property
    def hidden(self) -> bool:
        """Whether the split's targets are known to the benchmark's server only."""
        return self.split in self.benchmark.hidden_splits

    @property
    def has_queries(self) -> bool:
        """Whether it has queries: a folder of pictures need not have any.

        Raises:
            DatasetError: The benchmark's code raises anything.
        """
        with told_as(DatasetError, f"has_queries of {self.key} ({self.benchmark.name})"):
            return bool(self.benchmark.has_queries(self))

    @property
    def gallery_key(self) -> str:
        """A name for the gallery, the same for sets that share one (CIRCO's val and test).

        Raises:
            DatasetError: The benchmark's code raises anything, or gives no name.
        """
        what = f"gallery_key of {self.key} ({self.benchmark.name})"
        with told_as(DatasetError, what):
            found = self.benchmark.gallery_key(self)
        if not isinstance(found, str) or not found:
            raise DatasetError(f"{what} gives {found!r}: a name for the gallery is needed")
        return found

    @property
    def official_queries(self) -> int | None:
        """How many queries the official files hold; ``None`` where there is no such number."""
        return self.benchmark.official_queries(self.split)

    @property
    def official_images(self) -> dict[str, int] | None:
        """Official gallery sizes by gallery name; ``None`` where there is no such number."""
        found = self.benchmark.official_images(self.split, self.gallery)
        return None if found is None else dict(found)

    @property
    def has_official_counts(self) -> bool:
        """Whether the benchmark knows how many queries or images there officially are."""
        return self.official_queries is not None or self.official_images is not None


def _benchmark(name: str, dataset: DatasetSettings, settings: Settings) -> Benchmark:
    try:
        return benchmark_of(dataset.kind, settings)
    except DatasetError as error:
        raise DatasetError(f"[datasets.{name}] kind: {error.reason}") from error


def _splits(name: str, dataset: DatasetSettings, benchmark: Benchmark) -> list[str]:
    open_splits = [split for split in benchmark.splits if split not in benchmark.hidden_splits]
    splits = dataset.splits or [*benchmark.default_splits] or open_splits or [*benchmark.splits]
    for split in splits:
        if split not in benchmark.splits:
            raise DatasetError(
                f"[datasets.{name}] splits: {split!r} is not a split of {benchmark.kind}: "
                f"use {' or '.join(benchmark.splits)}{did_you_mean(split, benchmark.splits)}"
            )
    return splits


def _sets_of(name: str, dataset: DatasetSettings, settings: Settings) -> list[EvaluationSet]:
    benchmark = _benchmark(name, dataset, settings)
    benchmark.check_settings(name, dataset)

    def resolved(path: Path | None) -> Path | None:
        return None if path is None else settings.resolve(path)

    def folders(split: str) -> tuple[Path, Path | None]:
        if dataset.train_root is not None and split == benchmark.train_split:
            return settings.resolve(dataset.train_root), None
        return settings.resolve(dataset.root), resolved(dataset.image_root)

    return [
        EvaluationSet(
            key=name if split == "all" else f"{name}-{split}",
            dataset=name,
            benchmark=benchmark,
            split=split,
            gallery=dataset.gallery or benchmark.galleries[0],
            root=folders(split)[0],
            image_root=folders(split)[1],
            queries=resolved(dataset.queries),
            image_captions=resolved(dataset.image_captions),
            reference_root=resolved(dataset.reference_root),
            outside_links=dataset.outside_links,
            own_folders=settings.own_folders,
            options=dataset.options,
            pixels=_pixels(benchmark.pixels, dataset, settings),
        )
        for split in _splits(name, dataset, benchmark)
    ]


def _pixels(
    default: PixelRules, section: DatasetSettings | TrainingSettings, settings: Settings
) -> PixelRules:
    rules = default.changed_by(section.background, section.upright)
    return replace(rules, max_pixels=settings.images.max_pixels)


def training_pixels(settings: Settings) -> PixelRules:
    """How the training images become RGB: as those of the data set whose train split they are; images of
    one's own as those of a folder.

    Args:
        settings: The settings.

    Returns:
        The rules.

    Raises:
        DatasetError: ``[training] dataset`` is not in the settings, or has no train split.
    """
    if settings.training.dataset is not None:
        return train_set(settings, settings.training.dataset).pixels
    return _pixels(OWN_FOLDER, settings.training, settings)


def evaluation_sets(settings: Settings) -> list[EvaluationSet]:
    """Every evaluation set that ``[datasets.*]`` asks for. No data is opened.

    Args:
        settings: The settings.

    Returns:
        Sets with known targets first, then the hidden test splits; the settings' order within each half.

    Raises:
        DatasetError: There is no such benchmark, it does not have the split or know a key, or two sets have
            one key.
    """
    sets = [
        evaluated
        for name, dataset in settings.datasets.items()
        for evaluated in _sets_of(name, dataset, settings)
    ]
    seen: dict[str, str] = {}
    for evaluated in sets:
        if evaluated.key in seen:
            raise DatasetError(
                f"data sets {seen[evaluated.key]!r} and {evaluated.dataset!r} both make the set "
                f"{evaluated.key!r}: rename one"
            )
        seen[evaluated.key] = evaluated.dataset
    return sorted(
        sets, key=lambda evaluated: evaluated.hidden
    )  # a stable sort: settings' order within each half


def evaluation_set(settings: Settings, key: str) -> EvaluationSet:
    """The evaluation set of a key.

    Args:
        settings: The settings.
        key: E.g. ``cirr-val``.

    Returns:
        The set.

    Raises:
        DatasetError: There is none; the message lists the configured ones.
    """
    sets = {evaluated.key: evaluated for evaluated in evaluation_sets(settings)}
    if key not in sets:
        known = f"[datasets] makes {sorted(sets) or 'none'}{did_you_mean(key, sets)}"
        raise DatasetError(f"there is no evaluation set {key!r}; {known}")
    return sets[key]


def set_of_split(settings: Settings, dataset: str, split: str, gallery: str | None = None) -> EvaluationSet:
    """The evaluation set of any split of a data set, whether or not its ``splits`` ask for it.

    Args:
        settings: The settings.
        dataset: The data set's name.
        split: One of its benchmark's ``splits``.
        gallery: The protocol, in place of the settings' choice (FashionIQ's ``val``).

    Returns:
        The set.

    Raises:
        DatasetError: The data set, split or gallery is not known; the message lists the known ones.
    """
    if dataset not in settings.datasets:
        hint = f", or set SETR_DATASETS__{dataset.upper()}__ROOT" if dataset in NAMES_OF_KINDS else ""
        known = ", ".join(sorted(settings.datasets)) or "none"
        near = did_you_mean(dataset, settings.datasets)
        raise DatasetError(
            f"there is no data set {dataset!r} in the settings, only {known}: add it{hint}{near}"
        )
    benchmark = _benchmark(dataset, settings.datasets[dataset], settings)
    # Checked here, because the messages of `_sets_of` speak of settings, and these names are arguments.
    if split not in benchmark.splits:
        near = did_you_mean(split, benchmark.splits)
        raise DatasetError(
            f"{split!r} is not a split of {dataset}: use {' or '.join(benchmark.splits)}{near}"
        )
    if gallery is not None and gallery not in benchmark.galleries:
        known = " or ".join(benchmark.galleries)
        near = did_you_mean(gallery, benchmark.galleries)
        only = f"use {known}{near}" if len(benchmark.galleries) > 1 else f"it has one only, {known!r}"
        raise DatasetError(f"{gallery!r} is not a gallery of {dataset}: {only}")
    changes = {"splits": [split]} | ({} if gallery is None else {"gallery": gallery})
    return _sets_of(dataset, settings.datasets[dataset].model_copy(update=changes), settings)[0]


def train_set(settings: Settings, dataset: str) -> EvaluationSet:
    """The train split of a data set, whether or not its ``splits`` ask for it. No data is opened.

    Args:
        settings: The settings.
        dataset: The data set's name.

    Returns:
        The set of the benchmark's ``train_split``, all of its images its gallery.

    Raises:
        DatasetError: There is no such data set in the settings, or its benchmark has no train split.
    """
    if dataset in settings.datasets:
        benchmark = _benchmark(dataset, settings.datasets[dataset], settings)
        if not benchmark.train_split:
            raise DatasetError(
                f"[datasets.{dataset}]: {benchmark.name} has no train split; to train on triplets of your "
                "own, name their file as [training] triplets"
            )
        return set_of_split(settings, dataset, benchmark.train_split, benchmark.galleries[0])
    known = ", ".join(sorted(settings.datasets)) or "none"
    near = did_you_mean(dataset, settings.datasets)
    raise DatasetError(f"there is no data set {dataset!r} in the settings, only {known}: add it{near}")


def named_sets(settings: Settings, name: str | None) -> list[EvaluationSet]:
    """The evaluation sets that a name on the command line stands for.

    Args:
        settings: The settings.
        name: The key of a set, or the name of a data set for all of its sets; None for every set.

    Returns:
        The sets, in the order of :func:`evaluation_sets`.

    Raises:
        DatasetError: The name is not known; the message lists what may be named.
    """
    every = evaluation_sets(settings)
    chosen = [evaluated for evaluated in every if name in (None, evaluated.key, evaluated.dataset)]
    if not chosen and name is not None:
        known = sorted({evaluated.dataset for evaluated in every} | {evaluated.key for evaluated in every})
        there = f"{', '.join(known) or 'none'}{did_you_mean(name, known)}"
        raise DatasetError(f"there is no data set or evaluation set {name!r}; there is {there}")
    return chosen


@dataclass(frozen=True)
class SplitAverage:
    """A metric whose mean over the splits of a data set papers report."""

    metric: str
    splits: tuple[str, ...]
    """All that there are, whether settings ask for them or not."""


def averages(settings: Settings) -> dict[str, SplitAverage]:
    """The mean over all splits that papers report of each configured data set.

    Args:
        settings: The settings.

    Returns:
        Data set -> metric and splits; without the data sets that have no such mean.
    """
    return {
        evaluated.dataset: SplitAverage(evaluated.benchmark.averaged, tuple(evaluated.benchmark.splits))
        for evaluated in evaluation_sets(settings)
        if evaluated.benchmark.averaged
    }


def headlines(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The headline metrics of each configured data set.

    Args:
        settings: The settings.

    Returns:
        Data set -> names of metrics; the first one ranks rows.
    """
    return {
        evaluated.dataset: evaluated.benchmark.headline_metrics for evaluated in evaluation_sets(settings)
    }
