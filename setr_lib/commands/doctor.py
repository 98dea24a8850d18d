"""``setr doctor``: what is installed, configured and here, what is missing or broken, and what can be done
already.

Exit status 0: everything that the configured data sets need is there; 1: something is missing or broken; 2:
the settings cannot be read. With ``--json`` standard output carries one JSON document and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from setr_lib.benchmarks.sets import train_set
from setr_lib.benchmarks.source import maker_of
from setr_lib.commands.check import Check
from setr_lib.commands.console import progress_on_terminal, say_error
from setr_lib.commands.setup_checks import configured, embedding_dimension, installed, used_spaces
from setr_lib.commands.system_setup import system_setup
from setr_lib.datasets import (
    DatasetError,
    EvaluationSet,
    evaluation_sets,
    inspect_gallery,
    inspect_training_images,
    load_training_images,
    load_training_triplets,
    named_sets,
    training_pixels,
)
from setr_lib.errors import SetrError
from setr_lib.models.hub import free_bytes
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.storage_format import FormatError, format_problem
from setr_lib.pipeline.toy_models import toy_models_note
from setr_lib.progress import Progress
from setr_lib.settings import Settings
from setr_lib.sources import data_sources

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks.audit import Examination, Look

UNREADABLE = 2
"""The exit status where settings cannot be read."""

_BYTES_BESIDE_A_VECTOR = 200  # id, fingerprint, a row of the gallery's table
_BYTES_PER_TEXT = 700  # a kept answer and its row in a table
_GUESSED_DIMENSION = 1024


@dataclass(frozen=True)
class Training:
    """The images that the re-ranker learns from, as they were found."""

    images: int
    missing: int
    broken: int
    problem: str = ""
    is_named: bool = True
    """False where settings name none: nothing is missing then, and no adapter can be trained."""
    triplets: int | None = None
    """Triplets of a file, or of a data set's train split; None where there are captions."""
    dataset: str | None = None
    """The data set whose train split it is; None for files of one's own."""
    source: str = ""
    """Where images of the train split come from."""
    hint: str = ""
    """The first missing image, and which one of the folder is meant by it."""

    @property
    def problems(self) -> list[str]:
        remedy = f": they come from {self.source}" if self.source else ""
        counted = [
            f"training images: {count:,} of {self.images:,} are {state}"
            for count, state in ((self.missing, f"missing{self.hint}{remedy}"), (self.broken, "broken"))
            if count
        ]
        return [self.problem, *counted] if self.problem else counted


@dataclass(frozen=True)
class Disk:
    """Bytes: what is still to come, about, and what is free where SETR keeps its things."""

    images: int
    unknown: tuple[str, ...]
    """Data sets whose missing images nobody can size."""
    vectors: int
    answers: int
    features: int
    """What vision features may take at most, by settings; a run goes on without room for them."""
    free: int | None
    embedded: dict[str, int]
    """By embedding space that a configured method searches, the images of the galleries: each is embedded
    once."""

    @property
    def needed(self) -> int:
        return self.images + self.vectors + self.answers


@dataclass(frozen=True)
class Imported:
    """Counts of imported captions and compositions, for one evaluation set."""

    captions: int
    compositions: int


@dataclass(frozen=True)
class Diagnosis:
    """Everything that the command found out."""

    settings: Settings
    opened: bool
    """Whether images were opened (and not only looked for)."""
    packages: dict[str, str | None]
    checks: list[Check]
    examinations: list[Examination]
    imported: dict[str, Imported]
    training: Training | None
    """``None`` where a data set was named: training is none of its business."""
    disk: Disk

    @property
    def problems(self) -> list[str]:
        """Everything that is missing or broken, one line each."""
        lacking = [
            f"the package {name} is not installed" for name, found in self.packages.items() if found is None
        ]
        faults = [f"{c.what} {c.value}: {c.status}: {c.detail}" for c in self.checks if c.at_fault]
        sets = [f"{e.evaluation_set.key}: {problem}" for e in self.examinations for problem in e.problems]
        return [*lacking, *faults, *sets, *(self.training.problems if self.training else [])]


