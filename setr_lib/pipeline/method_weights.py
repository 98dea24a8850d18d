"""Which version of a trained system a retrieval method ranks with, and the method opened with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.records import WeightsRecord

if TYPE_CHECKING:
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.trained_system import TrainedSystem

Versions = Mapping[str, str | None]
"""Version by registered model; ``None`` where there is none to use."""
CHAMPIONS: Versions = MappingProxyType({})
"""Nothing is pinned: the champions of the moment."""


class NoWeightsError(SetrError):
    """No version of the trained system that a method needs is promoted; the message names the asset."""


@dataclass(frozen=True)
class OpenMethod:
    """A retrieval method that is ready to score.

    Attributes:
        method: The method.
        weights: The version that it ranks with; None for a method without trained weights.
    """

    method: Method
    weights: WeightsRecord | None = None

    @property
    def version(self) -> str | None:
        """The registered version of its weights."""
        return self.weights.version if self.weights else None


class MethodWeights:
    """Opens retrieval methods with a version of the trained system that they need.

    Args:
        context: Settings, models and the registry.
    """

    def __init__(self, context: PipelineContext) -> None:
        self._context = context
        self._open: dict[str, OpenMethod] = {}

    def system(self, method: Method) -> type[TrainedSystem[Any]] | None:
        """The trained system that a method needs.

        Args:
            method: The method.

        Returns:
            The system; None for a method without trained weights.

        Raises:
            TrainedSystemError: There is no such system.
        """
        from setr_lib.pipeline.trained_system import SYSTEMS

        return None if method.trained is None else SYSTEMS.get(method.trained, self._context.settings)

    def in_use(self, pinned: Mapping[str, str] = MappingProxyType({})) -> dict[str, str | None]:
        """The versions that the configured methods rank with.

        Args:
            pinned: Version by registered model; what is not named is the champion of the moment.

        Returns:
            Version by registered model, ``None`` where nothing is promoted; empty where no configured method
            has trained weights.

        Raises:
            TrainedSystemError: ``pinned`` names a model that is not known, or a method a system that is not.
        """
        from setr_lib.pipeline.trained_system import check_models

        check_models(self._context.settings, pinned)
        systems = filter(None, map(self.system, self._context.methods.configured.values()))
        models = dict.fromkeys(system.registered_model(self._context.settings) for system in systems)
        return {model: pinned.get(model) or self._context.champion_version(model) for model in models}

    def open(self, method: Method, versions: Versions = CHAMPIONS) -> OpenMethod:
        """A method, ready to score. The last version of each is kept.

        Args:
            method: The method as settings name it.
            versions: Version by registered model; the champion of the moment for one that is not named.

        Returns:
            The method itself, or what it gives for a version.

        Raises:
            NoWeightsError: There is no version to use.
            SetrError: There is no such version, or its weights cannot be loaded.
        """
        system = self.system(method)
        if system is None:
            return OpenMethod(method)
        context = self._context
        model = system.registered_model(context.settings)
        version = versions[model] if model in versions else context.champion_version(model)
        if version is None:
            raise NoWeightsError(
                f"retrieval method {method.name!r} has no weights yet: no version of {model} is promoted; "
                f"materialize {system.promoted_by} and what is before it"
            )
        with context.models.lock:
            known = self._open.get(method.name)
            if known is None or known.weights is None or known.version != version:
                known = self._opened(method, system, version)
                self._open[method.name] = known
            return known

    def _opened(self, method: Method, system: type[TrainedSystem[Any]], version: str) -> OpenMethod:
        from setr_lib.methods.method import needs_space
        from setr_lib.methods.weights import Weights, opened
        from setr_lib.registry.registered_model import LABEL_TAG

        context = self._context
        model = context.registry.model(system.registered_model(context.settings))
        label = model.version(version).tags.get(LABEL_TAG, "")
        weights = Weights(
            model=model.name,
            version=version,
            label=label,
            folders=model.artifacts(version, system.artifacts),
            device=context.settings.models.device,
            space=context.models.space(method.space) if needs_space(method) else None,
        )
        record = WeightsRecord(model=model.name, version=version, label=label)
        return OpenMethod(opened(method, weights), record)
