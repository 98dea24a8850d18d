"""Training of the judge's LoRA adapter on Yes/No pairs (LamRA-Rank's recipe, arXiv 2412.01720, without its
list-wise part).

PEFT LoRA on the language model only; the loss is binary cross-entropy on d = logit(Yes) - logit(No), which is
the cross-entropy over the two answer tokens. The vision tower is frozen, so each image goes through it once.
A training is a function of its inputs and its seed: killed and started again, it goes on from its last
checkpoint to the same end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from setr_lib.files import write_json
from setr_lib.hashing import digest_json, digest_strings
from setr_lib.models.multimodal import Picture
from setr_lib.progress import Progress, silent
from setr_lib.reranking.held_out import judge_pair_frame, measure, require_pictures
from setr_lib.reranking.lora import (
    AdapterError,
    lora_layers,
    save_adapter,
)
from setr_lib.reranking.pairs import pairs_digest
from setr_lib.reranking.training_result import (
    ADAPTER_FOLDER,
    AdapterResult,
    curve_frame,
    library_versions,
    load_result,
    store_result,
)
from setr_lib.reranking.training_step import YesNoObjective, groups_of
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import AdapterSettings
from setr_lib.training.checkpoint import only_trainer
from setr_lib.training.course import HeldOutCourse, measured_steps, tell_course
from setr_lib.training.loop import (
    OnMetrics,
    TrainingLoop,
    replay,
)
from setr_lib.training.notes import is_numbers, read_note

if TYPE_CHECKING:
    pass

_LOG = logging.getLogger(__name__)
_BEFORE = "before.json"
_FORMAT = (
    2  # part of a run's digest: raise it when the training changes, so that old checkpoints are not continued
)


def train_adapter(
    judge: YesNoJudge,
    pairs: pl.DataFrame,
    pictures: Mapping[str, Picture],
    settings: AdapterSettings,
    checkpoint_dir: Path,
    *,
    progress: Progress = silent,
    on_metrics: OnMetrics | None = None,
) -> AdapterResult:
    """Train a LoRA adapter on the "train" rows of pairs and measure it on the "held_out" rows.

    The adapter is trained and measured under the judge's prompt. A second call with the same inputs returns
    at once; one at the same time waits for the first.

    Args:
        judge: The base model, without an adapter, and its prompt; as before when this returns.
        pairs: A ``PAIRS`` frame.
        pictures: The images by id.
        settings: Of the training.
        checkpoint_dir: Holds the checkpoints, the finished adapter and its result.
        progress: Told how far it is.
        on_metrics: Told the loss and the learning rate of each step.

    Returns:
        The adapter and its held-out scores, before and after.

    Raises:
        AdapterError: The adapter cannot be trained with these settings.
        HeldOutError: Images of the pairs are missing.
        FolderBusyError: Another training uses ``checkpoint_dir`` now.
    """
    require_pictures(pairs, pictures)
    run = training_run_digest(judge, pairs, pictures, settings)
    with only_trainer(checkpoint_dir, run, progress):
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        finished = load_result(checkpoint_dir, run)
        if finished is not None:
            replay(finished.curve.rows(), on_metrics)
            tell_course(checkpoint_dir, run, on_metrics)
            return finished
        return _train(judge, pairs, pictures, settings, checkpoint_dir, run, progress, on_metrics)


def _train(
    judge: YesNoJudge,
    pairs: pl.DataFrame,
    pictures: Mapping[str, Picture],
    settings: AdapterSettings,
    checkpoint_dir: Path,
    run: str,
    progress: Progress,
    on_metrics: OnMetrics | None,
) -> AdapterResult:
    base = judge.model
    train, held_out = (pairs.filter(pl.col("split") == split) for split in ("train", "held_out"))
    if not train.height or not held_out.height:
        raise AdapterError(f"{train.height} training and {held_out.height} held-out pairs: both are needed")
    with lora_layers(base, settings) as peft_model:
        needed = {*train["reference_id"], *train["candidate_id"]}
        refused = judge.vision.precompute([pictures[name] for name in sorted(needed)], progress)
        train, left_out = _without_refused(train, pictures, refused)
        objective = YesNoObjective(judge, groups_of(train, pictures), settings)
        before = _scores_before(judge, held_out, pictures, checkpoint_dir, run, progress)
        judged = ~np.isnan(before)
        held_out, before = held_out.filter(pl.Series(judged)), before[judged]
        left_out += int((~judged).sum())
        loop = TrainingLoop(objective, settings, objective.total_steps, checkpoint_dir, run)
        course = _course(
            judge, held_out, pictures, checkpoint_dir, loop, settings.held_out_points, on_metrics
        )
        trained = loop.train(progress, on_metrics, course.after)
        course.tell_up_to(trained.resumed_from)
        base.model.eval()
        after = judge_pair_frame(
            judge, held_out, pictures, progress=progress, what="held-out pairs judged (after)"
        )
        folder = save_adapter(peft_model, checkpoint_dir / ADAPTER_FOLDER, base.id)
        trainable = sum(parameter.numel() for parameter in objective.parameters.values())
    result = AdapterResult(
        folder=folder,
        run=run,
        base_id=base.id,
        prompt_hash=judge.prompt_hash,
        pairs_digest=pairs_digest(pairs),
        held_out_digest=pairs_digest(held_out),
        steps=loop.steps,
        seconds=trained.seconds,
        trainable_parameters=trainable,
        resumed_from=trained.resumed_from,
        reused=False,
        before=measure(held_out, before),
        after=measure(held_out, after),
        curve=curve_frame(trained.curve),
        held_out=held_out.with_columns(pl.Series("before", before), pl.Series("after", after)),
        settings=settings,
        versions=library_versions(),
        left_out=left_out,
    )
    store_result(result, checkpoint_dir)
    return result


def _course(
    judge: YesNoJudge,
    held_out: pl.DataFrame,
    pictures: Mapping[str, Picture],
    folder: Path,
    loop: TrainingLoop,
    points: int,
    on_metrics: OnMetrics | None,
) -> HeldOutCourse:
    """The held-out measures in the course of a training."""
    vision = judge.model.vision
    memory = vision.memory.of(
        pictures[name].identity for name in {*held_out["reference_id"], *held_out["candidate_id"]}
    )

    def measured() -> dict[str, float]:
        judge.model.model.eval()
        # The training's own memory stays as it is: which images a later step runs together depends on it.
        with vision.remembering(memory):
            scores = judge_pair_frame(judge, held_out, pictures)
        return measure(held_out, scores).as_metrics("held_out")

    return HeldOutCourse(folder, loop.run, measured_steps(loop.steps, points), measured, on_metrics)


def _without_refused(
    pairs: pl.DataFrame, pictures: Mapping[str, Picture], refused: Mapping[str, str]
) -> tuple[pl.DataFrame, int]:
    """The pairs whose pictures the model's processor takes, and how many it does not.

    Raises:
        AdapterError: None are left.
    """
    names = [name for name, picture in pictures.items() if picture.identity in refused]
    if not names:
        return pairs, 0
    left = pairs.filter(~pl.any_horizontal(pl.col("reference_id", "candidate_id").is_in(names)))
    first = next(iter(refused.values()))
    if left["label"].n_unique() < 2:
        raise AdapterError(
            f"the model takes too few pictures of the {pairs.height} training pairs: both a Yes and a No are "
            f"needed; the first that it does not take: {first}"
        )
    _LOG.warning(
        "%d training pairs are left out: %d of their pictures cannot be used, the first: %s",
        pairs.height - left.height,
        len(refused),
        first,
    )
    return left, pairs.height - left.height


def training_run_digest(
    judge: YesNoJudge, pairs: pl.DataFrame, pictures: Mapping[str, Picture], settings: AdapterSettings
) -> str:
    """Digest of all that determines a training: model, prompt, pairs, their pictures and settings (but not
    how often it saves, or is measured).

    Args:
        judge: The base model and the prompt.
        pairs: A ``PAIRS`` frame.
        pictures: The images by id, as :func:`require_pictures` asks for them.
        settings: Of the training.

    Returns:
        The digest.
    """
    options = settings.model_dump(exclude={"checkpoint_every", "held_out_points"})
    named = sorted({*pairs["reference_id"], *pairs["candidate_id"]})
    shown = digest_strings(part for name in named for part in (name, pictures[name].identity))
    return digest_json([_FORMAT, judge.model.id, judge.prompt_hash, pairs_digest(pairs), shown, options])


def _scores_before(
    judge: YesNoJudge,
    held_out: pl.DataFrame,
    pictures: Mapping[str, Picture],
    folder: Path,
    run: str,
    progress: Progress,
) -> np.ndarray:
    """The base judge's scores: a fresh LoRA adds nothing. Kept, so that a resumed training does not judge
    again.
    """
    stored = read_note(folder / _BEFORE, run, lambda note: is_numbers(note["scores"], held_out.height))
    if stored is not None:
        return np.asarray(stored["scores"], dtype=np.float32)
    scores = judge_pair_frame(
        judge, held_out, pictures, progress=progress, what="held-out pairs judged (before)"
    )
    numbers = [None if np.isnan(score) else float(score) for score in scores]
    write_json(folder / _BEFORE, {"run": run, "scores": numbers})
    return scores
