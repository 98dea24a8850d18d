"""Evaluation sets: the (data set, split) pairs that settings ask for, each with its key and where its files are.

Light on purpose: Dagster's partitions are made from this at every import of the code location, without data present.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.settings import NAMES_OF_KINDS, DatasetSettings, Settings

Kind = Literal["cirr", "fashioniq", "circo", "folder"]

CATEGORIES = ("dress", "shirt", "toptee")
"""FashionIQ's three categories, in the order that every paper tabulates them."""

SPLITS: dict[str, tuple[str, ...]] = {
    "cirr": ("train", "val", "test1"),
    "fashioniq": ("train", "val", "test"),
    "circo": ("val", "test"),
    "folder": ("all",),
}
HIDDEN_SPLITS = {("cirr", "test1"), ("fashioniq", "test"), ("circo", "test")}
"""Splits whose targets only the benchmark's own server knows."""

OFFICIAL_QUERIES: dict[tuple[str, str], int] = {
    ("cirr", "val"): 4181,
    ("cirr", "test1"): 4148,
    ("fashioniq", "train"): 5985 + 5988 + 6027,
    ("fashioniq", "val"): 2017 + 2038 + 1961,
    ("fashioniq", "test"): 2024 + 2038 + 2056,
    ("circo", "val"): 220,
    ("circo", "test"): 800,
}
OFFICIAL_IMAGES: dict[tuple[str, str], dict[str, int]] = {
    ("cirr", "train"): {"all": 16939},
    ("cirr", "val"): {"all": 2297},
    ("cirr", "test1"): {"all": 2315},
    ("fashioniq", "train"): {"dress": 11452, "shirt": 19036, "toptee": 16121},
    ("fashioniq", "val"): {"dress": 3817, "shirt": 6346, "toptee": 5373},
    ("fashioniq", "test"): {"dress": 3818, "shirt": 6346, "toptee": 5374},
    ("circo", "val"): {"all": 123403},
    ("circo", "test"): {"all": 123403},
}
"""Gallery sizes of the official files (FashionIQ: the ``original`` galleries), by gallery name."""


@dataclass(frozen=True)
class EvaluationSet:
    """One partition: a data set and a split of it. Paths are absolute; nothing is checked to exist."""

    key: str
    """``cirr-val``, ``circo-test``, ...; the data set's name alone for a folder."""
    dataset: str
    """The name under ``[datasets.*]``."""
    kind: Kind
    split: str
    """``val``, ``test1``, ...; ``all`` for a folder."""
    gallery: str
    """``original`` or ``val`` for FashionIQ, else ``all``: the protocol that a leaderboard row names."""
    root: Path
    image_root: Path | None
    """Where settings say the images are; ``None`` means the official place under ``root``."""
    queries: Path | None = None
    """The query file of a folder."""
    image_captions: Path | None = None
    """Where settings say the images' captions are; ``None`` means ``image_captions.json`` under ``root``."""

    @property
    def hidden(self) -> bool:
        """Whether the split's targets are known to the benchmark's server only."""
        return (self.kind, self.split) in HIDDEN_SPLITS

    @property
    def gallery_key(self) -> str:
        """A name for the gallery, the same for sets that share one (CIRCO's val and test)."""
        if self.kind in ("circo", "folder"):
            return self.dataset
        return self.key if self.gallery in ("all", "original") else f"{self.key}-{self.gallery}"

    @property
    def official_queries(self) -> int | None:
        """How many queries the official files hold; ``None`` where there is no such number."""
        return OFFICIAL_QUERIES.get((self.kind, self.split))

    @property
    def official_images(self) -> dict[str, int] | None:
        """Official gallery sizes by gallery name; ``None`` where there is no such number."""
        return None if self.gallery == "val" else OFFICIAL_IMAGES.get((self.kind, self.split))