def run(settings: Settings, *, dataset: str | None, as_json: bool, quick: bool) -> int:
    """Print the diagnosis.

    Args:
        settings: The settings.
        dataset: One data set or evaluation set; by default all, and the training images.
        as_json: Print one JSON document.
        quick: Look for images without opening them.

    Returns:
        0 where all is well, 1 where something is missing or broken, 2 where settings cannot be followed.
    """
    try:
        evaluation_sets(settings)
    except DatasetError as error:  # a split that does not exist, say: settings that nobody can follow
        return unreadable(error, as_json=as_json)
    if (problem := format_problem(settings)) is not None:
        return unreadable(FormatError(problem), as_json=as_json, status="storage refused")
    chosen = named_sets(settings, dataset)
    with progress_on_terminal() as progress:
        found = diagnose(settings, chosen, with_training=dataset is None, quick=quick, progress=progress)
    if as_json:
        print(json.dumps(as_document(found), indent=1))
    else:
        from setr_lib.commands.doctor_page import print_page

        print_page(found)
    return 1 if found.problems else 0


def unreadable(error: SetrError, *, as_json: bool, status: str = "settings unreadable") -> int:
    """Say that settings (or the storage) cannot be read, on standard error and, where asked for, as the JSON
    document.

    Args:
        error: What is wrong.
        as_json: Print the JSON document.
        status: The document's ``status``.

    Returns:
        The exit status 2.
    """
    say_error(error)
    if as_json:
        print(json.dumps({"status": status, "problems": [str(error)]}, indent=1))
    return UNREADABLE


def diagnose(
    settings: Settings,
    chosen: Sequence[EvaluationSet],
    *,
    with_training: bool,
    quick: bool,
    progress: Progress,
) -> Diagnosis:
    """Look at everything that evaluation sets need.

    Args:
        settings: The settings.
        chosen: The evaluation sets.
        with_training: Look at the training images, too.
        quick: Look for images without opening them.
        progress: Told how many images were looked at.

    Returns:
        What was found.
    """
    from setr_lib.benchmarks.audit import examine

    sources = data_sources(settings)
    galleries: dict[str, pl.DataFrame] = {}
    examinations = [
        _with_removals(
            settings,
            examine(evaluated, _look(evaluated, galleries, quick, progress), sources),
            galleries,
        )
        for evaluated in chosen
    ]
    return Diagnosis(
        settings=settings,
        opened=not quick,
        packages=installed(),
        checks=[
            *configured(settings, {evaluated.kind for evaluated in chosen}, quick=quick),
            *_toys(settings, None if with_training else chosen[0].dataset),
            *(system_setup(settings) if with_training else ()),
        ],
        examinations=examinations,
        imported={evaluated.key: _imported(settings, evaluated) for evaluated in chosen},
        training=_training(settings, quick, progress) if with_training else None,
        disk=_disk(settings, examinations),
    )


def _toys(settings: Settings, data_set: str | None) -> Iterator[Check]:
    """A warning where the miniature's models are to work on other data."""
    if (note := toy_models_note(settings, data_set)) is not None:
        yield Check("models", "the miniature's", "warning", note)


def _with_removals(
    settings: Settings, found: Examination, galleries: Mapping[str, pl.DataFrame]
) -> Examination:
    """The same, and whether a run would stop because so many of the images that have vectors are gone."""
    from setr_lib.benchmarks.audit import image_listings
    from setr_lib.pipeline.removals import check_gallery, gallery_rule
    from setr_lib.spaces.removals import RemovalRefusedError

    if found.gallery_key not in galleries:
        return found
    context = pipeline_context(settings)
    rule = gallery_rule(context, found.evaluation_set, "gallery_images")
    is_whole = found.images is None or found.images.is_whole
    listings = [] if is_whole else image_listings(found.evaluation_set)
    try:
        check_gallery(context, found.gallery_key, galleries[found.gallery_key], rule, listings)
    except RemovalRefusedError as refusal:
        told = str(refusal).removeprefix(f"{found.evaluation_set.key}: ")
        return replace(found, problems=(*found.problems, told))
    return found


