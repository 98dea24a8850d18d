"""``setr submit``: a materialised ranking as the files that its benchmark's test server takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.console import talk
from setr_lib.commands.outputs import check_output_folder
from setr_lib.errors import SetrError
from setr_lib.evaluation.row import Row
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.pipeline.reranking import STAGE_1_ALONE
from setr_lib.records import RerankedRecord, RerankedRow
from setr_lib.settings import Settings
from setr_lib.typed import typed

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.datasets import EvaluationSet

COARSE = "coarse"
"""What ``--reranker`` calls the ranking of stage 1."""


@dataclass(frozen=True)
class Chosen:
    """A materialised ranking: ``table`` is the name of its table."""

    row: Row
    table: str
    version: str | None = None
    """The registered version of the re-ranker's weights."""

    @property
    def title(self) -> str:
        """How it is called on the leaderboard."""
        return self.row.title + (f" v{self.version}" if self.version else "")


def run(
    settings: Settings,
    *,
    dataset: str,
    split: str | None,
    reranker: str | None,
    method: str | None,
    output: Path | None,
) -> int:
    """Write the files of a submission, read them back, and say where they are and where to send them.

    Args:
        settings: The settings.
        dataset: The data set.
        split: Its split; by default the one that the server scores.
        reranker: Whose order; by default that of the last re-ranker.
        method: Whose candidates; by default those of the default method.
        output: The folder; by default one under the storage root.

    Returns:
        The exit status.

    Raises:
        SetrError: There is no such ranking, or its server would refuse it.
    """
    from setr_lib.benchmarks.loading import read_queries
    from setr_lib.evaluation.external import listed_gallery
    from setr_lib.evaluation.submissions import write_submission
    from setr_lib.tables import RANKINGS

    check_output_folder(output)
    context, submitted = pipeline_context(settings), submitted_set(settings, dataset, split)
    try:
        chosen = choose_ranking(context, submitted.key, reranker, method)
        rankings = context.tables.read(chosen.table, RANKINGS)
    except NotMadeYetError:
        _refuse_unnamed(settings, submitted)
        raise
    queries = read_queries(submitted)
    name = "-".join(
        re.sub(r"[^A-Za-z0-9_]+", "-", part) for part in (submitted.key, chosen.row.method, chosen.row.stage)
    )
    folder = output or settings.storage_root / "submissions"
    written = write_submission(submitted, queries, rankings, listed_gallery(submitted), folder, name)
    for note in [*written.notes, *_warnings(context, submitted, queries)]:
        talk(note)
    _print(submitted, chosen, queries.height, written.files)
    return 0


def submitted_set(settings: Settings, dataset: str, split: str | None) -> EvaluationSet:
    """The evaluation set to submit.

    Args:
        settings: The settings.
        dataset: The data set.
        split: Its split; by default the one that the data set's server scores.

    Returns:
        The evaluation set.

    Raises:
        SetrError: The data set has no server.
    """
    from setr_lib.benchmarks import benchmark_of
    from setr_lib.datasets import set_of_split
    from setr_lib.evaluation.submissions import server_of

    scored = ""
    if (known := settings.datasets.get(dataset)) is not None:
        benchmark = benchmark_of(known.kind, settings)
        server_of(benchmark, dataset)
        scored = benchmark.hidden_splits[0]
    return set_of_split(settings, dataset, split or scored)


def _refuse_unnamed(settings: Settings, submitted: EvaluationSet) -> None:
    """Refuse a split that the settings leave out, of which no run makes a ranking."""
    from setr_lib.datasets import evaluation_sets

    same = [each for each in evaluation_sets(settings) if each.dataset == submitted.dataset]
    if submitted.key not in [each.key for each in same]:
        splits = ", ".join(f'"{split}"' for split in (*(each.split for each in same), submitted.split))
        raise SetrError(
            f"{submitted.key} is not ranked: the settings leave this split out. Write splits = [{splits}] in "
            f"[datasets.{submitted.dataset}], then `{typed(f'run {submitted.key}')}`, then submit"
        )


