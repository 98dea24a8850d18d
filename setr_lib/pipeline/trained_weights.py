"""Which version of a trained system a method, an embedding space or a re-ranker works with, and these opened
with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.records import WeightsRecord

if TYPE_CHECKING:
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.trained_system import TrainedSystem
    from setr_lib.reranking.reranker import Reranker
    from setr_lib.spaces.space import EmbeddingSpace
    from setr_lib.weights import Weights

Versions = Mapping[str, str | None]
"""Version by registered model; ``None`` where there is none to use."""
CHAMPIONS: Versions = MappingProxyType({})
"""Nothing is pinned: the champions of the moment."""


class NoWeightsError(SetrError):
    """No version of the trained system that something needs is promoted; the message names the asset."""


@dataclass(frozen=True)
class OpenSpace:
    """An embedding space that is ready to embed.

    Attributes:
        name: Its name in settings.
        model: The space.
        weights: The version of its weights; None for a space without trained ones.
    """

    name: str
    model: EmbeddingSpace
    weights: WeightsRecord | None = None

    @property
    def versions(self) -> dict[str, str | None]:
        """Its version by registered model: what opens this very space again."""
        return {self.weights.model: self.weights.version} if self.weights else {}


@dataclass(frozen=True)
class OpenMethod:
    """A retrieval method that is ready to score.

    Attributes:
        method: The method.
        weights: The version that it ranks with; None for a method without trained weights.
        space_weights: The version of the embedding space that it searches, where that is trained.
    """

    method: Method
    weights: WeightsRecord | None = None
    space_weights: WeightsRecord | None = None

    @property
    def version(self) -> str | None:
        """The registered version of its weights, or else of its space's."""
        used = self.weights or self.space_weights
        return used.version if used else None

    @property
    def versions(self) -> dict[str, str | None]:
        """Version by registered model of all that it ranks with."""
        return {used.model: used.version for used in (self.space_weights, self.weights) if used}

    @property
    def words(self) -> str:
        """The versions as facts of a run; empty where nothing is trained."""
        used = dict.fromkeys(made.words for made in (self.weights, self.space_weights) if made)
        return ", ".join(used)


@dataclass(frozen=True)
class OpenSpaces:
    """Embedding spaces by name, and why others are left out."""

    spaces: dict[str, OpenSpace]
    left_out: dict[str, str]


