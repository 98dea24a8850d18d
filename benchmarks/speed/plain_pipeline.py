"""The whole graph of `make demo` as a plain script: the same library calls in their order, without Dagster.

    python -m benchmarks.speed.plain_pipeline setr.toml

It prints how long each step took, as the demo does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

from setr_lib.benchmarks import headlines
from setr_lib.commands import env
from setr_lib.datasets import evaluation_sets
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.records import PromotedRecord
from setr_lib.settings import load_settings
from setr_lib.sources import sources_in_use


def main(arguments: Sequence[str]) -> int:
    """Run every step.

    Args:
        arguments: The settings file.

    Returns:
        The exit status.
    """
    settings = load_settings(Path(arguments[0]))
    env.apply(settings)
    for source in sources_in_use(settings):
        source.prepare(lambda done, total, what: None)
    context = pipeline_context(settings)
    keys = [each.key for each in evaluation_sets(settings) if not each.hidden]
    for name, work in steps(context, keys):
        begun = perf_counter()
        work()
        print(f"  done {name} ({perf_counter() - begun:.2f} s)", flush=True)
    return 0


def steps(context: PipelineContext, keys: Sequence[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """The steps by the names of the assets that do the same.

    Args:
        context: Settings, tables and models.
        keys: The evaluation sets.

    Yields:
        Name and function; each writes what it makes.
    """
    yield "queries and gallery_images", lambda: _read(context, keys)
    yield "training_images", lambda: _training_images(context)
    yield "training_embeddings", lambda: _training_embeddings(context)
    yield "reranker_pairs", lambda: _pairs(context)
    yield "adapter", lambda: _adapter(context)
    yield "reranking_fusion", lambda: _fusion(context)
    yield "gallery_embeddings and texts", lambda: _prepare(context, keys)
    yield "coarse_rankings", lambda: _rank(context, keys)
    yield "reranked_rankings", lambda: _rerank(context, keys)
    yield "evaluation_report", lambda: _report(context, keys)
    yield "leaderboard", lambda: _leaderboard(context)


def _read(context: PipelineContext, keys: Sequence[str]) -> None:
    from setr_lib.pipeline.evaluating import read_set

    for key in keys:
        read_set(context, key)


def _training_images(context: PipelineContext) -> None:
    from setr_lib.datasets import inspect_training_images, load_training_images, training_pixels
    from setr_lib.progress import silent
    from setr_lib.tables import TRAINING_IMAGES

    settings = context.settings
    images = inspect_training_images(load_training_images(settings), silent, training_pixels(settings))
    context.tables.write("training_images", images, TRAINING_IMAGES)


def _training_embeddings(context: PipelineContext) -> None:
    from setr_lib.pipeline.embedding import embed_training_images

    context.tables.write_record("training_embeddings", embed_training_images(context).record)


def _pairs(context: PipelineContext) -> None:
    from setr_lib.pipeline.training_pairs import make_pairs
    from setr_lib.tables import PAIRS

    made = make_pairs(context)
    context.tables.write("reranker_pairs", made.pairs, PAIRS, made_by=made.record)


def _adapter(context: PipelineContext) -> None:
    from setr_lib.pipeline.adapter_system import AdapterSystem
    from setr_lib.pipeline.training_steps import promote, register, train

    system = AdapterSystem(context)
    training = train(system)
    context.tables.write_record("reranker_adapter", training.record)
    done = register(system, training.record)
    assert done.version is not None, done.check
    context.tables.write_record("registered_reranker", done.record)
    promoted = promote(system, done.version)
    record = PromotedRecord(champion=promoted.champion, reason=promoted.reason)
    context.tables.write_record("promoted_reranker", record)


def _fusion(context: PipelineContext) -> None:
    from setr_lib.pipeline.fusion_calibration import calibrate
    from setr_lib.tables import FUSIONS

    context.tables.write("reranking_fusion", calibrate(context), FUSIONS)


def _prepare(context: PipelineContext, keys: Sequence[str]) -> None:
    from setr_lib.pipeline.evaluating import prepare

    for key in keys:
        prepare(context, key)


def _rank(context: PipelineContext, keys: Sequence[str]) -> None:
    from setr_lib.pipeline.retrieval import rank_set, store_rankings

    for key in keys:
        store_rankings(context, key, rank_set(context, key))


def _rerank(context: PipelineContext, keys: Sequence[str]) -> None:
    from setr_lib.pipeline.reranking_run import RerankingRun

    run = RerankingRun(context, {})
    for key in keys:
        run.rerank(key)


def _report(context: PipelineContext, keys: Sequence[str]) -> None:
    from setr_lib.pipeline.evaluation import assess
    from setr_lib.pipeline.learned import tag_overlaps
    from setr_lib.pipeline.report_page import write_page
    from setr_lib.tables import METRICS

    for key in keys:
        result = assess(context, key)
        write_page(context, key, result)
        context.tables.write("evaluation_report", result.rows, METRICS, key, made_by=result.note)
        tag_overlaps(context, key, result.versions)


def _leaderboard(context: PipelineContext) -> None:
    from setr_lib.commands.console import terminal
    from setr_lib.evaluation.leaderboard import leaderboard_table
    from setr_lib.pipeline.evaluation import latest_scores
    from setr_lib.tables import METRICS

    frame = latest_scores(context)
    context.tables.write("leaderboard", frame, METRICS)
    terminal().print(leaderboard_table(frame, headlines(context.settings)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