def choose_ranking(context: PipelineContext, key: str, reranker: str | None, method: str | None) -> Chosen:
    """The best materialised ranking of set ``key``: that of the last re-ranker that is there, else stage 1's.

    Args:
        context: Settings and tables.
        key: The evaluation set.
        reranker: Whose order is wanted (``-`` for spaces, or ``package.module:NAME``), or one of
            ``STAGE_1_ALONE``.
        method: Whose candidates; the default method's (that of captions, where these stand in for the
            images) where these were re-ranked. One that was not re-ranked
            has its ranking of stage 1 only.

    Returns:
        The ranking.

    Raises:
        NotMadeYetError: It is not made yet; the message names the asset to materialise.
        SetrError: Method and re-ranker do not go together.
    """
    wanted = None if method is None else context.methods.get(method).name
    if reranker not in STAGE_1_ALONE:
        record = _reranked_record(context, key, required=reranker is not None)
        if record is not None and (made := _reranked(context, key, record, reranker, wanted)):
            row = Row(made.method, made.reranker)
            return Chosen(row, context.tables.reranked(key, row), made.version)
    name = wanted or _default_method(context, key)
    return Chosen(Row(name), context.tables.coarse(key, name))


def _default_method(context: PipelineContext, key: str) -> str:
    try:
        return context.methods.default(key).name
    except SetrError:  # nothing is known of its images yet, or settings leave the set out
        return context.methods.get(context.settings.coarse.default).name


def _reranked_record(context: PipelineContext, key: str, *, required: bool) -> RerankedRecord | None:
    try:
        return context.tables.read_record("reranked_rankings", RerankedRecord, key)
    except NotMadeYetError:
        if required:
            raise
        if context.tables.settings.table_path("coarse_rankings", key).with_suffix("").exists():
            talk(f"{key} is not re-ranked yet: its coarse ranking is taken")
        return None


def _reranked(
    context: PipelineContext, key: str, record: RerankedRecord, reranker: str | None, method: str | None
) -> RerankedRow | None:
    """The re-ranked row that is wanted; None where only the ranking of stage 1 can be."""
    there = list(dict.fromkeys(row.reranker for row in reversed(record.rows)))
    name = None if reranker is None else _own_name(context, reranker, there)
    if name is not None and name not in there:
        known = f"{', '.join([*there, COARSE])}{did_you_mean(name, [*there, COARSE])}"
        raise SetrError(f"{key} has no ranking by re-ranker {name!r}: it has {known}")
    fitting = [row for row in record.rows if name in (None, row.reranker)]
    if method is None:  # the default method's, where it has any
        fitting = [row for row in fitting if row.method == record.method] or fitting
    elif not (fitting := [row for row in fitting if row.method == method]) and name is not None:
        methods = ", ".join(repr(row.method) for row in record.rows if row.reranker == name)
        raise SetrError(
            f"{name!r} of {key} re-ranked the candidates of {methods}, not of {method!r}: name another "
            f"method, or use --reranker {COARSE}"
        )
    return fitting[-1] if fitting else None


def _own_name(context: PipelineContext, name: str, there: list[str]) -> str:
    """What the re-ranker that a person named calls itself."""
    if name in there:
        return name
    if ":" in name:
        return context.rerankers.get(name).name
    return name.replace("-", " ")


def _warnings(context: PipelineContext, submitted: EvaluationSet, queries: pl.DataFrame) -> list[str]:
    """Why the server may refuse the files, or its numbers may mislead."""
    from setr_lib.datasets import coverage
    from setr_lib.tables import GALLERY

    found = [
        f"not comparable with published numbers, say so where you tell the server's numbers: {caveat}"
        for caveat in submitted.benchmark.caveats(submitted)
    ]
    if not submitted.hidden:
        found.append(f"the server does not score {submitted.split!r}: score these files with `setr score`")
    elif submitted.official_queries not in (None, queries.height):
        found.append(
            f"{submitted.key} has {queries.height:,} queries, the official file "
            f"{submitted.official_queries:,}: the server will not take them"
        )
    try:
        share = coverage(context.tables.read("gallery_images", GALLERY, submitted.key))
        by_captions = context.is_caption_proxy(submitted.key)
    except NotMadeYetError:
        return found
    if by_captions:
        found.append("captions were ranked and no image was looked at: say so where you tell the numbers")
    elif share < 1:
        found.append(f"only {100 * share:.1f} % of the gallery's images could be ranked")
    return found


def _print(submitted: EvaluationSet, chosen: Chosen, queries: int, files: list[Path]) -> None:
    print(f"{submitted.key} · {chosen.title}: {queries:,} queries, valid")
    for file in files:
        print(f"  {file} ({file.stat().st_size:,} bytes)")
    if submitted.hidden:
        print(f"upload {'each' if len(files) > 1 else 'it'} at {submitted.benchmark.server}")