class TrainedWeights:
    """Opens methods, embedding spaces and re-rankers with a version of the trained system that they need. The
    last version of each is kept.

    Args:
        context: Settings, models and the registry.
    """

    def __init__(self, context: PipelineContext) -> None:
        self._context = context
        self._methods: dict[str, OpenMethod] = {}
        self._spaces: dict[str, OpenSpace] = {}
        self._rerankers: dict[str, tuple[Weights, Reranker]] = {}

    def space_system(self, space: str) -> str | None:
        """The trained system whose weights an embedding space needs, by name; None for one without.

        Args:
            space: The space's name in settings.
        """
        from setr_lib.spaces.space import trained_by

        return trained_by(space, self._context.settings)

    def systems_of(self, method: Method) -> list[str]:
        """The trained systems that a method, and the embedding space that it searches, need.

        Args:
            method: The method.

        Returns:
            Their names; none where nothing is trained.

        Raises:
            SpaceError: The class of the space cannot be had.
        """
        from setr_lib.methods.method import needs_space

        of_space = self.space_system(method.space) if needs_space(method) else None
        return list(dict.fromkeys(name for name in (method.trained, of_space) if name is not None))

    def model(self, system: str) -> str:
        """The registered model of a trained system.

        Args:
            system: The system, by name.

        Returns:
            Its name in MLflow.

        Raises:
            TrainedSystemError: There is no such system.
        """
        return _system(system, self._context).registered_model(self._context.settings)

    def in_use(self, systems: Iterable[str], pinned: Versions = CHAMPIONS) -> dict[str, str | None]:
        """The versions of trained systems that a run works with.

        Args:
            systems: The systems, by name.
            pinned: Version by registered model; what is not named is the champion of the moment.

        Returns:
            Version by registered model, ``None`` where nothing is promoted.

        Raises:
            TrainedSystemError: ``pinned`` names a model that is not known; or there is no such system.
        """
        from setr_lib.pipeline.trained_system import check_models

        check_models(self._context.settings, pinned)
        models = dict.fromkeys(self.model(name) for name in systems)
        return {model: self._chosen(model, pinned) for model in models}

    def version(self, system: str, versions: Versions = CHAMPIONS) -> str | None:
        """The version of one trained system.

        Args:
            system: The system, by name.
            versions: As ``pinned`` of :meth:`in_use`.

        Returns:
            The version; None where nothing is promoted.
        """
        return self._chosen(self.model(system), versions)

    def open(self, method: Method, versions: Versions = CHAMPIONS) -> OpenMethod:
        """A method, ready to score.

        A method and the space that it searches have the same version where they name the same system.

        Args:
            method: The method as settings name it.
            versions: Version by registered model; the champion of the moment for one that is not named.

        Returns:
            The method itself, or what it gives for a version.

        Raises:
            NoWeightsError: There is no version to use, of the method or of its space.
            SetrError: There is no such version, or its weights cannot be loaded.
        """
        from setr_lib.methods.method import needs_space

        systems = self.systems_of(method)
        if not systems:
            return OpenMethod(method)
        needed = {self.model(name): self.version(name, versions) for name in systems}
        what = f"retrieval method {method.name!r}"
        if method.trained is not None:
            self._require(what, method.trained, needed)
        of_space = self.space_system(method.space) if needs_space(method) else None
        if of_space is not None:
            self._require(f"{what} searches the embedding space {method.space!r}, which", of_space, needed)
        with self._context.models.lock:
            known = self._methods.get(method.name)
            if known is None or known.versions != needed:
                known = self._methods[method.name] = self._opened(method, needed)
            return known

    def space(self, name: str, versions: Versions = CHAMPIONS) -> OpenSpace:
        """An embedding space, ready to embed.

        Args:
            name: Its name in settings.
            versions: As for :meth:`open`.

        Returns:
            The space.

        Raises:
            NoWeightsError: There is no version to use.
            SetrError: There is no such version, or the space cannot be loaded.
        """
        from setr_lib.spaces.space import make_space

        system, context = self.space_system(name), self._context
        if system is None:
            return OpenSpace(name, context.models.space(name))
        version = self._require(f"the embedding space {name!r}", system, versions)
        with context.models.lock:
            known = self._spaces.get(name)
            if known is None or known.weights is None or known.weights.version != version:
                weights = _weights(self._context, system, version)
                model = make_space(name, context.settings, weights)
                known = self._spaces[name] = OpenSpace(name, model, _record(weights))
            return known

    def spaces(self, names: Iterable[str], versions: Versions = CHAMPIONS) -> OpenSpaces:
        """Several embedding spaces, ready to embed.

        Args:
            names: Their names in settings.
            versions: As for :meth:`open`.

        Returns:
            The spaces, in this order; those without a version to use are left out.

        Raises:
            SetrError: As of :meth:`space`.
        """
        names = list(names)
        left_out = self.lacking(names, versions)
        return OpenSpaces(
            {name: self.space(name, versions) for name in names if name not in left_out}, left_out
        )

    def lacking(self, names: Iterable[str], versions: Versions = CHAMPIONS) -> dict[str, str]:
        """Which embedding spaces have no version to use; none is loaded.

        Args:
            names: Their names in settings.
            versions: As for :meth:`open`.

        Returns:
            Why, by name.
        """
        found: dict[str, str] = {}
        for name in names:
            system = self.space_system(name)
            if system is not None and self.version(system, versions) is None:
                found[name] = f"the embedding space {name!r} {self._no_weights(system)}"
        return found

    def reranker(self, reranker: Reranker, version: str) -> tuple[Reranker, Weights]:
        """A trained re-ranker of one's own with a version of its weights, not opened yet.

        Args:
            reranker: A re-ranker with ``trained``.
            version: The registered version.

        Returns:
            What its ``with_weights`` gives, and the version.

        Raises:
            SetrError: There is no such version, or its weights cannot be loaded.
        """
        from setr_lib.reranking.reranker import with_weights

        assert reranker.trained is not None
        with self._context.models.lock:
            known = self._rerankers.get(reranker.name)
            if known is None or known[0].version != version:
                weights = _weights(self._context, reranker.trained, version)
                known = self._rerankers[reranker.name] = weights, with_weights(reranker, weights)
            return known[1], known[0]

    def _chosen(self, model: str, versions: Versions) -> str | None:
        return versions[model] if model in versions else self._context.champion_version(model)

    def _require(self, what: str, system: str, versions: Versions) -> str:
        version = self.version(system, versions)
        if version is None:
            raise NoWeightsError(f"{what} {self._no_weights(system)}")
        return version

    def _no_weights(self, system: str) -> str:
        step = self.promoted_by(system)
        return (
            f"has no weights yet: no version of {self.model(system)} is promoted; materialize {step} and "
            f"what is before it: `setr run --until {step}`"
        )

    def promoted_by(self, system: str) -> str:
        """The asset that promotes a version of a trained system.

        Args:
            system: The system, by name.

        Returns:
            The asset's name.

        Raises:
            TrainedSystemError: There is no such system.
        """
        return _system(system, self._context).promoted_by

    def _opened(self, method: Method, versions: Versions) -> OpenMethod:
        from setr_lib.methods.method import needs_space
        from setr_lib.methods.weights import opened

        if method.trained is None:
            return OpenMethod(method, space_weights=self.space(method.space, versions).weights)
        space = self.space(method.space, versions) if needs_space(method) else None
        version = self._require(method.name, method.trained, versions)
        weights = _weights(self._context, method.trained, version, space.model if space else None)
        return OpenMethod(opened(method, weights), _record(weights), space.weights if space else None)


def _system(name: str, context: PipelineContext) -> type[TrainedSystem[Any]]:
    from setr_lib.pipeline.trained_system import SYSTEMS

    return SYSTEMS.get(name, context.settings)


def _weights(
    context: PipelineContext, system: str, version: str, space: EmbeddingSpace | None = None
) -> Weights:
    from setr_lib.registry.registered_model import LABEL_TAG
    from setr_lib.registry.runs import RUN_TAG
    from setr_lib.weights import Weights

    found = _system(system, context)
    model = context.registry.model(found.registered_model(context.settings))
    tags = model.version(version).tags
    return Weights(
        model=model.name,
        version=version,
        label=tags.get(LABEL_TAG, ""),
        folders=model.artifacts(version, found.artifacts),
        device=context.settings.models.device,
        space=space,
        run=tags.get(RUN_TAG, ""),
    )


def _record(weights: Weights) -> WeightsRecord:
    return WeightsRecord(model=weights.model, version=weights.version, label=weights.label)
