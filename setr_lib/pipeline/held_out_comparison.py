"""Two versions of a trained retrieval system on the same held-out triplets, triplet by triplet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from setr_lib.registry.measure import MeasuredAgain
from setr_lib.registry.system_model import RECALL
from setr_lib.systems.held_out import DEPTH, recall

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from setr_lib.systems.data import SystemData
    from setr_lib.training.trained_on import TrainedOn

_KEY = ["reference_id", "modification", "target_id"]


def paired_in_words(mine: pl.DataFrame, champion: pl.DataFrame) -> str:
    """The paired difference in R@10 on the triplets that both were ranked on.

    Args:
        mine: A version's held-out triplets with their ``rank``, among the same images as the champion's.
        champion: The champion's.

    Returns:
        The end of a sentence: the difference with its 95 % interval; empty where no triplet is common.
    """
    import polars as pl

    from setr_lib.evaluation.intervals import paired_difference

    both = _both(mine, champion)
    if both.is_empty():
        return ""
    queries = both.select(
        pl.concat_str(_KEY, separator="\n").alias("query_id"),
        pl.lit("").alias("stratum"),
        pl.lit(RECALL.name).alias("metric"),
    )
    first, second = (
        queries.with_columns(value=(both[column] <= DEPTH).cast(pl.Float64()))
        for column in ("rank", "rank_champion")
    )
    found = paired_difference(first, second, RECALL.name)
    if found.has_no_width and not found.difference:
        return f"; paired on {both.height:,} triplets: no difference was seen"
    return (
        f"; paired on {both.height:,} triplets: {100 * found.difference:+.1f} points "
        f"({100 * found.low:+.1f} to {100 * found.high:+.1f}, 95 % interval)"
    )


def compared_again(
    data: SystemData,
    ranks: NDArray[np.int64],
    mine: pl.DataFrame,
    learned: TrainedOn | None,
    before: pl.DataFrame,
) -> float | MeasuredAgain:
    """A champion and a version that would follow it, on the held-out triplets of today.

    What is held out today was chosen anew, and the champion may have been trained on it. Triplets that show
    an image which it was trained on would be easier for it, and are left out for both.

    Args:
        data: The triplets and images of today.
        ranks: The champion's rank of each held-out target, in the order of ``data.held_out``.
        mine: The version's held-out triplets with their ``rank``.
        learned: What the champion was trained on, its held-out triplets' images included; None where that is
            not recorded.
        before: The champion's own held-out triplets.

    Returns:
        The champion's R@10 in percent, and the version's where triplets are left out; the former alone where
        the version was not ranked on all of today's triplets.
    """
    import polars as pl

    champion = data.held_out.with_columns(rank=pl.Series(ranks, dtype=pl.Int64()))
    both = _both(mine, champion)
    if both.height < champion.unique(_KEY).height:
        return recall(ranks)
    fair = _without_learned(champion, data, learned, before)
    if fair.is_empty():
        words = "was trained on images of every held-out triplet of today: the two cannot be compared"
        return MeasuredAgain(None, words=words)
    if fair.height == champion.height:
        return MeasuredAgain(recall(ranks), words=paired_in_words(mine, champion))
    both = _both(mine, fair)
    left_out = champion.height - fair.height
    return MeasuredAgain(
        recall(both["rank_champion"].to_numpy()),
        recall(both["rank"].to_numpy()),
        f", less {left_out:,} of {champion.height:,} triplets with images that it was trained on"
        f"{paired_in_words(mine, fair)}",
    )


def _both(mine: pl.DataFrame, champion: pl.DataFrame) -> pl.DataFrame:
    """The triplets that both were ranked on, each once: ``rank`` and ``rank_champion``."""
    theirs = champion.select(*_KEY, "rank").unique(_KEY)
    return mine.unique(_KEY).join(theirs, on=_KEY, suffix="_champion").sort(_KEY)


def _without_learned(
    held_out: pl.DataFrame, data: SystemData, learned: TrainedOn | None, before: pl.DataFrame
) -> pl.DataFrame:
    """The held-out triplets whose images, by the bytes of their files, a champion was not trained on."""
    from setr_lib.systems.data import without_images

    if learned is None:
        return held_out
    named = [*before["reference_id"], *before["target_id"]]  # by which it was chosen, and not trained
    seen: Sequence[str] = without_images(learned.images, named)["fingerprint"].drop_nulls().to_list()
    images = data.images.filter(data.images["fingerprint"].is_in(seen))
    return without_images(held_out, images["image_id"].to_list())
