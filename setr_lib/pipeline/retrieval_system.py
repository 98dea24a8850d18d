"""A trained retrieval system of stage 1, as a trained system of the pipeline: triplets, training, R@10 on
held-out triplets, registered model.

What each computes is in ``setr_lib/systems``; here is what all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from setr_lib.errors import SetrError
from setr_lib.files import write_json
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.system_checks import option_faults, system_notices, system_options
from setr_lib.pipeline.trained_system import TrainedSystem
from setr_lib.progress import Progress, silent
from setr_lib.registry.system_model import ENCODER_TAG, PREPROCESSING_TAG, RECALL
from setr_lib.settings import DEFAULT_SPACE, OPEN_CLIP, Settings, SettingsError
from setr_lib.systems.bundle import FOLDER as SYSTEM
from setr_lib.systems.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.system_data import StoredFeatures
    from setr_lib.registry.measure import MeasuredAgain
    from setr_lib.registry.runs import TrainingRun
    from setr_lib.registry.system_bundle import EncoderReference
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.bundle import StoredSystem, SystemRecord
    from setr_lib.systems.data import SystemData
    from setr_lib.systems.models.system_model import SystemModel
    from setr_lib.systems.options import SystemOptions
    from setr_lib.systems.training import Lesson, SystemResult
    from setr_lib.training.loop import OnMetrics
    from setr_lib.training.trained_on import TrainedOn

_FORMAT = 1  # part of a training's digest: raise it when the training changes
_EXAMPLES, _NEGATIVES = 8, "negatives.json"
SOURCE_TAG = "setr.triplets"


@dataclass(frozen=True)
class Below:
    """The training that a system builds on.

    Attributes:
        stored: Its system.
        trained_on: What it has learned from.
        version: Its registered version; None for a training that is no version.
    """

    stored: StoredSystem
    trained_on: TrainedOn
    version: str | None = None

    @property
    def words(self) -> str:
        """Which training, in words."""
        which = "" if self.version is None else f" version {self.version}"
        return f"{self.stored.record.system}{which} (training {self.stored.record.run[:8]})"


class RetrievalSystem(TrainedSystem["SystemResult"]):
    """A trained retrieval system: learned on triplets or images on top of a frozen encoder, and measured by
    R@10 on held-out triplets that share no image with the training ones.

    Killed, it goes on from its last checkpoint; where encoder, data and settings are as before, nothing is
    trained. Subclasses, one for each recipe, are made by :func:`retrieval_system`.

    Args:
        context: Settings, tables and models.
        options: The settings of the training; ``[systems.NAME]`` by default.
        data: The triplets; those of today by default.
        below: The training that it builds on; the champion of that system by default.

    Attributes:
        recipe: Which system.
    """

    recipe: ClassVar[Recipe]
    measure = RECALL
    must_equal: ClassVar[Mapping[str, str]] = {
        ENCODER_TAG: "was trained on another encoder",
        PREPROCESSING_TAG: "was trained on pictures that were prepared otherwise",
        SOURCE_TAG: "was trained on other triplets",
    }
    artifacts = (SYSTEM, "encoder")

    def __init__(
        self,
        context: PipelineContext,
        options: SystemOptions | None = None,
        data: SystemData | None = None,
        below: Below | None = None,
    ) -> None:
        super().__init__(context)
        self.options = options or system_options(context.settings, self.name)
        self._given_data, self._given_below = data, below

    @staticmethod
    def registered_model(settings: Settings) -> str:
        """``setr-NAME``; each subclass says its own."""
        raise NotImplementedError

    @cached_property
    def data(self) -> SystemData:
        """The triplets that were given, or else those of today.

        Raises:
            TrainingDataError: None is held out.
        """
        from setr_lib.pipeline.system_data import read_triplets

        if self._given_data is not None:
            return self._given_data.measurable()
        return read_triplets(self.context, self.options.triplets).measurable()

    @cached_property
    def rows(self) -> pl.DataFrame:
        """What is trained on: rows of ``data.triplets``, or of ``data.images``."""
        limit, seed = self.options.limit, self.options.seed
        if self.recipe.learns_from == "triplets":
            return self.data.training_triplets(limit, seed)
        return self.data.training_images(limit, seed)

    @cached_property
    def encoder(self) -> OpenClipSpace:
        """The frozen encoder.

        Raises:
            SystemModelError: It is an embedding space of one's own that is no model of open_clip.
        """
        from setr_lib.systems.models.system_model import SystemModelError

        found: Any = self.context.weights.space(self.options.encoder).model
        if not (hasattr(found, "model") and hasattr(found, "tokenizer")):
            raise SystemModelError(
                f"[systems.{self.name}] encoder = {self.options.encoder!r}: the embedding space {found.id} "
                "is no model of open_clip: name another one"
            )
        return found

    @cached_property
    def _below(self) -> Below | None:
        """The training that was given to build on, or else the champion of that system; None where it builds
        on none.
        """
        from setr_lib.pipeline.trained_weights import NoWeightsError
        from setr_lib.systems.bundle import check_encoder, read_system
        from setr_lib.training.trained_on import TRAINED_ON, TrainedOn

        if self.recipe.builds_on is None or self._given_below is not None:
            return self._given_below
        below = retrieval_system(RECIPES[self.recipe.builds_on])
        model = self.context.registry.model(below.registered_model(self.context.settings))
        version = model.champion()
        if version is None:
            raise NoWeightsError(
                f"{self.name} builds on {below.name}, of which no version is promoted: materialize "
                f"{below.promoted_by} and what is before it: `setr run --until {below.promoted_by}`"
            )
        folders = model.artifacts(version, (SYSTEM, TRAINED_ON))
        found = Below(read_system(folders[SYSTEM]), TrainedOn.read(folders[TRAINED_ON]), version)
        check_encoder(f"{self.name} builds on {found.words}, which", found.stored.record, self.encoder)
        return found

    @cached_property
    def _run(self) -> str:
        from setr_lib.hashing import digest_json

        options = self.options.model_dump(mode="json", exclude={"checkpoint_every", "held_out_points"})
        made_of = [self.encoder.id, self.encoder.preprocessing_id, self.data.digest]
        below = self._below.stored.record.run if self._below else ""
        return digest_json([_FORMAT, self.name, options, *made_of, below])

    def digest(self) -> str:
        """Of encoder, triplets, images, settings, and the training that it builds on."""
        return self._run

    def parameters(self) -> Mapping[str, object]:
        """The settings, the encoder, and digests of the data."""
        return {
            **{name: str(value) for name, value in self.options.model_dump(mode="json").items()},
            "encoder_id": self.encoder.id,
            "triplets_digest": self.data.digest,
            "held_out_digest": self.data.held_out_digest,
            "builds_on": self._below.words if self._below else "nothing",
        }

    def trained_on(self) -> TrainedOn:
        """Its images and triplets, and those of the system that it builds on. Held-out ones count: they
        decide which version is champion; so do those among which hard negatives are mined.
        """
        from setr_lib.pipeline.system_data import trained_on_data

        found = trained_on_data(self.context.settings, self.data, self.rows, self.options)
        return found if self._below is None else found.joined(self._below.trained_on)

    def check(self) -> None:
        """Refuse settings that cannot be followed, in words."""
        if faults := option_faults(self.context.settings, self.recipe, self.options):
            raise SettingsError("\n".join(faults))

    def notices(self) -> Sequence[str]:
        """What its settings leave out."""
        return system_notices(self.context.settings, self.recipe, self.options)

    def finished(self, folder: Path) -> SystemResult | None:
        """The weights in ``folder``, if this very training made them."""
        from setr_lib.systems.training import load_result

        return load_result(folder, self.digest())

    def train(self, folder: Path, progress: Progress, on_metrics: OnMetrics) -> SystemResult:
        """Train the system and rank the held-out triplets before and after."""
        from setr_lib.systems.training import train_system

        return train_system(self.lesson(progress, folder), folder, progress, on_metrics)

    def lesson(self, progress: Progress, folder: Path | None = None) -> Lesson:
        """What a training is made of: the untrained system and its data.

        Args:
            progress: Told how many images are embedded.
            folder: Where mined negatives are kept, so that a resumed training has the same.

        Returns:
            The lesson.

        Raises:
            TrainingDataError: Of what is trained on, nothing is left that can be embedded, or too little.
        """
        from setr_lib.hashing import digest_strings
        from setr_lib.pipeline.system_data import mined_negatives
        from setr_lib.systems.data import check_enough, without_images
        from setr_lib.systems.training import Lesson
        from setr_lib.training.notes import read_note

        model = self.untrained()
        stored = self._stored(model, progress)
        data, rows = stored.data, without_images(self.rows, stored.failed)
        check_enough(rows, data.source, contrasts=self.options.contrasts)
        of_rows = digest_strings(str(row) for row in rows.iter_rows())
        known = None
        if folder:
            every = set(self.data.images["image_id"])
            known = read_note(folder / _NEGATIVES, self.digest(), lambda note: every.issuperset(*note["ids"]))
        # Not those of other rows or images: which can be embedded may have changed since.
        usable = set(data.images["image_id"])
        if known is None or known.get("rows") != of_rows or not usable.issuperset(*known["ids"]):
            ids = mined_negatives(self.context, model, data, rows, stored, progress)
            known = {"run": self.digest(), "rows": of_rows, "ids": ids}
            if folder:
                write_json(folder / _NEGATIVES, known)
        negatives: list[list[str]] = known["ids"]
        return Lesson(self.name, model, data, rows, stored.features, self.digest(), negatives)

    def untrained(self) -> SystemModel:
        """The system before its first step."""
        from setr_lib.systems.bundle import make_model

        base: Mapping[str, Tensor] | None = self._below.stored.tensors() if self._below else None
        return make_model(self.recipe, self.encoder, self.options, base)

    def log(self, run: TrainingRun, result: SystemResult) -> str:
        """Log the system, a reference to its encoder, and held-out queries with their vectors."""
        from setr_lib.registry.place import searched_below
        from setr_lib.registry.system_model import LoggedSystem, log_system

        measured = self._stored(self.untrained()).data  # what could be embedded, and so was ranked
        logged = LoggedSystem(
            record=self.record(),
            result=result,
            reference=_reference(self.context.settings, self.encoder, self.options.encoder),
            held_out=measured.held_out,
            held_out_digest=measured.held_out_digest,
            examples=self._examples(result),
            tags={SOURCE_TAG: self.data.source, "setr.triplets_digest": self.data.digest},
            registered_model=self.registered_model(self.context.settings),
        )
        with searched_below(self.context.settings.base_dir):
            return log_system(run, logged)

    def measure_again(self, artifacts: Mapping[str, Path], progress: Progress) -> float:
        """An earlier version's R@10 on the held-out triplets of today."""
        from setr_lib.systems.bundle import load_system
        from setr_lib.systems.held_out import held_out_ranks, recall

        model = load_system(artifacts[SYSTEM], self.encoder)
        stored = self._stored(model, progress)
        return recall(held_out_ranks(model, stored.data, stored.features, progress))

    def measured_again(
        self, artifacts: Mapping[str, Path], champion: Mapping[str, Path], version: str, progress: Progress
    ) -> float | MeasuredAgain:
        """A champion's R@10 and the version's on those held-out triplets of today that show no image which
        the champion was trained on; they were chosen anew, and would else be easier for it.
        """
        from setr_lib.pipeline.held_out_comparison import compared_again
        from setr_lib.pipeline.learned import trained_on_of
        from setr_lib.registry.system_bundle import held_out_of
        from setr_lib.systems.bundle import load_system
        from setr_lib.systems.held_out import held_out_ranks

        model = load_system(champion[SYSTEM], self.encoder)
        stored = self._stored(model, progress)
        ranks = held_out_ranks(model, stored.data, stored.features, progress)
        name = self.registered_model(self.context.settings)
        return compared_again(
            stored.data,
            ranks,
            held_out_of(artifacts[SYSTEM]),
            trained_on_of(self.context, name, version),
            held_out_of(champion[SYSTEM]),
        )

    def compared(self, artifacts: Mapping[str, Path], champion: Mapping[str, Path]) -> str:
        """The paired difference of the two, where both were ranked on the same held-out triplets."""
        from setr_lib.pipeline.held_out_comparison import paired_in_words
        from setr_lib.registry.system_bundle import held_out_of

        return paired_in_words(held_out_of(artifacts[SYSTEM]), held_out_of(champion[SYSTEM]))

    def in_words(self, result: SystemResult) -> str:
        """How it was trained, and R@10 before and after."""
        if result.reused:
            done = "the same training was finished before: nothing trained"
        elif result.resumed_from:
            done = f"trained on from step {result.resumed_from:,} to {result.steps:,}"
        else:
            done = f"trained {result.steps:,} steps in {result.seconds:.0f} s"
        return (
            f"{done}; held-out R@10 {result.recall_before:.1f} -> {result.recall:.1f} % "
            f"({len(result.ranks):,} triplets, {result.gallery:,} images)"
        )

    def _stored(self, model: SystemModel, progress: Progress = silent) -> StoredFeatures:
        from setr_lib.pipeline.system_data import features_of_data

        return features_of_data(self.context, self.data, self.encoder, model.reads, progress)

    def record(self) -> SystemRecord:
        """What the bundle says of the training."""
        from setr_lib.pixel_rules import common_rules
        from setr_lib.systems.bundle import SystemRecord

        return SystemRecord(
            system=self.name,
            options=self.options.model_dump(mode="json"),
            encoder_id=self.encoder.id,
            preprocessing_id=self.encoder.preprocessing_id,
            run=self.digest(),
            pixels=common_rules(self.data.images["pixels"]) if "pixels" in self.data.images.columns else "",
        )

    def _examples(self, result: SystemResult) -> Any:
        from safetensors.torch import load_file

        from setr_lib.pixels import as_picture_file
        from setr_lib.registry.system_bundle import example_frame
        from setr_lib.systems.held_out import encoded_images, encoded_queries
        from setr_lib.systems.training import WEIGHTS

        model = self.untrained()
        model.load_state_dict(load_file(result.folder / WEIGHTS), strict=True)
        stored = self._stored(model)
        features, chosen = stored.features, stored.data.held_out.head(_EXAMPLES)
        references, texts = chosen["reference_id"].to_list(), chosen["modification"].to_list()
        return example_frame(
            [as_picture_file(features.paths[image]).content_as_shown() for image in references],
            texts,
            encoded_queries(model, features, references, texts),
            encoded_images(model, features, references),
        )


