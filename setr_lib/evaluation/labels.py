"""Labels: what a row says that its weights have learned from, computed from what they were trained on and its
overlap with the evaluation set.

Zero-shot composed image retrieval is retrieval without triplets that people annotated, and without the
evaluation set's images. A row is called ``zero-shot`` where no part of it says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from setr_lib.methods.method import TRAINING_FREE, ZERO_SHOT_TRAINED
from setr_lib.reranking.reranker import ZERO_SHOT

if TYPE_CHECKING:
    from setr_lib.evaluation.overlap import Overlap
    from setr_lib.training.trained_on import TrainedOn

UNKNOWN = "overlap unknown"
"""Of a version whose bundle does not say what it was trained on."""
NOT_RECORDED = "not recorded what it was trained on"
"""The label of such a version, where no evaluation set is in question."""
_ZERO_SHOT_WORDS = ("", ZERO_SHOT, TRAINING_FREE, ZERO_SHOT_TRAINED)
"""What re-rankers and methods say of themselves where they take nothing from a row's ``zero-shot``."""


class Strength(IntEnum):
    """How much a claim says against ``zero-shot``; the strongest claim of a row comes first."""

    ZERO_SHOT = 0
    UNKNOWN = 1
    TRAINED = 2
    OVERLAP = 3
    SUPERVISED = 4


@dataclass(frozen=True)
class Claim:
    """What one part of a row has learned from.

    Attributes:
        words: As the label says it.
        strength: How much it says against ``zero-shot``.
        who: The part: ``setr-reranker v3``, or the name of a method or re-ranker.
    """

    words: str
    strength: Strength
    who: str


def claim_of_version(
    who: str,
    trained_on: TrainedOn | None,
    overlap: Overlap | None = None,
    benchmark: str = "",
    registered_as: str = "",
) -> Claim:
    """What a registered version has learned from, as rows of an evaluation set say it.

    Args:
        who: Registered model and version.
        trained_on: What it was trained on; None where its bundle does not say.
        overlap: Of that with the evaluation set; None where no set is in question.
        benchmark: The kind of the evaluation set's benchmark.
        registered_as: The label that it was registered with, for one whose bundle does not say.

    Returns:
        The claim.
    """
    if trained_on is None:
        words = ", ".join(part for part in (registered_as, UNKNOWN) if part)
        return Claim(words, Strength.UNKNOWN, who)
    found: list[tuple[Strength, str]] = []
    kind, own = trained_on.triplet_kind, benchmark in trained_on.benchmarks
    if kind == "file" or (kind == "benchmark" and (own or not benchmark)):
        found.append((Strength.SUPERVISED, f"supervised by {trained_on.source}"))
    elif kind == "benchmark" or (kind == "synthesised" and own):
        found.append((Strength.TRAINED, f"trained on {trained_on.source}"))
    if overlap is not None and not overlap.is_empty:
        found.append((Strength.OVERLAP, f"trained on {_seen(overlap)}"))
    if not found:
        return Claim(ZERO_SHOT, Strength.ZERO_SHOT, who)
    return Claim(", ".join(words for _, words in found), max(strength for strength, _ in found), who)


def claim_of_own_words(who: str, words: str) -> Claim:
    """What a method or re-ranker without weights of a trained system says of itself.

    Args:
        who: Its name.
        words: Its label: ``training-free``, ``trained elsewhere, ...``.

    Returns:
        The claim.
    """
    is_zero_shot = words in _ZERO_SHOT_WORDS
    strength = Strength.ZERO_SHOT if is_zero_shot else Strength.TRAINED
    return Claim(ZERO_SHOT if is_zero_shot else words, strength, who)


def label_of_row(claims: Iterable[Claim]) -> str:
    """The label of a row: the strongest claim first, then the others that stand against zero-shot.

    Args:
        claims: Of its method, of the space that this searches, and of its re-ranker.

    Returns:
        ``zero-shot``, or the claims' words; each with its part's name where the row has several parts.
    """
    every = list(dict.fromkeys(claims))
    against = sorted(
        (claim for claim in every if claim.strength > Strength.ZERO_SHOT), key=lambda claim: -claim.strength
    )
    if not against:
        return ZERO_SHOT
    if len(every) == 1:
        return against[0].words
    return ", ".join(f"{claim.words} ({claim.who})" for claim in against)


def label_of_version(trained_on: TrainedOn | None, overlapping: Sequence[str] = ()) -> str:
    """The label of a registered version, where no evaluation set is in question.

    Args:
        trained_on: What it was trained on; None where that is not recorded.
        overlapping: The evaluation sets that it is known to overlap with, by key.

    Returns:
        ``zero-shot``, or what stands against it.
    """
    if trained_on is None:
        return NOT_RECORDED
    claim = claim_of_version("", trained_on)
    seen = f"trained on images or queries of {', '.join(overlapping)}" if overlapping else ""
    return ", ".join(part for part in ("" if seen and claim.strength == 0 else claim.words, seen) if part)


def _seen(overlap: Overlap) -> str:
    of_queries = f"{overlap.queries:,} of {overlap.of_queries:,} queries"
    parts: list[str] = []
    if overlap.images:
        behind = f" ({of_queries})" if overlap.queries else ""
        parts.append(f"{overlap.images:,} of the gallery's {overlap.of_images:,} images{behind}")
    elif overlap.queries:
        parts.append(f"images of {of_queries}")
    if overlap.triplets:
        parts.append(f"triplets of {overlap.triplets:,} of {overlap.of_queries:,} queries")
    return " and ".join(parts)
