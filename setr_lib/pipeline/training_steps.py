"""The steps of every trained system: train, register after a round trip in a fresh process, promote.

Each is safe to repeat: what was trained, registered or promoted before is found again, nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from setr_lib.pipeline.trained_system import Result, TrainedSystem
from setr_lib.progress import Progress, silent
from setr_lib.records import RegisteredRecord, TrainedRecord

if TYPE_CHECKING:
    from setr_lib.registry.measure import MeasuredAgain
    from setr_lib.registry.registered_model import Promotion, RegisteredModel


@dataclass(frozen=True)
class Training(Generic[Result]):
    """What :func:`train` did.

    Attributes:
        record: Which training, and where its model and its folder are.
        result: What was trained; ``None`` where MLflow has the model and its folder is gone.
        words: One line for a log.
    """

    record: TrainedRecord
    result: Result | None
    words: str


@dataclass(frozen=True)
class Registration:
    """What :func:`register` did.

    Attributes:
        version: The version, or ``None`` where the round trip failed.
        record: The training; with the version, where there is one.
        check: What the round trip found, in words.
        words: One line for a log.
    """

    version: str | None
    record: TrainedRecord
    check: str
    words: str


def train(
    system: TrainedSystem[Result], tags: Mapping[str, object] | None = None, progress: Progress = silent
) -> Training[Result]:
    """Train a system on today's data and log it; a training that MLflow has already is not repeated.

    Args:
        system: What is trained.
        tags: Tags of the MLflow run.
        progress: Told of each step.

    Returns:
        What was trained.

    Raises:
        SettingsError: The system cannot be trained with its settings.
        FolderBusyError: Another training uses the folder now.
        SetrError: Data is missing, or the training failed.
    """
    from setr_lib.registry.runs import RUN_TAG
    from setr_lib.training.checkpoint import only_trainer

    system.check()
    runs, digest = system.context.registry.runs, system.digest()
    folder = system.context.settings.checkpoint_root / digest[:16]
    # Held until MLflow has it too: a second run of the same training then finds it there.
    with only_trainer(folder, digest, progress):
        model_uri = runs.find_logged(digest)
        result = system.finished(folder)
        if model_uri is None:
            title, tags = f"{system.name} {digest[:8]}", {**(tags or {}), RUN_TAG: digest}
            with runs.start(title, system.parameters(), tags, system.trained_on()) as run:
                result = system.train(folder, progress, run.log)
                model_uri = system.log(run, result)
    record = TrainedRecord(run=digest, model_uri=model_uri, checkpoints=str(folder), label=system.label())
    known = "the same training is in MLflow already: nothing trained"
    return Training(record, result, known if result is None else system.in_words(result))


def register(system: TrainedSystem[Result], record: TrainedRecord) -> Registration:
    """Make a training a version of the system's registered model, once a fresh process could reload it.

    Args:
        system: What was trained.
        record: The training.

    Returns:
        The version, or what is wrong with the model.

    Raises:
        RegistryError: The model was logged without a tag that versions are compared by, or its held-out
            figure is not finite.
    """
    from setr_lib.pipeline.learned import tag_known_overlaps
    from setr_lib.registry.registered_model import LABEL_TAG

    model = registered_model(system)
    if (known := model.find(record.run)) is not None:
        model.show(known)
        return Registration(
            known.version,
            RegisteredRecord(**record.stated(), version=known.version),
            f"passed when version {known.version} was registered",
            f"version {known.version} was registered before: its round trip is not repeated",
        )
    report = system.context.registry.round_trip(record.model_uri)
    if not report.ok:
        problems = "; ".join(report.problems)
        return Registration(None, record, problems, f"not registered: {problems}")
    version = model.register(
        record.model_uri,
        report,
        {LABEL_TAG: record.label},
        system.measure,
        system.must_equal,
        system.about(),
    )
    tag_known_overlaps(system.context, model.name, version)
    return Registration(
        version,
        RegisteredRecord(**record.stated(), version=version),
        f"{len(report.scores)} scores were the same in a fresh process",
        f"registered as version {version}; reloaded in a fresh process in {report.seconds:.0f} s",
    )


def promote(system: TrainedSystem[Result], version: str, progress: Progress = silent) -> Promotion:
    """Give a version the champion alias of the system's registered model, where it is better.

    Args:
        system: What was trained.
        version: The version.
        progress: Told how far a champion's measurement is.

    Returns:
        The decision and its reason.
    """
    model = registered_model(system)

    def measure_again(champion: str) -> float | MeasuredAgain:
        mine, theirs = (model.artifacts(each, system.artifacts) for each in (version, champion))
        return system.measured_again(mine, theirs, champion, progress)

    def compare(champion: str) -> str:
        return system.compared(
            model.artifacts(version, system.artifacts), model.artifacts(champion, system.artifacts)
        )

    return model.promote(version, system.measure, system.must_equal, measure_again, compare)


def registered_model(system: TrainedSystem[Result]) -> RegisteredModel:
    """The versions of a system's registered model.

    Args:
        system: The system.

    Returns:
        Its registered model.
    """
    return system.context.registry.model(system.registered_model(system.context.settings))