def _look(
    evaluation_set: EvaluationSet, galleries: dict[str, pl.DataFrame], quick: bool, progress: Progress
) -> Look:
    """Looks for a gallery's images; for sets that share one, once."""

    def look(gallery: pl.DataFrame) -> pl.DataFrame:
        from setr_lib.datasets.images import find_images

        try:
            key = evaluation_set.gallery_key
        except DatasetError:  # ``examine`` tells it
            key = evaluation_set.key
        if key not in galleries:
            told = _named(progress, evaluation_set.key)
            galleries[key] = (
                find_images(gallery) if quick else inspect_gallery(gallery, told, evaluation_set.pixels)
            )
        return galleries[key]

    return look


def _named(progress: Progress, name: str) -> Progress:
    return lambda done, total, what: progress(done, total, f"{name}: {what}")


def _training(settings: Settings, quick: bool, progress: Progress) -> Training:
    from setr_lib.datasets.images import find_images
    from setr_lib.datasets.training import missing_image_hint

    if not settings.training.is_named:
        return Training(0, 0, 0, is_named=False)
    dataset = settings.training.dataset
    try:
        images = load_training_images(settings)
        triplets = load_training_triplets(settings)
        source = "" if dataset is None else _source_of_split(settings, dataset)
    except DatasetError as error:
        return Training(0, 0, 0, f"training: {error}")
    told = _named(progress, "training")
    found = find_images(images) if quick else inspect_training_images(images, told, training_pixels(settings))
    counts = dict(found["status"].value_counts().iter_rows())
    missing = found.filter(status="missing")["image_id"].to_list()
    unnamed = "" if images.height else "training: the file names no image"
    return Training(
        images.height,
        counts.get("missing", 0),
        counts.get("broken", 0),
        unnamed or _removal_of_training(settings, found),
        triplets=None if triplets is None else triplets.height,
        dataset=dataset,
        source=source,
        hint=f", first {missing[0]!r}{missing_image_hint(settings, missing[0])}" if missing else "",
    )


def _removal_of_training(settings: Settings, found: pl.DataFrame) -> str:
    """Why a run would stop because so many of the training images that have vectors are gone; else empty."""
    from setr_lib.pipeline.embedding import TRAINING
    from setr_lib.pipeline.removals import check_gallery, consent_of, training_rule
    from setr_lib.spaces.removals import RemovalRefusedError

    context = pipeline_context(settings)
    try:
        check_gallery(context, TRAINING, found, training_rule(context, consent_of("training_embeddings")))
    except RemovalRefusedError as refusal:
        return str(refusal)
    return ""


def _source_of_split(settings: Settings, dataset: str) -> str:
    """Where the images of a data set's train split come from."""
    train = train_set(settings, dataset)
    maker = maker_of(train.root, data_sources(settings))
    return train.benchmark.image_source(train).source if maker is None else maker.remedy(train.root)


def _imported(settings: Settings, evaluated: EvaluationSet) -> Imported:
    context = pipeline_context(settings)
    return Imported(
        context.imported_captions(evaluated.dataset).height,
        context.imported_compositions(evaluated.key).height,
    )


