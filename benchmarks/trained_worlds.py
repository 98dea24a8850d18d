"""The worlds of `make compare-trained`: the finished demo's, and further ones that are drawn here; their
trained systems, and the rows that these give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.trained_results import JUDGED, STAGE_1, Measured, Results
from setr_lib.errors import SetrError
from setr_lib.evaluation.metrics import evaluate as metrics_of
from setr_lib.evaluation.row import Row
from setr_lib.hashing import digest_json
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluating import evaluate
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.pipeline.retrieval_system import RetrievalSystem, known_system, system_options
from setr_lib.pipeline.trained_weights import CHAMPIONS
from setr_lib.systems.options import SYNTHESISED
from setr_lib.systems.recipe import RECIPES

if TYPE_CHECKING:
    from setr_lib.pipeline.evaluation import EvaluationResult
    from setr_lib.progress import Progress
    from setr_lib.settings import Settings

TABLES = "compare-trained"
"""The folder of the tables, below the storage root: the demo's own stay as they are."""
RESULTS = "compare-trained-results"
_WORLDS = "compare-trained-worlds"
_FORMAT = 1
_SAMPLE = 16
Told = Callable[[str], None]


def world_settings(settings: Settings, seed: int) -> Settings:
    """The settings of the same comparison on another world.

    Args:
        settings: Those of the finished demo's world.
        seed: Of the other world.

    Returns:
        Settings whose storage, MLflow store and drawn data are in a folder of their own; the same ones for
        the demo's seed.
    """
    if seed == settings.miniature.seed:
        return settings
    root = settings.storage_root / _WORLDS / f"seed-{seed}"

    def moved(path: Path | None) -> Path | None:
        if path is None:
            return None
        return root / "miniature" / settings.resolve(path).relative_to(settings.miniature_root)

    datasets = {
        name: one.model_copy(update={"root": moved(one.root), "train_root": moved(one.train_root)})
        for name, one in settings.datasets.items()
    }
    return settings.model_copy(
        update={
            "datasets": datasets,
            "training": settings.training.model_copy(
                update={"captions": moved(settings.training.captions)}  # pyright: ignore[reportArgumentType]
            ),
            "storage": settings.storage.model_copy(update={"root": root}),
            "miniature": settings.miniature.model_copy(update={"seed": seed}),
        }
    )


@dataclass(frozen=True)
class Trained:
    """A registered training of a system.

    Attributes:
        name: The system.
        model: The registered model.
        version: Its version.
        facts: Held-out R@10 before and after, minutes, parameters, what was done.
    """

    name: str
    model: str
    version: str
    facts: dict[str, Any]


