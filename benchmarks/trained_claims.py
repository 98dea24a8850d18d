"""What the two papers claim of their trained systems, and whether the miniature shows it: paired differences,
query by query, over all worlds that have both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from benchmarks import trained_ablations as ablations
from benchmarks.comparison import Gap, gap_between, interval_of, value_of
from benchmarks.material import STAGE_1, STAGE_2, TITLES
from benchmarks.trained_results import ABLATION, JUDGED, Measured
from benchmarks.trained_results import STAGE_1 as ROWS
from setr_lib.pipeline.ablation import Ablation

METRICS = {ROWS: STAGE_1, ABLATION: STAGE_1, JUDGED: STAGE_2}
"""By kind of row, the metric of each data set."""


@dataclass(frozen=True)
class Key:
    """A row by kind and name."""

    kind: str
    name: str


def row(name: str) -> Key:
    """A method's row.

    Args:
        name: The method.

    Returns:
        Its key.
    """
    return Key(ROWS, name)


def ablation(which: Ablation) -> Key:
    """An ablation's row.

    Args:
        which: The ablation.

    Returns:
        Its key.
    """
    return Key(ABLATION, which.name)


@dataclass(frozen=True)
class Claim:
    """``better`` is above ``worse``.

    Attributes:
        name: For observations.
        words: What is claimed.
        better: The row that should be above.
        worse: The other one.
    """

    name: str
    words: str
    better: Key
    worse: Key


COMPOSING, MAPPING = row("composing"), row("mapping")
PAPER_3 = (
    Claim("mapping", "`mapping` over `pic2word`", MAPPING, row("pic2word")),
    Claim("composing", "`composing` over `mapping`", COMPOSING, MAPPING),
    Claim("injection I", "visual injection, stage I", MAPPING, ablation(ablations.NO_INJECTION)),
    Claim(
        "injection II", "visual injection, stage II", COMPOSING, ablation(ablations.COMPOSING_NO_INJECTION)
    ),
    Claim("soft I", "soft over one-hot alignment, stage I", MAPPING, ablation(ablations.ONE_HOT)),
    Claim(
        "soft II", "soft over one-hot alignment, stage II", COMPOSING, ablation(ablations.COMPOSING_ONE_HOT)
    ),
    Claim("adapters", "adapters over LoRA", COMPOSING, ablation(ablations.LORA)),
    Claim(
        "hard negatives",
        "hard negatives over the batch's other targets",
        COMPOSING,
        ablation(ablations.NO_HARD),
    ),
    *(
        Claim(
            f"{count} triplets",
            f"{count:,} synthetic triplets suffice to pass `mapping`",
            ablation(one),
            MAPPING,
        )
        for count, one in ablations.FEWER.items()
    ),
    Claim(
        "noise",
        f"with {ablations.NOISE:.0%} of the texts shuffled, `composing` still passes `mapping`",
        ablation(ablations.SHUFFLED),
        MAPPING,
    ),
    Claim("clean", "clean over shuffled texts", COMPOSING, ablation(ablations.SHUFFLED)),
)
MENDED = row("retrieval_dpo_fused")
PAPER_2 = (
    Claim("qformer", "`qformer` over the zero-shot sum of separate encoders", row("qformer"), row("sum")),
    Claim(
        "qformer on CIRR",
        "`qformer` on CIRR's triplets over the sum",
        ablation(ablations.OTHER_TRIPLETS),
        row("sum"),
    ),
    Claim("dpo", "`retrieval_dpo` below `text`", row("text"), row("retrieval_dpo")),
    *(
        Claim(f"{switch} alone", f"`{switch}` mended alone", ablation(one), ablation(ablations.NONE_MENDED))
        for switch, one in ablations.ONE_MENDED.items()
    ),
    Claim("mended", "all four mended", MENDED, ablation(ablations.NONE_MENDED)),
    Claim("mended over sum", "all four mended, over `sum`", MENDED, row("sum")),
)


class Study:
    """The measured rows of all worlds.

    Args:
        worlds: By seed: the rows by key. The first is the finished demo's.
        samples: Draws of the bootstrap.
        seed: Of the draws.
    """

    def __init__(self, worlds: Mapping[int, Mapping[Key, Measured]], samples: int, seed: int) -> None:
        self.worlds, self.samples, self.seed = worlds, samples, seed

    @property
    def own(self) -> Mapping[Key, Measured]:
        """The rows of the finished demo's world."""
        return next(iter(self.worlds.values()))

    def of(self, key: Key) -> Measured | None:
        """A row of the finished demo's world.

        Args:
            key: The row.

        Returns:
            The row; None where it is not measured.
        """
        return self.own.get(key)

    def words(self, key: Key, dataset: str, metric: str | None = None) -> str:
        """A row's value with its interval, over all worlds that have it.

        Args:
            key: The row.
            dataset: The kind of data set.
            metric: The metric; by default that of :data:`METRICS`.

        Returns:
            ``38.0 (33–44)``; a dash where it is not measured.
        """
        frame = self._pooled(key, dataset, self._with(key), metric)
        if frame.is_empty():
            return "–"
        interval = interval_of(frame, self.samples, self.seed)
        return f"{value_of(frame):.1f} ({interval.low:.0f}–{interval.high:.0f})"

    def gap(self, better: Key, worse: Key, dataset: str) -> Gap | None:
        """The paired difference of two rows.

        Args:
            better: The first row.
            worse: What is subtracted.
            dataset: The kind of data set.

        Returns:
            In points, with its interval; None where no world has both.
        """
        seeds = [seed for seed in self._with(better) if seed in self._with(worse)]
        first, second = (self._pooled(key, dataset, seeds) for key in (better, worse))
        if first.is_empty() or second.is_empty():
            return None
        return gap_between(first, second, worse.name, self.samples, self.seed)

    def gaps(self, better: Key, worse: Key) -> dict[str, Gap]:
        """The paired differences on every data set.

        Args:
            better: The first row.
            worse: What is subtracted.

        Returns:
            By kind of data set, those that can be computed.
        """
        found = {dataset: self.gap(better, worse, dataset) for dataset in TITLES}
        return {dataset: gap for dataset, gap in found.items() if gap is not None}

    def seeds(self, *keys: Key) -> list[int]:
        """The worlds that have all of some rows.

        Args:
            keys: The rows.

        Returns:
            Their seeds.
        """
        return [seed for seed in self.worlds if all(seed in self._with(key) for key in keys)]

    def _with(self, key: Key) -> list[int]:
        return [seed for seed, rows in self.worlds.items() if key in rows]

    def _pooled(
        self, key: Key, dataset: str, seeds: Sequence[int], metric: str | None = None
    ) -> pl.DataFrame:
        """The per-query values of a row in several worlds: each query once for each world."""
        metric = metric or METRICS[key.kind][dataset]
        frames = [
            self.worlds[seed][key]
            .per_query.filter(dataset=dataset, metric=metric)
            .drop("dataset")
            .with_columns(query_id=pl.format("{}/{}", pl.lit(seed), pl.col("query_id").cast(pl.String)))
            for seed in seeds
        ]
        return pl.concat(frames) if frames else pl.DataFrame()


def gap_words(gap: Gap | None) -> str:
    """A paired difference in words.

    Args:
        gap: In points.

    Returns:
        ``+3.4 (1.2 to 5.6)``; a dash where there is none.
    """
    return "–" if gap is None else f"{gap.value:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})"


def verdict(gaps: Mapping[str, Gap]) -> str:
    """Whether a claim shows, by the 95 % intervals of its paired differences.

    Args:
        gaps: By kind of data set.

    Returns:
        ``shows``, ``shows on ...``, or ``does not show``, and where it is the other way round.
    """
    if not gaps:
        return "not measured"
    above = [TITLES[name] for name, gap in gaps.items() if gap.low > 0]
    below = [TITLES[name] for name, gap in gaps.items() if gap.high < 0]
    reverse = f"; the other way round on {', '.join(below)}" if below else ""
    if len(above) == len(gaps):
        return "**shows**"
    if above:
        return f"**shows** on {', '.join(above)} only{reverse}"
    return f"**does not show**{reverse}"
