"""The judge's adapter as a trained system: Yes/No pairs, LoRA, AUC on held-out pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setr_lib.pipeline.trained_system import TrainedSystem
from setr_lib.progress import Progress
from setr_lib.records import PairsRecord
from setr_lib.registry.measure import Measure
from setr_lib.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.models.multimodal import Picture
    from setr_lib.registry.runs import TrainingRun
    from setr_lib.reranking.training_result import AdapterResult
    from setr_lib.reranking.yes_no_judge import YesNoJudge
    from setr_lib.training.loop import OnMetrics
    from setr_lib.training.trained_on import TrainedOn


class AdapterSystem(TrainedSystem["AdapterResult"]):
    """A LoRA adapter of the judge's language model, trained on the Yes/No pairs, and its held-out scores
    before and after.

    Killed, it goes on from its last checkpoint; where model, prompt, pairs and settings are as before,
    nothing is trained.
    """

    name = "adapter"
    measure = Measure("AUC", "setr.held_out_auc")
    must_equal: ClassVar[Mapping[str, str]] = {
        "setr.base_id": "adapts another base",
        "setr.prompt_hash": "answers another prompt",
    }
    artifacts = ("adapter", "judge")
    promoted_by = "promoted_reranker"

    @staticmethod
    def registered_model(settings: Settings) -> str:
        """``[registry] model``."""
        return settings.registry.model

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """The ``PAIRS`` frame of today."""
        from setr_lib.tables import PAIRS

        return self.context.tables.read("reranker_pairs", PAIRS)

    @cached_property
    def pictures(self) -> dict[str, Picture]:
        """The training images, by id."""
        from setr_lib.reranking.held_out import pictures_of
        from setr_lib.tables import TRAINING_IMAGES

        return pictures_of(self.context.tables.read("training_images", TRAINING_IMAGES))

    @cached_property
    def judge(self) -> YesNoJudge:
        """The base judge under the judge prompt that settings name."""
        from setr_lib.pipeline.reranking import yes_no_judge

        return yes_no_judge(self.context)

    def notices(self) -> Sequence[str]:
        """Judge prompts that are not used."""
        warning = self.context.prompts().unused_files_warning()
        return (warning,) if warning else ()

    @cached_property
    def _run(self) -> str:
        from setr_lib.reranking.held_out import require_pictures
        from setr_lib.reranking.training import training_run_digest

        require_pictures(self.pairs, self.pictures)
        options = self.context.settings.reranking.adapter
        return training_run_digest(self.judge, self.pairs, self.pictures, options)

    def digest(self) -> str:
        """Of model, prompt, pairs and settings."""
        return self._run

    def parameters(self) -> Mapping[str, object]:
        """The settings, the base, the pairs and what these were made from."""
        made = self.context.tables.read_record("reranker_pairs", PairsRecord)
        options = self.context.settings.reranking.adapter.model_dump()
        pairs = self.context.settings.reranking.pairs.model_dump()
        return {
            **{name: str(value) for name, value in options.items()},
            **{f"pairs.{name}": str(value) for name, value in pairs.items()},
            "base": self.judge.model.id,
            "pairs_digest": made.digest,
            "encoder": made.encoder,
            "training_table": made.table,
            "training_table_version": made.version,
        }

    def trained_on(self) -> TrainedOn:
        """The images of the pairs, and the triplets that the positive ones are. Held-out pairs count: they
        decide which version is champion.
        """
        import polars as pl

        from setr_lib.pipeline.training_origin import origin_of_training
        from setr_lib.tables import TRAINING_IMAGES

        pairs = self.pairs
        named = pl.concat([pairs["reference_id"], pairs["candidate_id"]]).unique()
        images = self.context.tables.read("training_images", TRAINING_IMAGES)
        positive = pairs.filter("label").rename({"candidate_id": "target_id"})
        used = images.filter(pl.col("image_id").is_in(named.implode()))
        return origin_of_training(self.context.settings).trained_on(used, positive)

    def finished(self, folder: Path) -> AdapterResult | None:
        """The adapter in ``folder``, if this very training made it."""
        from setr_lib.reranking.training_result import load_result

        return load_result(folder, self.digest())

    def train(self, folder: Path, progress: Progress, on_metrics: OnMetrics) -> AdapterResult:
        """Train the adapter and measure it on the held-out pairs."""
        from setr_lib.reranking.training import train_adapter

        options = self.context.settings.reranking.adapter
        return train_adapter(
            self.judge, self.pairs, self.pictures, options, folder, progress=progress, on_metrics=on_metrics
        )

    def log(self, run: TrainingRun, result: AdapterResult) -> str:
        """Log the adapter, a reference to its base, its prompt and scored examples."""
        from setr_lib.registry.bundle import base_reference
        from setr_lib.registry.place import Project, searched_below
        from setr_lib.registry.reranker_model import log_adapter

        settings = self.context.settings
        project = Project.of(settings)
        reference = base_reference(self.judge.model, settings.models.judge, settings.judge_name, project)
        model = self.registered_model(settings)
        with searched_below(settings.base_dir):
            return log_adapter(run, result, reference, self.judge.template, self.pictures, model)

    def measure_again(self, artifacts: Mapping[str, Path], progress: Progress) -> float:
        """An earlier adapter's AUC on the held-out pairs of today, under its own prompt."""
        from setr_lib.registry.bundle import Bundle
        from setr_lib.reranking.held_out import judge_pair_frame, measure
        from setr_lib.reranking.yes_no_judge import YesNoJudge

        bundle = Bundle(**artifacts)
        held_out = self.pairs.filter(split="held_out")
        judge = YesNoJudge(self.context.models.fresh_multimodal(bundle.adapter), bundle.judge_prompt)
        scores = judge_pair_frame(judge, held_out, self.pictures, progress=progress)
        return measure(held_out, scores).auc

    def in_words(self, result: AdapterResult) -> str:
        """How it was trained, and the AUC before and after."""
        if result.reused:
            done = "the same training was finished before: nothing trained"
        elif result.resumed_from:
            done = f"trained on from step {result.resumed_from:,} to {result.steps:,}"
        else:
            done = f"trained {result.steps:,} steps in {result.seconds:.0f} s"
        auc = f"{done}; held-out AUC {result.before.auc:.3f} -> {result.after.auc:.3f}"
        return auc + (f"; {result.left_out:,} pairs left out: unusable pictures" if result.left_out else "")