def _sets_of(name: str, dataset: DatasetSettings, settings: Settings) -> list[EvaluationSet]:
    known = SPLITS[dataset.kind]
    splits = dataset.splits or (["all"] if dataset.kind == "folder" else ["val"])
    for split in splits:
        if split not in known:
            raise DatasetError(
                f"[datasets.{name}] splits: {split!r} is no split of {dataset.kind}: use {known}"
            )
    if len(set(splits)) < len(splits):
        raise DatasetError(f"[datasets.{name}] splits: a split is named twice in {splits}")
    if dataset.gallery == "val" and dataset.kind != "fashioniq":
        raise DatasetError(f"[datasets.{name}] gallery = 'val' is FashionIQ's alone: remove it")
    if dataset.queries is not None and dataset.kind != "folder":
        raise DatasetError(f"[datasets.{name}] queries: only a data set of kind 'folder' has that key")
    return [
        EvaluationSet(
            key=name if dataset.kind == "folder" else f"{name}-{split}",
            dataset=name,
            kind=dataset.kind,
            split=split,
            gallery=dataset.gallery if dataset.kind == "fashioniq" else "all",
            root=settings.resolve(dataset.root),
            image_root=None if dataset.image_root is None else settings.resolve(dataset.image_root),
            queries=None if dataset.queries is None else settings.resolve(dataset.queries),
            image_captions=(
                None if dataset.image_captions is None else settings.resolve(dataset.image_captions)
            ),
        )
        for split in splits
    ]


def evaluation_sets(settings: Settings) -> list[EvaluationSet]:
    """Every evaluation set that ``[datasets.*]`` asks for: those with targets first, then the hidden test splits.

    Raises ``DatasetError`` for a split that the benchmark does not have, or two sets with one key.
    """
    sets = [each for name, dataset in settings.datasets.items() for each in _sets_of(name, dataset, settings)]
    seen: dict[str, str] = {}
    for each in sets:
        if each.key in seen:
            raise DatasetError(
                f"data sets {seen[each.key]!r} and {each.dataset!r} both make the set {each.key!r}: rename one"
            )
        seen[each.key] = each.dataset
    return sorted(sets, key=lambda each: each.hidden)  # a stable sort: settings' order within each half


def evaluation_set(settings: Settings, key: str) -> EvaluationSet:
    """The set named ``key``. Raises ``DatasetError`` listing the configured ones where there is none."""
    sets = {each.key: each for each in evaluation_sets(settings)}
    if key not in sets:
        raise DatasetError(f"there is no evaluation set {key!r}; [datasets] makes {sorted(sets) or 'none'}")
    return sets[key]


def set_of_split(settings: Settings, dataset: str, split: str, gallery: str | None = None) -> EvaluationSet:
    """The set of ``split`` of data set ``dataset``, whether or not its ``splits`` ask for it.

    ``gallery`` replaces the settings' choice (FashionIQ). Raises ``DatasetError`` for an unknown data set, split or
    gallery, naming the known ones.
    """
    if dataset not in settings.datasets:
        hint = f", or set SETR_DATASETS__{dataset.upper()}__ROOT" if dataset in NAMES_OF_KINDS else ""
        known = ", ".join(sorted(settings.datasets)) or "none"
        raise DatasetError(f"there is no data set {dataset!r} in the settings, only {known}: add it{hint}")
    kind = settings.datasets[dataset].kind
    # Said here, because what `_sets_of` says is meant for settings, and these are none.
    if split not in SPLITS[kind]:
        raise DatasetError(f"{split!r} is no split of {dataset}: use {' or '.join(SPLITS[kind])}")
    if gallery == "val" and kind != "fashioniq":
        raise DatasetError(f"{dataset} has one gallery only: 'val' is FashionIQ's alone")
    changes = {"splits": [split]} | ({} if gallery is None else {"gallery": gallery})
    return _sets_of(dataset, settings.datasets[dataset].model_copy(update=changes), settings)[0]


def named_sets(settings: Settings, name: str | None) -> list[EvaluationSet]:
    """The set with key ``name``, or all sets of data set ``name``; every set for ``None``.

    Raises ``DatasetError`` listing what may be named.
    """
    every = evaluation_sets(settings)
    chosen = [each for each in every if name in (None, each.key, each.dataset)]
    if not chosen and name is not None:
        known = ", ".join(sorted({each.dataset for each in every} | {each.key for each in every}))
        raise DatasetError(f"there is no data set or evaluation set {name!r}; there is {known or 'none'}")
    return chosen