def _disk(settings: Settings, examinations: Sequence[Examination]) -> Disk:
    # A gallery that sets share counts once.
    galleries = {found.gallery_key: found for found in examinations}
    total = sum(found.gallery_size or 0 for found in galleries.values())
    spaces = used_spaces(settings)
    dimensions = [embedding_dimension(settings, space) or _GUESSED_DIMENSION for space in spaces]
    per_image = sum(4 * dimension + _BYTES_BESIDE_A_VECTOR for dimension in dimensions)
    queries = sum(found.queries or 0 for found in examinations)
    return Disk(
        images=sum(found.bytes_to_come or 0 for found in galleries.values()),
        unknown=tuple(key for key, found in galleries.items() if found.bytes_to_come is None),
        vectors=total * per_image,
        answers=2 * queries * _BYTES_PER_TEXT,  # a caption and a composition, at most
        features=settings.models.judge.features_mb * 2**20,
        free=free_bytes(settings.storage_root),
        embedded=dict.fromkeys(spaces, total),
    )


def as_document(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis as one JSON object.

    Args:
        found: What was found.

    Returns:
        Plain values; paths are absolute, sizes in bytes, ``null`` where something is unknown.
    """
    disk, training = found.disk, found.training
    return {
        "status": "incomplete" if found.problems else "ok",
        "problems": found.problems,
        "settings_folder": str(found.settings.base_dir),
        "images_opened": found.opened,
        "installed": found.packages,
        "configured": [
            {
                "what": c.what,
                "value": c.value,
                "status": c.status,
                "detail": c.detail,
                "bytes_here": c.bytes_here,
                "bytes_to_come": c.bytes_to_come,
            }
            for c in found.checks
        ],
        "evaluation_sets": [
            {**_set_document(examination), "imported": vars(found.imported[examination.evaluation_set.key])}
            for examination in found.examinations
        ],
        "images_to_embed": disk.embedded,
        "training": None
        if training is None
        else {
            "images": training.images,
            "missing": training.missing,
            "broken": training.broken,
            "triplets": training.triplets,
            "dataset": training.dataset,
            "problems": training.problems,
        },
        "disk": {
            "needed_bytes": disk.needed,
            "missing_images_bytes": disk.images,
            "missing_images_of_unknown_size": list(disk.unknown),
            "vectors_bytes": disk.vectors,
            "answers_bytes": disk.answers,
            "vision_features_at_most_bytes": disk.features,
            "free_bytes": disk.free,
        },
    }


def _set_document(found: Examination) -> dict[str, Any]:
    from setr_lib.benchmarks.audit import capabilities

    evaluated = found.evaluation_set
    files = [*found.files, *([found.captions] if found.captions is not None else [])]
    return {
        "key": evaluated.key,
        "dataset": evaluated.dataset,
        "kind": evaluated.kind,
        "split": evaluated.split,
        "gallery": evaluated.gallery,
        "root": str(evaluated.root),
        "counts_of": found.counts_of,
        "status": "incomplete" if found.problems else "ok",
        "problems": list(found.problems),
        "warnings": list(found.warnings),
        "queries": found.queries,
        "official_queries": evaluated.official_queries if found.is_official else None,
        "queries_with_targets": found.scored,
        "files": [
            {
                "path": str(state.file.path),
                "what": state.file.what,
                "status": state.status,
                "entries": state.entries,
                "official_entries": state.file.entries if found.is_official else None,
                "detail": state.detail,
                "source": state.file.source,
            }
            for state in files
        ],
        "images": _images_document(found),
        "image_folder": str(found.source.folder),
        "image_source": found.source.source,
        "missing_images_bytes": found.bytes_to_come,
        "missing_images_bytes_from": found.basis,
        "captioned_images": found.captioned,
        "can": [
            {"what": can.what, "possible": can.possible, "detail": can.detail} for can in capabilities(found)
        ],
    }


def _images_document(found: Examination) -> dict[str, Any] | None:
    images = found.images
    if images is None:
        return None
    return {
        "total": images.total,
        "galleries": images.listed,
        "official_galleries": images.official,
        "ok": images.ok,
        "missing": images.missing,
        "broken": images.broken,
        "coverage": images.coverage,
        "references_outside_of_the_gallery": images.references,
        "folders_listed_to_the_end": images.is_whole,
        "examples": list(images.examples),
    }