class World:
    """One world: its data, its trained systems and what they give.

    Args:
        settings: Of this world.
        own: Whether the finished demo made its data; else it is drawn here.
        say: Told what is done.
        progress: Told how far it is.
    """

    def __init__(self, settings: Settings, own: bool, say: Told, progress: Progress) -> None:
        self.settings, self.own, self.say, self.progress = settings, own, say, progress
        self.context = PipelineContext(settings, tables=TABLES)
        self.results = Results(settings.storage_root / RESULTS)
        self.trained: dict[str, Trained] = {}

    @property
    def keys(self) -> list[str]:
        """The evaluation sets with targets."""
        from setr_lib.datasets import evaluation_sets

        return [one.key for one in evaluation_sets(self.settings) if not one.hidden]

    @property
    def systems(self) -> list[str]:
        """The systems that settings name; one that another builds on comes before it."""
        return [name for name in RECIPES if name in self.settings.systems]

    def prepare(self) -> None:
        """Have the world's images, training pairs and triplets made.

        Raises:
            SetrError: The demo is not finished.
        """
        from setr_lib.pipeline.system_data import make_triplets
        from setr_lib.sources import ensure_train_split

        self.check_demo()
        if not self.own:
            self._draw()
        for source in self.sources:
            if source != SYNTHESISED:
                ensure_train_split(self.settings, source, self.progress)
            data = make_triplets(self.context, source, self.progress)
            self.say(
                f"{source}: {data.triplets.height - data.held_out.height:,} training and "
                f"{data.held_out.height:,} held-out triplets"
            )

    def check_demo(self) -> None:
        """Refuse to begin where the demo whose world this is has not made what is trained on.

        Raises:
            SetrError: The demo is not finished.
        """
        if self.own and not self.context.tables.exists("reranker_pairs"):
            raise SetrError("there is no finished demo here: run `make demo` first")

    @property
    def sources(self) -> list[str]:
        """Where triplets come from: those of the systems, and of their ablations."""
        from benchmarks.trained_ablations import ABLATIONS

        found = [system_options(self.settings, name).triplets for name in self.systems]
        found += [one.options["triplets"] for one in ABLATIONS if self.own and "triplets" in one.options]
        return list(dict.fromkeys(found))

    def _draw(self) -> None:
        """Draw the world and make of its training images what the demo makes."""
        from setr_lib.datasets import inspect_training_images, load_training_images, training_pixels
        from setr_lib.pipeline.training_pairs import make_pairs
        from setr_lib.sources import sources_in_use
        from setr_lib.tables import PAIRS, TRAINING_IMAGES

        for source in sources_in_use(self.settings):
            source.prepare(self.progress)
        context = PipelineContext(self.settings, self.context.models)  # the usual tables, as of a demo
        tables = context.tables
        if tables.exists("reranker_pairs"):
            return
        images = inspect_training_images(
            load_training_images(self.settings), self.progress, training_pixels(self.settings)
        )
        tables.write("training_images", images, TRAINING_IMAGES)
        self.embed_training_images(context)
        made = make_pairs(context, self.progress)
        tables.write("reranker_pairs", made.pairs, PAIRS, made_by=made.record)

    def embed_training_images(self, context: PipelineContext) -> None:
        """Embed the training images in the spaces of the methods that are re-ranked.

        Args:
            context: It says which.
        """
        from setr_lib.pipeline.embedding import embed_training_images

        made = embed_training_images(context, self.progress, versions=self.versions)
        context.tables.write_record("training_embeddings", made.record)

    @property
    def versions(self) -> dict[str, str | None]:
        """The versions that rows are made with, by registered model."""
        return {one.model: one.version for one in self.trained.values()}

    def train(self) -> None:
        """Train, register and promote every system; what was done before is found again.

        Raises:
            SetrError: A training failed, or a fresh process could not reload what was trained.
        """
        for name in self.systems:
            self.trained[name] = self._trained(known_system(name)(self.context))

    def _trained(self, system: RetrievalSystem) -> Trained:
        from setr_lib.pipeline.training_steps import promote, register, train

        self.say(f"{system.name}: training")
        training = train(system, {"setr.made_by": "make compare-trained"}, self.progress)
        self.say(f"{system.name}: {training.words}")
        registered = register(system, training.record)
        if registered.version is None:
            raise SetrError(f"{system.name}: {registered.words}")
        promotion = promote(system, registered.version, self.progress)
        self.say(f"{system.name}: {registered.words}; {promotion.reason}")
        model = system.registered_model(self.settings)
        tags = self.context.registry.model(model).version(registered.version).tags
        facts: dict[str, Any] = {
            "model": model,
            "version": registered.version,
            "run": training.record.run,
            "before": float(tags["setr.base_held_out_recall_at_10"]),
            "after": float(tags[system.measure.tag]),
            "triplets": system.options.triplets,
        }
        if (result := training.result) is not None:
            facts |= {
                "seconds": result.seconds,
                "parameters": result.parameters,
                "rows": result.rows,
                "held_out": len(result.ranks),
                "steps": result.steps,
            }
        return Trained(system.name, model, registered.version, facts)

    def rank(self, timed: bool) -> None:
        """Rank every evaluation set by every method; rows that were measured before are not made again.

        Args:
            timed: Whether queries are timed, too.
        """
        digest = digest_json([_FORMAT, self._described(self.settings), dict(self.versions), timed])
        names = list(self.context.methods.configured)
        if all(self.results.find(STAGE_1, name, digest) for name in names):
            self.say("stage 1 was measured before")
            return
        context = PipelineContext(_without_judge(self.settings), self.context.models, TABLES)
        found = _Found()
        for key in self.keys:
            self.say(f"{key}: stage 1")
            run = RerankingRun(context, CHAMPIONS)
            done = evaluate(run, key, self.progress, self.versions)
            for name, why in done.left_out.items():
                self.say(f"{name} is left out on {key}: {why}")
            if done.result is not None:
                costs = self._costs(run.under(done.context), key, done.result) if timed else {}
                found.add(done.result, costs)
        floor = {"random": found.random}
        for row, measured in found.measured(STAGE_1, digest):
            method = context.methods.get(row.method)
            system = method.trained or context.weights.space_system(method.space)
            facts = {
                **measured.facts,
                **floor,
                "source": method.source,
                "gallery": self._gallery(method.space),
            }
            if system in self.trained:
                facts |= self.trained[system].facts
            self.results.store(Measured(STAGE_1, row.title, digest, measured.per_query, facts))

    def _costs(self, run: RerankingRun, key: str, result: EvaluationResult) -> dict[Row, float]:
        from setr_lib.pipeline.query_costs import QueryCosts

        costs = QueryCosts(run, _SAMPLE)
        return {row: cost.ms for row, cost in costs.of_set(key, list(result.rankings), self.progress).items()}

    def _gallery(self, space: str) -> dict[str, Any]:
        """The vectors of the galleries in an embedding space: images, numbers of each, bytes."""
        from setr_lib.records import EmbeddingsRecord

        images, dimension = 0, self.context.weights.space(space, self.versions).model.dimension
        for key in self.keys:
            record = self.context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key)
            images += record.rows or 0
        return {"space": space, "images": images, "dimension": dimension, "bytes": 4 * images * dimension}

    def judge(self, limit: int) -> None:
        """Re-rank each trained system's candidates by the base judge and by the adapter.

        Args:
            limit: Queries of each evaluation set.
        """
        methods = [name for name in self.context.methods.configured if self._is_judged(name)]
        digest = digest_json([_FORMAT, self._described(self.settings), dict(self.versions), limit, methods])
        if any(one.digest == digest for one in self.results.of(JUDGED).values()):
            self.say("the judge's rows were measured before")
            return
        settings = self.settings.model_copy(
            update={
                "evaluation": self.settings.evaluation.model_copy(update={"limit": limit}),
                "reranking": self.settings.reranking.model_copy(update={"methods": methods}),
            }
        )
        context = PipelineContext(settings, self.context.models, f"{TABLES}-judged")
        self._calibrate(context)
        run, found = RerankingRun(context, CHAMPIONS), _Found()
        for key in self.keys:
            self.say(f"{key}: the judge on the first {limit} queries")
            done = evaluate(run, key, self.progress, self.versions)
            for name, why in done.left_out.items():
                self.say(f"{name} is left out on {key}: {why}")
            if done.result is not None:
                found.add(done.result, {})
        for row, measured in found.measured(JUDGED, digest):
            if row.method in methods:
                facts = {**measured.facts, "limit": limit, "method": row.method, "reranker": row.reranker}
                self.results.store(Measured(JUDGED, row.title, digest, measured.per_query, facts))

    def _calibrate(self, context: PipelineContext) -> None:
        """Choose the fusion of each method and re-ranker on held-out synthesised queries."""
        from setr_lib.pipeline.fusion_calibration import calibrate
        from setr_lib.tables import FUSIONS

        if context.settings.reranking.fusion != "auto":
            return
        self.embed_training_images(context)
        self.say("the judge: choosing fusions")
        told = calibrate(
            context, self.versions, self.progress, lambda words, _: self.say(words), leave_out_failing=True
        )
        context.tables.write("reranking_fusion", told, FUSIONS)

    def _is_judged(self, name: str) -> bool:
        method = self.context.methods.get(name)
        system = method.trained or self.context.weights.space_system(method.space)
        return system is not None and name != "pic2word_image"

    def _described(self, settings: Settings) -> dict[str, Any]:
        """What of the settings determines the rows besides the versions."""
        whole = settings.model_dump(mode="json")
        named = ("models", "coarse", "reranking", "methods", "spaces", "miniature", "evaluation")
        return {name: whole[name] for name in named}


