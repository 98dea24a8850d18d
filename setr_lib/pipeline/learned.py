"""What the rows of an evaluation set have learned from: the overlap of the set with what registered versions
were trained on, and the labels that follow. Versions are tagged with it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.evaluation.labels import (
    UNKNOWN,
    ZERO_SHOT,
    Claim,
    Strength,
    claim_of_own_words,
    claim_of_version,
    label_of_row,
    label_of_version,
)
from setr_lib.evaluation.overlap import Overlap, overlap_of
from setr_lib.records import QueriesRecord, RerankedRow, WeightsRecord

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.benchmarks import EvaluationSet
    from setr_lib.evaluation.row import Row
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.records import ReportRecord
    from setr_lib.training.trained_on import TrainedOn

CAPTION_PROXY = "caption proxy"
"""The label of a ranking that was made over captions."""
OVERLAP_TAG = "setr.overlap."
"""What the tag of a version is called, before the evaluation set's key, that tells its overlap."""
OVERLAPPING_TAG = "setr.overlaps_with"
"""The tag of a version that names the evaluation sets of which it has seen something."""
_NOTHING = "none"


@dataclass(frozen=True)
class UsedVersion:
    """A registered version that rows were made with, and what it has seen of an evaluation set.

    Attributes:
        model: The registered model.
        version: Its version.
        claim: What it has learned from.
        trained_on: Images and triplets; None where its bundle does not say.
        overlap: With the evaluation set; None where that is unknown.
    """

    model: str
    version: str
    claim: Claim
    trained_on: TrainedOn | None = None
    overlap: Overlap | None = None

    @property
    def words(self) -> str:
        """The counts of the overlap, or that it is unknown."""
        return UNKNOWN if self.overlap is None else self.overlap.words


@dataclass(frozen=True)
class Learned:
    """What a row has learned from.

    Attributes:
        label: ``zero-shot``, or what stands against it.
        overlap: How much of the evaluation set its weights have seen; None for a row without weights that
            were trained here.
    """

    label: str
    overlap: str | None = None


@dataclass
class LearnedFrom:
    """What registered versions have learned from, seen from one evaluation set; each version is read once.

    Attributes:
        context: Settings and the registry.
        evaluated: The evaluation set.
        queries: Its QUERIES table.
        gallery: Its GALLERY table.
    """

    context: PipelineContext
    evaluated: EvaluationSet
    queries: pl.DataFrame
    gallery: pl.DataFrame
    _versions: dict[tuple[str, str], UsedVersion] = field(default_factory=dict)

    @property
    def versions(self) -> list[UsedVersion]:
        """The versions that were asked for."""
        return [*self._versions.values()]

    def version(self, model: str, version: str, registered_as: str) -> UsedVersion:
        """What a registered version has learned from.

        Args:
            model: The registered model.
            version: Its version.
            registered_as: The label that it was registered with.

        Returns:
            The version with its claim.

        Raises:
            TrainedOnError: Its bundle is damaged.
        """
        key = (model, version)
        if key not in self._versions:
            trained_on, overlap = trained_on_of(self.context, model, version), None
            if trained_on is not None:
                namespace = self.evaluated.benchmark.image_namespace(self.evaluated)
                overlap = overlap_of(trained_on, self.gallery, self.queries, namespace)
            who, kind = f"{model} v{version}", self.evaluated.kind
            claim = claim_of_version(who, trained_on, overlap, kind, registered_as)
            self._versions[key] = UsedVersion(model, version, claim, trained_on, overlap)
        return self._versions[key]

    def of_row(
        self,
        row: Row,
        weights: Sequence[WeightsRecord],
        by: RerankedRow | None,
        captioned: bool = False,
    ) -> Learned:
        """What a row has learned from.

        Args:
            row: The row.
            weights: The versions of its method and of the space that this searches.
            by: What made its re-ranking.
            captioned: Whether captions were ranked in place of images.

        Returns:
            Its label, and the overlap in words.
        """
        used = [self.version(made.model, made.version, made.label) for made in weights]
        own = [] if weights else [claim_of_own_words(row.method, self.context.methods.get(row.method).label)]
        if by is not None and by.version is not None:
            used.append(self.version(self._model(by), by.version, by.label))
        elif by is not None:
            own.append(claim_of_own_words(by.reranker, by.label))
        against = [claim for claim in own if claim.strength > Strength.ZERO_SHOT]
        label = label_of_row([*(made.claim for made in used), *against])
        if captioned:
            label = CAPTION_PROXY if label == ZERO_SHOT else f"{CAPTION_PROXY}; {row.method}: {label}"
        return Learned(label, _in_words(used))

    def relabelled(self, note: ReportRecord) -> ReportRecord:
        """A record whose registered versions have the labels that were computed for this set.

        Args:
            note: What made the rankings, with the labels that versions were registered with.

        Returns:
            The record.
        """
        update: dict[str, object] = {}
        if note.rows:
            update["rows"] = [self._relabelled_row(made) for made in note.rows]
        for name in ("weights", "space_weights"):
            if (made := getattr(note, name)) is not None:
                update[name] = self._relabelled_weights(made)
        for name in ("weights_of", "space_weights_of"):
            if found := getattr(note, name):
                update[name] = {title: self._relabelled_weights(made) for title, made in found.items()}
        return note.model_copy(update=update)

    def _relabelled_row(self, made: RerankedRow) -> RerankedRow:
        if made.version is None:
            return made
        claim = self.version(self._model(made), made.version, made.label).claim
        return made.model_copy(update={"label": claim.words})

    def _relabelled_weights(self, made: WeightsRecord) -> WeightsRecord:
        claim = self.version(made.model, made.version, made.label).claim
        return made.model_copy(update={"label": claim.words})

    def _model(self, made: RerankedRow) -> str:
        return made.registered_model or self.context.settings.registry.model