def _reference(settings: Settings, encoder: OpenClipSpace, name: str) -> EncoderReference:
    """Where an encoder is, the embedding space ``name`` of the settings."""
    from setr_lib.registry.place import Project
    from setr_lib.registry.system_bundle import encoder_reference

    if name == DEFAULT_SPACE:
        described = settings.models.encoder
        options = {"name": settings.encoder_name, "pretrained": _from_anywhere(described.pretrained)}
        return encoder_reference(encoder, OPEN_CLIP, options, described.name, Project.of(settings))
    space, options = settings.spaces[name], settings.space_options(name)
    if "pretrained" in options:
        options["pretrained"] = _from_anywhere(options["pretrained"])
    named = str(space.options.get("name") or space.options.get("model", ""))
    return encoder_reference(encoder, space.kind, options, named, Project.of(settings))


def _from_anywhere(pretrained: Any) -> Any:
    """open_clip's name of weights; of a file its absolute path: a fresh process starts in another folder."""
    if isinstance(pretrained, str) and Path(pretrained).is_file():
        return str(Path(pretrained).resolve())
    return pretrained


@cache
def retrieval_system(recipe: Recipe) -> type[RetrievalSystem]:
    """The trained system of a recipe.

    Args:
        recipe: Which system.

    Returns:
        A class, made with a context where it is used.
    """
    name, model = recipe.name, f"setr-{recipe.name.replace('_', '-')}"
    return type(
        "".join(part.capitalize() for part in name.split("_")) + "System",
        (RetrievalSystem,),
        {
            "__doc__": f"{recipe.summary[0].upper()}{recipe.summary[1:]}. Learns from {recipe.learns_from}: "
            f"`[systems.{name}] triplets` says whose. Measured by R@10 on held-out triplets, which share no "
            f"image with the training ones. Source: {recipe.source}.",
            "__module__": __name__,
            "recipe": recipe,
            "name": name,
            "promoted_by": f"promoted_{name}",
            "registered_model": staticmethod(lambda settings: model),
        },
    )


def known_system(name: str) -> type[RetrievalSystem]:
    """The trained retrieval system of a name.

    Args:
        name: A name of ``RECIPES``.

    Returns:
        Its class.

    Raises:
        SetrError: There is none.
    """
    if name not in RECIPES:
        known = ", ".join(RECIPES) + did_you_mean(name, RECIPES)
        raise SetrError(f"[systems.{name}]: there is no trained retrieval system {name!r}; known: {known}")
    return retrieval_system(RECIPES[name])
