"""How good a judge is on held-out pairs: AUC and accuracy, overall and per kind of negative.

Pairs are a ``tables.PAIRS`` frame; scores are the judge's logit differences d, one per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from setr_lib.errors import SetrError
from setr_lib.models.multimodal import Picture
from setr_lib.pixels import picture_files
from setr_lib.progress import Progress, silent
from setr_lib.reranking.checked_scores import checked_scores
from setr_lib.reranking.scorer import JudgedQuery, batches_of_queries
from setr_lib.reranking.yes_no_judge import YesNoJudge


class HeldOutError(SetrError):
    """Pairs cannot be judged or measured; the message names the image or the split at fault."""


@dataclass(frozen=True)
class HeldOutReport:
    """Measures of one judge on one set of pairs; all between 0 and 1.

    ``auc`` is the chance that a random positive scores above a random negative (ties count half);
    ``accuracy`` the mean of the shares of positives with d > 0 and of negatives with d <= 0, so 0.5 is chance
    for any class balance. ``auc_by_kind`` sets the positives against one kind of negative;
    ``accuracy_by_kind`` has that kind's own share.
    """

    auc: float
    accuracy: float
    positives: int
    negatives: int
    auc_by_kind: dict[str, float] = field(default_factory=dict)
    accuracy_by_kind: dict[str, float] = field(default_factory=dict)

    def as_metrics(self, prefix: str) -> dict[str, float]:
        """The measures under flat names, for a metric store.

        Args:
            prefix: What the names begin with.

        Returns:
            ``{prefix}_auc``, ``{prefix}_auc_coarse_negative``, ...
        """
        return {
            f"{prefix}_auc": self.auc,
            f"{prefix}_accuracy": self.accuracy,
            **{f"{prefix}_auc_{kind}": value for kind, value in self.auc_by_kind.items()},
            **{f"{prefix}_accuracy_{kind}": value for kind, value in self.accuracy_by_kind.items()},
        }

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def pictures_of(images: pl.DataFrame) -> dict[str, Picture]:
    """The readable images of a table.

    Args:
        images: A ``GALLERY`` or ``TRAINING_IMAGES`` frame.

    Returns:
        Picture by ``image_id``.
    """
    from pathlib import Path

    readable = images.filter(pl.col("status") == "ok")
    return {
        image: Picture(file.fingerprint or "", Path(file.path), file.pixels)
        for image, file in picture_files(readable).items()
    }


def judge_pair_frame(
    judge: YesNoJudge,
    pairs: pl.DataFrame,
    pictures: Mapping[str, Picture],
    *,
    progress: Progress = silent,
    what: str = "held-out pairs judged",
) -> NDArray[np.float32]:
    """Score pairs with the Yes/No judge.

    Args:
        judge: The judge.
        pairs: ``reference_id``, ``modification`` and ``candidate_id``.
        pictures: The images by id.
        progress: Told how many pairs are judged.
        what: What progress calls them.

    Returns:
        ``float32[pairs]``: logit(Yes) - logit(No) of each row, in order; NaN where an image cannot be read
        or the model's processor refuses it.

    Raises:
        HeldOutError: A pair names an image that ``pictures`` lacks.
    """
    require_pictures(pairs, pictures)
    rows: dict[tuple[str, str], list[int]] = {}
    columns = pairs.select("reference_id", "modification", "candidate_id").rows()
    for index, (reference, text, _) in enumerate(columns):
        rows.setdefault((reference, text), []).append(index)
    queries = [
        JudgedQuery(pictures[reference], text, tuple(pictures[columns[index][2]] for index in indices))
        for (reference, text), indices in rows.items()
    ]
    order = [index for indices in rows.values() for index in indices]
    judge.vision.precompute(
        [picture for query in queries for picture in (query.reference, *query.candidates)], progress
    )
    made: list[NDArray[np.float32]] = []
    done = 0
    for batch in batches_of_queries(queries, judge.model.pair_batch_size):
        made += checked_scores(judge, batch)
        done += sum(len(query.candidates) for query in batch)
        progress(done, pairs.height, what)
    scores = np.empty(pairs.height, dtype=np.float32)
    if order:
        scores[order] = np.concatenate(made)
    return scores


def require_pictures(pairs: pl.DataFrame, pictures: Mapping[str, Picture]) -> None:
    """Refuse pairs whose images are not all there.

    Args:
        pairs: ``reference_id`` and ``candidate_id``.
        pictures: The images by id.

    Raises:
        HeldOutError: Some are missing; the message names the first.
    """
    named = set(pairs["reference_id"]) | set(pairs["candidate_id"])
    missing = sorted(named - set(pictures))
    if missing:
        raise HeldOutError(
            f"{len(missing)} images of the pairs are missing or unreadable (first: {missing[:3]}); "
            "materialize training_images and then reranker_pairs again"
        )


def measure(pairs: pl.DataFrame, scores: NDArray[np.floating]) -> HeldOutReport:
    """The held-out measures of scores.

    Args:
        pairs: A PAIRS frame.
        scores: ``float[pairs]``: logit(Yes) - logit(No), one per row; a pair without one (NaN: an image that
            cannot be judged) is left out.

    Returns:
        AUC and accuracy, overall and per kind of negative.

    Raises:
        HeldOutError: The pairs have only one label.
    """
    judged = ~np.isnan(scores)
    pairs, scores = pairs.filter(pl.Series(judged)), scores[judged]
    labels = pairs["label"].to_numpy().astype(bool)
    if labels.all() or not labels.any():
        raise HeldOutError(f"{len(labels)} pairs with only one label: nothing can be measured on them")
    kinds = pairs["kind"].to_numpy()
    positive, negative = scores[labels], scores[~labels]
    present = [str(kind) for kind in dict.fromkeys(kinds[~labels])]
    shares = (float((positive > 0).mean()), float((negative <= 0).mean()))
    return HeldOutReport(
        auc=area_under_curve(positive, negative),
        accuracy=sum(shares) / 2,
        positives=int(labels.sum()),
        negatives=int((~labels).sum()),
        auc_by_kind={kind: area_under_curve(positive, scores[kinds == kind]) for kind in present},
        accuracy_by_kind={
            "positive": shares[0],
            **{kind: float((scores[kinds == kind] <= 0).mean()) for kind in present},
        },
    )


def area_under_curve(positive: NDArray[np.floating], negative: NDArray[np.floating]) -> float:
    """Share of (positive, negative) pairs in the right order, ties counting half (Mann-Whitney U / n m).

    Args:
        positive: ``float[n]``, scores of positives.
        negative: ``float[m]``, scores of negatives.

    Returns:
        Between 0 and 1.
    """
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    return float((below + up_to).sum() / (2 * len(positive) * len(negative)))
