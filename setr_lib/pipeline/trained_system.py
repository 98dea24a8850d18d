"""Trained systems: what is trained, measured on held-out data, stored as a bundle, and promoted.

Each has its own data, training, measure, bundle and registered model of MLflow; the steps (train, register,
promote) are the same for all: ``training_steps.py``.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from setr_lib.catalogue import Catalogue
from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.progress import Progress
from setr_lib.registry.measure import Measure
from setr_lib.settings import Settings

if TYPE_CHECKING:
    from setr_lib.registry.measure import MeasuredAgain
    from setr_lib.registry.runs import TrainingRun
    from setr_lib.training.loop import OnMetrics
    from setr_lib.training.trained_on import TrainedOn

Result = TypeVar("Result")
"""What a finished training gives; each system has a class of its own."""


class TrainedSystemError(SetrError):
    """A trained system, or a version of one, that is named does not exist."""


class TrainedSystem(ABC, Generic[Result]):
    """Something that is trained, and of which MLflow keeps versions.

    An instance belongs to one step: it reads today's settings and data when it is asked, once.

    Args:
        context: Settings, tables and models.

    Attributes:
        name: What it is called, e.g. ``"adapter"``.
        measure: The held-out measure that decides which version is better.
        must_equal: Tags in which two versions must be equal to be compared, and what is said of a champion
            with another value, e.g. ``{"setr.base_id": "adapts another base"}``.
        artifacts: The folders of its bundle.
        promoted_by: The asset that promotes a version, as messages name it, e.g. ``"promoted_reranker"``.
    """

    name: ClassVar[str]
    measure: ClassVar[Measure]
    must_equal: ClassVar[Mapping[str, str]] = {}
    artifacts: ClassVar[tuple[str, ...]]
    promoted_by: ClassVar[str]

    def __init__(self, context: PipelineContext) -> None:
        self.context = context

    @staticmethod
    @abstractmethod
    def registered_model(settings: Settings) -> str:
        """The name of its registered model in MLflow.

        Args:
            settings: The settings, which may name it.

        Returns:
            The name, e.g. ``"setr-reranker"``.
        """

    def check(self) -> None:
        """Refuse settings that the system cannot be trained with, before anything is loaded; nothing by
        default.

        Raises:
            SettingsError: What is wrong, and what to do.
        """
        return

    @abstractmethod
    def digest(self) -> str:
        """Digest of all that determines the training: data, models, prompts, settings.

        Raises:
            NotMadeYetError: A table that it reads is missing.
        """

    @abstractmethod
    def parameters(self) -> Mapping[str, object]:
        """What MLflow shows of the training: settings, and what its data were made from."""

    def trained_on(self) -> TrainedOn | None:
        """The images and triplets of the training, which its bundle keeps: rows are labelled by their overlap
        with what is evaluated.

        Returns:
            Images and triplets; None, by default, where a system does not say: its rows then say that the
            overlap is unknown.
        """
        return None

    def label(self) -> str:
        """What a version has learned from, where no evaluation set is in question: computed from
        :meth:`trained_on`. What a system that does not say it puts here stands behind *overlap unknown* in
        its rows.
        """
        from setr_lib.evaluation.labels import label_of_version

        return label_of_version(self.trained_on())

    def about(self) -> str:
        """What all versions are, as Markdown: the description of the registered model in MLflow."""
        told = (inspect.getdoc(type(self)) or f"The trained system {self.name} of SETR.").split("\n\n")[0]
        return (
            f"{told.replace('``', '`')}\n\n`champion` is the version that serves, `challenger` the newest "
            f"that did not beat it by held-out {self.measure.name}. Each version's description is its model "
            "card; the runs that evaluated it are named by its tags `setr.evaluation.SET`."
        )

    @abstractmethod
    def finished(self, folder: Path) -> Result | None:
        """The result of this very training, where it was finished before.

        Args:
            folder: The training's folder.
        """

    @abstractmethod
    def train(self, folder: Path, progress: Progress, on_metrics: OnMetrics) -> Result:
        """Train to the end and measure on held-out data; killed and called again, go on from the last
        checkpoint.

        Args:
            folder: Where checkpoints and the result are kept; this process alone writes there now.
            progress: Told of each step.
            on_metrics: Told of each step's figures.

        Returns:
            The result.
        """

    @abstractmethod
    def log(self, run: TrainingRun, result: Result) -> str:
        """Log the bundle with ``run.log_model``.

        The model's tags are ``setr.run`` (the digest), that of :attr:`measure`, those of :attr:`must_equal`,
        and ``setr.held_out_digest``.

        Args:
            run: The open MLflow run of the training.
            result: What was trained.

        Returns:
            The logged model's URI.
        """

    @abstractmethod
    def measure_again(self, artifacts: Mapping[str, Path], progress: Progress) -> float:
        """The measure of an earlier version on the held-out data of today.

        Args:
            artifacts: The folders of its bundle by name.
            progress: Told how far it is.

        Returns:
            The figure.
        """

    def measured_again(
        self, artifacts: Mapping[str, Path], champion: Mapping[str, Path], version: str, progress: Progress
    ) -> float | MeasuredAgain:
        """A champion on the held-out data of today, where it was measured on other data before.

        Args:
            artifacts: The folders of the bundle of the version that would follow it.
            champion: Those of the champion's.
            version: The champion's version.
            progress: Told how far it is.

        Returns:
            By default :meth:`measure_again`: its figure, against the version's own. Or both on a part of the
            data.
        """
        return self.measure_again(champion, progress)

    def compared(self, artifacts: Mapping[str, Path], champion: Mapping[str, Path]) -> str:
        """More about the comparison of a version with the champion, e.g. their paired difference.

        Args:
            artifacts: The folders of the version's bundle by name.
            champion: Those of the champion's.

        Returns:
            The end of a sentence; empty where there is nothing to add.
        """
        return ""

    @abstractmethod
    def in_words(self, result: Result) -> str:
        """One line about a training for a log.

        Args:
            result: What was trained.
        """

    def notices(self) -> Sequence[str]:
        """What a person should know before the training, e.g. files that are not used."""
        return ()


def _as_system(candidate: Any, where: str) -> type[TrainedSystem[Any]]:
    if not (isinstance(candidate, type) and issubclass(candidate, TrainedSystem)):
        raise TrainedSystemError(f"{where} is not a trained system: it must be a subclass of TrainedSystem")
    return candidate


def _built_in() -> dict[str, type[TrainedSystem[Any]]]:
    from setr_lib.pipeline.adapter_system import AdapterSystem
    from setr_lib.pipeline.retrieval_system import retrieval_system
    from setr_lib.systems.recipe import RECIPES

    systems = {name: retrieval_system(recipe) for name, recipe in RECIPES.items()}
    return {AdapterSystem.name: AdapterSystem, **systems}


SYSTEMS: Catalogue[type[TrainedSystem[Any]]] = Catalogue(
    "trained system", ("setr.trained_systems",), _as_system, TrainedSystemError, _built_in
)
"""The trained systems by name: classes, made with a context where they are used."""


def registered_models(settings: Settings) -> list[str]:
    """The registered models of all trained systems: those that are known by name, and those that configured
    methods, the spaces that these search, and re-rankers need.

    Args:
        settings: The settings, which may name them.

    Returns:
        Their names in MLflow, whether or not anything was registered yet.
    """
    from setr_lib.methods.method import get_method
    from setr_lib.spaces.space import trained_by

    options = settings.coarse
    methods = [get_method(name, settings) for name in (*options.strategies, *options.caption_strategies)]
    needed = [
        *(method.trained for method in methods),
        *(trained_by(method.space, settings) for method in methods),
        *(reranker.trained for reranker in pipeline_context(settings).rerankers.configured),
    ]
    names = (*SYSTEMS.names(), *(name for name in needed if name is not None))
    systems = [SYSTEMS.get(name, settings) for name in names]
    return list(dict.fromkeys(system.registered_model(settings) for system in systems))


def champions(context: PipelineContext) -> dict[str, str]:
    """The versions that hold the champion alias now.

    Args:
        context: The context.

    Returns:
        Version by registered model; models without a champion are left out.
    """
    found = {name: context.champion_version(name) for name in registered_models(context.settings)}
    return {name: version for name, version in found.items() if version is not None}


def check_models(settings: Settings, versions: Mapping[str, str | None]) -> None:
    """Refuse versions of a registered model that is not known.

    Args:
        settings: The settings.
        versions: Version by registered model.

    Raises:
        TrainedSystemError: A model is not known; the message lists those that are.
    """
    known = registered_models(settings) if versions else []
    if unknown := sorted(set(versions) - set(known)):
        raise TrainedSystemError(
            f"versions names {', '.join(map(repr, unknown))}: there is no such registered model; known: "
            f"{', '.join(sorted(known))}{did_you_mean(unknown[0], known)}"
        )


def pinned_version(
    settings: Settings, model: str, versions: Mapping[str, str], alias: str | None = None
) -> str | None:
    """The version of a registered model that a run is pinned to.

    Args:
        settings: The settings.
        model: The registered model asked for.
        versions: The run's versions by registered model.
        alias: The version by the earlier key ``champion_version``, which knows the re-ranker alone.

    Returns:
        The version, or ``None`` where the run leaves it open.

    Raises:
        TrainedSystemError: A model is not known, or the two keys say different versions.
    """
    check_models(settings, versions)
    pinned = versions.get(model)
    if alias is not None and pinned is not None and alias != pinned:
        raise TrainedSystemError(
            f"champion_version says {alias}, versions says {pinned} for {model}: give one of them"
        )
    return pinned or alias