class _Found:
    """Rows of several evaluation sets, gathered."""

    def __init__(self) -> None:
        self._frames: dict[Row, list[pl.DataFrame]] = {}
        self._facts: dict[Row, dict[str, Any]] = {}
        self.random: dict[str, dict[str, float]] = {}

    def add(self, result: EvaluationResult, costs: Mapping[Row, float]) -> None:
        """The rows of one more set."""
        kind = result.evaluation_set.kind
        for row, rankings in result.rankings.items():
            found = metrics_of(kind, result.queries, rankings, result.gallery, unranked="miss").per_query
            self._frames.setdefault(row, []).append(found.with_columns(dataset=pl.lit(kind)))
            facts = self._facts.setdefault(row, {"labels": {}, "ms": {}, "versions": ""})
            rows = result.rows.filter(method=row.method, reranker=row.reranker)
            facts["labels"][kind] = rows["label"][0] or ""
            facts["versions"] = rows["model_version"][0] or ""
            if row in costs:
                facts["ms"][kind] = costs[row]
        floor = result.rows.filter(method="random").select("metric", "value").iter_rows()
        self.random[kind] = {str(metric): float(value) for metric, value in floor if value is not None}

    def measured(self, kind: str, digest: str) -> list[tuple[Row, Measured]]:
        """Every row with all its sets."""
        return [
            (row, Measured(kind, row.title, digest, pl.concat(frames), self._facts[row]))
            for row, frames in self._frames.items()
        ]


def _without_judge(settings: Settings) -> Settings:
    reranking = settings.reranking.model_copy(update={"rerankers": [], "methods": None})
    return settings.model_copy(update={"reranking": reranking})
