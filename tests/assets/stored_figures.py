"""What `make demo` gives on the committed world (seed 0), stored, and the comparison of a finished demo with
it.

As a program: ``python tests/assets/stored_figures.py compare var`` prints every difference; ``... store var``
writes the stored tables anew, which is right only for a change of figures that is meant, with its cause in
CHANGELOG.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

STORED = Path(__file__).parent / "figures"
METRICS_TOLERANCE = 1e-9
"""Of metrics in percent and of their intervals."""
SCORE_TOLERANCE = 1e-5
"""Of the judge's logit differences."""
_QUERIES_WITH_SCORES = 40
"""Queries of each re-ranked table, the first ones, whose judge scores are stored."""
_KEY = ["dataset", "split", "method", "reranker", "metric"]
_RERANKED_METHOD = "/intersection--"
"""What a re-ranked table's file is called by before its re-ranker; the stored figures leave it out."""
_LIST = ["query_id", "pool", "rank", "image_id"]


def leaderboard(storage: Path) -> pl.DataFrame:
    """The leaderboard of the demo whose storage root is ``storage``, sorted by its key columns.

    Args:
        storage: The folder that ``[storage] root`` names.

    Returns:
        The columns of ``_KEY``, ``value``, ``ci_low`` and ``ci_high`` (percent), ``n_queries``.
    """
    frame = pl.read_parquet(storage / "tables" / "leaderboard.parquet")
    return frame.select(*_KEY, "value", "ci_low", "ci_high", "n_queries").sort(_KEY)


def rankings(storage: Path) -> pl.DataFrame:
    """Every ranking table of a demo by a digest of its ids and ranks.

    Args:
        storage: The folder that ``[storage] root`` names.

    Returns:
        ``table`` (path below the tables' folder, without ending), ``rows`` and ``digest``, sorted by table.
    """
    rows = [
        (name, frame.height, _digest(frame.select(_LIST).sort("query_id", "pool", "rank")))
        for name, frame in _ranking_tables(storage)
    ]
    return pl.DataFrame(rows, schema=["table", "rows", "digest"], orient="row")


def judge_scores(storage: Path) -> pl.DataFrame:
    """The judge's scores of the first queries of every re-ranked table.

    Args:
        storage: The folder that ``[storage] root`` names.

    Returns:
        ``table``, ``query_id``, ``pool``, ``image_id`` and ``judge_score`` (logit Yes minus logit No,
        float32).
    """
    parts = [
        frame.filter(pl.col("judge_score").is_not_null())
        .filter(
            pl.col("query_id").is_in(
                frame["query_id"].unique(maintain_order=True).head(_QUERIES_WITH_SCORES).implode()
            )
        )
        .select(
            pl.lit(name).alias("table"),
            "query_id",
            "pool",
            "image_id",
            pl.col("judge_score").cast(pl.Float32),
        )
        for name, frame in _ranking_tables(storage)
        if name.startswith("reranked_rankings/")
    ]
    return pl.concat(parts).sort("table", "query_id", "pool", "image_id")


def differences(storage: Path) -> list[str]:
    """How the demo in ``storage`` differs from the stored one, a sentence each; empty where it does not.

    Args:
        storage: The folder that ``[storage] root`` names.

    Returns:
        Differences of metrics (beyond ``METRICS_TOLERANCE``), of ids and ranks (any), of judge scores (beyond
        ``SCORE_TOLERANCE``).
    """
    return [
        *_metric_differences(pl.read_parquet(STORED / "leaderboard.parquet"), leaderboard(storage)),
        *_ranking_differences(pl.read_parquet(STORED / "rankings.parquet"), rankings(storage)),
        *_score_differences(pl.read_parquet(STORED / "judge_scores.parquet"), judge_scores(storage)),
    ]


def vectors(storage: Path) -> pl.DataFrame:
    """The digests of the galleries' vectors: they tell processors apart that round otherwise.

    Args:
        storage: The folder that ``[storage] root`` names.

    Returns:
        ``evaluation_set`` and ``content``, sorted.
    """
    records = sorted((storage / "tables" / "gallery_embeddings").glob("*.json"))
    rows = [(path.stem, json.loads(path.read_bytes())["content"]) for path in records]
    return pl.DataFrame(rows, schema=["evaluation_set", "content"], orient="row")