def tag_overlaps(
    context: PipelineContext, key: str, versions: Iterable[UsedVersion], *, trial: bool = False
) -> None:
    """Tag registered versions with their overlap with an evaluation set. A label that was computed without it
    is computed anew: one that has seen something of a set is not called zero-shot any more.

    Args:
        context: The registry.
        key: The evaluation set.
        versions: The versions; those whose bundle does not say what they were trained on are left alone.
        trial: Whether only some of the set's queries were looked at: an overlap that is found is told where
            none was known, and nothing else is, as the other queries may be among what was trained on.
    """
    from setr_lib.registry.registered_model import LABEL_TAG

    for used in versions:
        if used.trained_on is None or used.overlap is None:
            continue
        model = context.registry.model(used.model)
        with context.registry.locked(f"{used.model}.overlap"):
            known = model.version(used.version).tags
            overlapping = {*known.get(OVERLAPPING_TAG, _NOTHING).split(", ")} - {_NOTHING}
            if trial and (used.overlap.is_empty or key in overlapping):
                continue
            overlapping = overlapping - {key} if used.overlap.is_empty else overlapping | {key}
            tags = {f"{OVERLAP_TAG}{key}": used.overlap.words}
            if overlapping or OVERLAPPING_TAG in known:
                tags[OVERLAPPING_TAG] = ", ".join(sorted(overlapping)) or _NOTHING
                tags[LABEL_TAG] = label_of_version(used.trained_on, sorted(overlapping))
            for name, value in tags.items():
                if known.get(name) != value:
                    context.registry.client.set_model_version_tag(used.model, used.version, name, value)


def tag_known_overlaps(context: PipelineContext, model: str, version: str) -> None:
    """Tag a registered version with its overlap with every configured evaluation set that was read before.

    Args:
        context: Settings, tables and the registry.
        model: The registered model.
        version: Its version.
    """
    from setr_lib.datasets import evaluation_sets

    if trained_on_of(context, model, version) is None:
        return
    for evaluated in evaluation_sets(context.settings):
        learned = _of_set_read_before(context, evaluated)
        if learned is not None:
            record = context.tables.read_record("queries", QueriesRecord, evaluated.key)
            used = learned.version(model, version, "")
            tag_overlaps(context, evaluated.key, [used], trial=record.kept < record.of)


def _of_set_read_before(context: PipelineContext, evaluated: EvaluationSet) -> LearnedFrom | None:
    """None where the set's tables are not there, or cannot be read: its evaluation will say what is wrong."""
    from setr_lib.tables import GALLERY, QUERIES

    tables, key = context.tables, evaluated.key
    try:
        queries, gallery = tables.read("queries", QUERIES, key), tables.read("gallery_images", GALLERY, key)
    except SetrError:
        return None
    return LearnedFrom(context, evaluated, queries, gallery)


def learned_lines(learned: Mapping[Row, Learned]) -> list[tuple[str, str, str]]:
    """The rows whose weights were trained here, for people.

    Args:
        learned: What each row has learned from.

    Returns:
        Title, label and overlap of each.
    """
    return [
        (row.title, found.label, found.overlap) for row, found in learned.items() if found.overlap is not None
    ]


def trained_on_of(context: PipelineContext, model: str, version: str) -> TrainedOn | None:
    """What a registered version was trained on.

    Args:
        context: The registry.
        model: The registered model.
        version: Its version.

    Returns:
        Images and triplets; None where its bundle does not say (those of earlier versions of SETR), and where
        it was deleted since.

    Raises:
        TrainedOnError: Its bundle is damaged.
    """
    from setr_lib.registry.errors import RegistryError
    from setr_lib.training.trained_on import SOURCE_TAG, TRAINED_ON, TrainedOn

    try:
        registered = context.registry.model(model)
        if SOURCE_TAG not in registered.version(version).tags:
            return None
        folder = registered.artifacts(version, [TRAINED_ON])[TRAINED_ON]
    except RegistryError:
        return None
    return TrainedOn.read(folder)


def _in_words(used: Sequence[UsedVersion]) -> str | None:
    words = {made.claim.who: made.words for made in used}
    if len(words) < 2:
        return next(iter(words.values()), None)
    return "; ".join(f"{who}: {found}" for who, found in words.items())
