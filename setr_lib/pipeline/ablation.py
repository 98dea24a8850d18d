"""Ablations of trained retrieval systems: trainings with other options or other data, each an MLflow run of
its own and no version of a registered model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.pipeline.retrieval_system import Below, RetrievalSystem, known_system, system_options
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.systems.models.system_model import SystemModel
    from setr_lib.systems.training import SystemResult

ABLATION_TAG = "setr.ablation"
"""The tag of an MLflow run that says which ablation it is."""
_FOLDER = "ablations"


@dataclass(frozen=True)
class Ablation:
    """A training that differs from the configured one in what it says.

    Attributes:
        name: What it is called, e.g. ``"composing: LoRA"``.
        system: The system that is trained.
        options: Other settings than those of ``[systems.NAME]``, by key.
        shuffled: Share of the training triplets whose texts are given to one another.
        below: Another ablation that it builds on; the champion of the system that it builds on by default.
    """

    name: str
    system: str
    options: Mapping[str, Any] = field(default_factory=dict)
    shuffled: float = 0.0
    below: Ablation | None = None


@dataclass(frozen=True)
class Ablated:
    """A finished ablation.

    Attributes:
        ablation: Which.
        system: Its training: options and data.
        result: Its figures and where its weights are.
        run_id: The MLflow run of the training.
    """

    ablation: Ablation
    system: RetrievalSystem
    result: SystemResult
    run_id: str

    def model(self) -> SystemModel:
        """The trained system, ready to encode.

        Returns:
            The system.
        """
        from safetensors.torch import load_file

        from setr_lib.systems.training import WEIGHTS

        model = self.system.untrained()
        model.load_state_dict(load_file(self.result.folder / WEIGHTS), strict=True)
        return model.eval()


def ablated_system(
    context: PipelineContext, ablation: Ablation, progress: Progress = silent
) -> RetrievalSystem:
    """The training of an ablation; one that it builds on is trained first.

    Args:
        context: Settings, tables and models.
        ablation: Which.
        progress: Told of each step of what is trained.

    Returns:
        The training, not begun.

    Raises:
        SettingsError: An option is unknown or its value is not allowed.
        NotMadeYetError: The triplets were not made yet.
    """
    from setr_lib.pipeline.system_data import read_triplets

    chosen = known_system(ablation.system)
    settings = context.settings
    section = {**settings.systems.get(ablation.system, {}), **ablation.options}
    options = system_options(
        settings.model_copy(update={"systems": {**settings.systems, ablation.system: section}}),
        ablation.system,
    )
    data = read_triplets(context, options.triplets)
    if ablation.shuffled:
        data = data.with_shuffled_texts(ablation.shuffled, options.seed)
    below = None if ablation.below is None else _as_below(train_ablation(context, ablation.below, progress))
    return chosen(context, options, data, below)


def train_ablation(context: PipelineContext, ablation: Ablation, progress: Progress = silent) -> Ablated:
    """Train an ablation; one that was finished before, or is the configured training, is taken as it is.

    Args:
        context: Settings, tables and models.
        ablation: Which.
        progress: Told of each step.

    Returns:
        The trained ablation.

    Raises:
        FolderBusyError: Another process trains it now.
        SetrError: Data is missing, or the training failed.
    """
    from setr_lib.systems.training import load_result, train_system
    from setr_lib.training.checkpoint import only_trainer

    system = ablated_system(context, ablation, progress)
    runs, digest = context.registry.runs, system.digest()
    known = runs.find_finished(digest)
    folder = ablation_folder(context, digest)
    for place in (context.settings.checkpoint_root / digest[:16], folder):
        result = load_result(place, digest)
        if known is not None and result is not None:
            return Ablated(ablation, system, result, known)
    with only_trainer(folder, digest, progress):
        tags = {ABLATION_TAG: ablation.name, _run_tag(): digest}
        title, data = f"{ablation.name} {digest[:8]}", system.trained_on()
        with runs.start(title, system.parameters(), tags, data) as run:
            result = load_result(folder, digest, run.log)
            if result is None:
                result = train_system(system.lesson(progress, folder), folder, progress, run.log)
            figures = {
                "held_out_before_recall_at_10": result.recall_before,
                "held_out_recall_at_10": result.recall,
                "training_seconds": result.seconds,
                "trained_parameters": float(result.parameters),
            }
            run.log(result.steps, figures)
    return Ablated(ablation, system, result, run.run_id)


def ablation_folder(context: PipelineContext, digest: str) -> Path:
    """Where the checkpoints and the result of an ablation are.

    Args:
        context: The settings.
        digest: Of the training.

    Returns:
        A folder below the storage root.
    """
    return context.settings.storage_root / _FOLDER / digest[:16]


def _run_tag() -> str:
    from setr_lib.registry.runs import RUN_TAG

    return RUN_TAG


def _as_below(ablated: Ablated) -> Below:
    from setr_lib.systems.bundle import read_system, write_system
    from setr_lib.systems.training import stored_tensors

    folder = ablated.result.folder / "system"
    write_system(folder, ablated.system.record(), stored_tensors(ablated.model()))
    return Below(read_system(folder), ablated.system.trained_on())