def is_of_another_processor(storage: Path) -> bool:
    """Whether the vectors of a demo have other last digits than the stored ones: near ties are then ordered
    otherwise, and figures of the same code differ. Compare with a demo of the earlier tree on the same
    machine.

    Args:
        storage: The folder that ``[storage] root`` names.

    Returns:
        Whether they have.
    """
    return not vectors(storage).equals(pl.read_parquet(STORED / "vectors.parquet"))


def store(storage: Path) -> None:
    """Write the figures of the demo in ``storage`` as the stored ones."""
    STORED.mkdir(exist_ok=True)
    for name, frame in (
        ("leaderboard", leaderboard(storage)),
        ("rankings", rankings(storage)),
        ("judge_scores", judge_scores(storage)),
        ("vectors", vectors(storage)),
    ):
        frame.write_parquet(STORED / f"{name}.parquet", compression="zstd", compression_level=19)


def _ranking_tables(storage: Path) -> list[tuple[str, pl.DataFrame]]:
    root = storage / "tables"
    paths = sorted([*root.glob("coarse_rankings/*/*.parquet"), *root.glob("reranked_rankings/*/*.parquet")])
    names = [str(path.relative_to(root).with_suffix("")).replace(_RERANKED_METHOD, "/") for path in paths]
    return [(name, pl.read_parquet(path)) for name, path in zip(names, paths, strict=True)]


def _digest(frame: pl.DataFrame) -> str:
    from setr_lib.hashing import digest_strings

    return digest_strings("\t".join(map(str, row)) for row in frame.iter_rows())


def _metric_differences(stored: pl.DataFrame, now: pl.DataFrame) -> list[str]:
    found = [f"no row any more: {row}" for row in stored.join(now, on=_KEY, how="anti").select(_KEY).rows()]
    found += [f"a new row: {row}" for row in now.join(stored, on=_KEY, how="anti").select(_KEY).rows()]
    both = stored.join(now, on=_KEY, suffix="_now")
    for column in ("value", "ci_low", "ci_high", "n_queries"):
        far = (pl.col(column) - pl.col(f"{column}_now")).abs() > METRICS_TOLERANCE
        one_lacks = pl.col(column).is_null() != pl.col(f"{column}_now").is_null()
        apart = both.filter(far.fill_null(False) | one_lacks)
        found += [
            f"{column} of {row[:-2]}: {row[-2]} stored, {row[-1]} now"
            for row in apart.select(*_KEY, column, f"{column}_now").rows()
        ]
    return found


def _ranking_differences(stored: pl.DataFrame, now: pl.DataFrame) -> list[str]:
    both = stored.join(now, on="table", how="full", suffix="_now", coalesce=True)
    return [
        f"ids or ranks of {row['table']} differ ({row['rows']} rows stored, {row['rows_now']} now)"
        for row in both.iter_rows(named=True)
        if row["digest"] != row["digest_now"]
    ]


def _score_differences(stored: pl.DataFrame, now: pl.DataFrame) -> list[str]:
    key = ["table", "query_id", "pool", "image_id"]
    both = stored.join(now, on=key, how="full", suffix="_now", coalesce=True)
    gap = (pl.col("judge_score") - pl.col("judge_score_now")).abs()
    apart = both.filter(gap.is_null() | (gap > SCORE_TOLERANCE))
    if apart.is_empty():
        return []
    largest = apart.select(gap.max()).item()
    return [
        f"{apart.height} of {both.height} judge scores differ, the largest difference is {largest}, "
        f"the first is of {apart.row(0)[:4]}"
    ]


def main(arguments: list[str]) -> int:
    """Compare or store; the exit status is 0 when nothing differs."""
    action, storage = arguments[0], Path(arguments[1])
    if action == "store":
        store(storage)
        return 0
    found = differences(storage)
    if found and is_of_another_processor(storage):
        print(
            "the vectors' last digits are not the stored ones, those of another processor; this may be why:"
        )
    print("\n".join(found) or "the same figures")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
