"""The shared training of retrieval systems: batches by the step alone; killed and resumed to the same end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from small_lessons import lesson_of, small_data

from setr_lib.progress import silent
from setr_lib.systems.data import SystemData
from setr_lib.systems.features import ImageBatch, TripletBatch
from setr_lib.systems.objective import SystemObjective
from setr_lib.systems.options import PromptTunedOptions
from setr_lib.systems.training import (
    RECALL_METRIC,
    Lesson,
    SystemResult,
    load_result,
    stored_tensors,
    train_system,
)
from setr_lib.training.course import tell_course
from setr_lib.training.loop import Objective, TrainingError, TrainingLoop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SystemData:
    return small_data(tmp_path_factory.mktemp("pictures"))


class Killed(Exception):
    """Stands for the end of the process: nothing after it runs."""


def objective_of(lesson: Lesson) -> SystemObjective:
    return SystemObjective(lesson.name, lesson.model, lesson.rows, lesson.features, lesson.negatives)


def triplets_at(objective: SystemObjective, step: int) -> list[tuple[str, str, str]]:
    batch = objective.batch_at(step)
    assert isinstance(batch, TripletBatch)
    return list(zip(batch.reference_ids, batch.texts, batch.target_ids, strict=True))


def test_a_batch_depends_on_the_step_alone(data: SystemData) -> None:
    """Asked in any order; every triplet comes once before any comes again."""
    forward, backward = (objective_of(lesson_of("prompt_tuned", data)) for _ in range(2))
    drawn = [triplets_at(forward, step) for step in range(9)]
    assert [triplets_at(backward, step) for step in range(8, -1, -1)] == drawn[::-1]
    rows = data.training_triplets(None, 0).select("reference_id", "modification", "target_id").rows()
    assert sorted(chain(*drawn)) == sorted(rows * 4), "nine batches of four of nine triplets"
    other = objective_of(lesson_of("prompt_tuned", data, seed=5))
    assert [triplets_at(other, step) for step in range(9)] != drawn


def test_a_batch_holds_the_features_of_its_images_and_each_ones_own_negatives(data: SystemData) -> None:
    lesson = lesson_of("retrieval_dpo_fused", data)
    batch = objective_of(lesson).batch_at(3)
    assert isinstance(batch, TripletBatch) and batch.negatives is not None
    features, by_row = lesson.features, dict(zip(lesson.rows.rows(), lesson.negatives, strict=True))
    mined = []
    for row in zip(batch.reference_ids, batch.texts, batch.target_ids, strict=True):
        mined += by_row["train", *row]
    for found, ids in (
        (batch.references, batch.reference_ids),
        (batch.targets, batch.target_ids),
        (batch.negatives, mined),
    ):
        assert torch.equal(found.vectors, features.of(ids).vectors)


def test_copies_of_an_image_have_one_id_in_a_batch_and_their_own_features(data: SystemData) -> None:
    """So that no loss takes an image for a negative of itself."""
    same = ["02.png", "04.png"]
    for name, kinds in (("prompt_tuned", ("target_ids", "reference_ids")), ("mapping", ("image_ids",))):
        lesson = lesson_of(name, data, batch_size=500)
        model, rows, features = lesson.model, lesson.rows, lesson.features
        plain = SystemObjective(name, model, rows, features).batch_at(0)
        told = SystemObjective(name, model, rows, features, copies=dict.fromkeys(same, same)).batch_at(0)
        for kind in kinds:
            before, after = getattr(plain, kind), getattr(told, kind)
            assert {"02.png", "04.png"} <= {*before}
            assert after == ["02.png" if image == "04.png" else image for image in before]
        of = "targets" if name == "prompt_tuned" else "images"
        assert torch.equal(getattr(plain, of).vectors, getattr(told, of).vectors)


def test_a_batch_of_images_holds_their_captions(data: SystemData) -> None:
    lesson = lesson_of("mapping", data)
    batch = objective_of(lesson).batch_at(1)
    assert isinstance(batch, ImageBatch)
    captions = dict(lesson.rows.select("image_id", "caption").iter_rows())
    assert batch.captions == [captions[image] for image in batch.image_ids]
    assert torch.equal(batch.images.vectors, lesson.features.of(batch.image_ids).vectors)


def test_a_batch_is_no_larger_than_the_data(data: SystemData) -> None:
    objective = objective_of(lesson_of("prompt_tuned", data, batch_size=500))
    assert len({*triplets_at(objective, 0)}) == len(triplets_at(objective, 7)) == 9


def killed_after(lesson: Lesson, folder: Path, steps: int) -> None:
    """Train, and end the training once so many steps are done."""

    def end(done: int, total: int, what: str) -> None:
        if what == f"{lesson.name} training steps" and done == steps:
            raise Killed

    with pytest.raises(Killed):
        train_system(lesson, folder, end)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("prompt_tuned", {}),
        ("composing", {}),
        ("composing", {"adapter": "lora", "hard_negatives": False}),
        ("pic2word", {}),
    ],
)
def test_a_killed_training_goes_on_to_the_same_end(
    name: str, options: dict[str, Any], data: SystemData, tmp_path: Path
) -> None:
    """The queue of earlier targets, AdamW's moments and dropout included, to the last bit."""
    whole = lesson_of(name, data, **options)
    calm = train_system(whole, tmp_path / "calm")
    killed_after(lesson_of(name, data, **options), tmp_path / "killed", 5)
    resumed = lesson_of(name, data, **options)
    told: list[int] = []
    points: dict[int, float] = {}

    def listen(step: int, values: Mapping[str, float]) -> None:
        if RECALL_METRIC in values:
            points[step] = values[RECALL_METRIC]
        else:
            told.append(step)

    found = train_system(resumed, tmp_path / "killed", silent, listen)
    assert (found.resumed_from, calm.resumed_from, told) == (4, 0, [1, 2, 3, 4, 5, 6])
    again: dict[int, float] = {}
    tell_course(tmp_path / "calm", calm.run, lambda step, values: again.update({step: values[RECALL_METRIC]}))
    assert list(points) == [2, 4] and points == again
    assert (found.ranks, found.ranks_before, found.curve) == (calm.ranks, calm.ranks_before, calm.curve)
    expected = stored_tensors(whole.model)
    for key, tensor in stored_tensors(resumed.model).items():
        assert torch.equal(tensor, expected[key]), key
    for key, tensor in resumed.model.training_state().items():
        assert torch.equal(tensor, whole.model.training_state()[key]), key
    if name == "composing" and not options:
        assert resumed.model.training_state(), "there is a queue to keep"


class Late(Objective):
    """Two numbers that are moved towards 0, the second not in the first three steps."""

    def __init__(self) -> None:
        self.parameters = {name: torch.nn.Parameter(torch.tensor([3.0])) for name in ("first", "second")}
        self.device = torch.device("cpu")
        self.what = "steps"

    def gradients(self, step: int) -> float:
        first, second = self.parameters.values()
        loss = (first**2).sum() + ((second**2).sum() if step >= 3 else 0)
        loss.backward()
        return float(loss.detach())


def test_a_tensor_that_is_moved_from_a_later_step_on_goes_on_as_before(tmp_path: Path) -> None:
    """AdamW corrects its moments by how often a tensor was moved, not by the step of the training."""

    def run(folder: Path, kill_at: int | None = None) -> list[float]:
        objective, settings = Late(), PromptTunedOptions(checkpoint_every=5, learning_rate=0.5)

        def end(done: int, total: int, what: str) -> None:
            if done == kill_at:
                raise Killed

        TrainingLoop(objective, settings, 9, folder, "run").train(end, None)
        return [float(parameter.detach()) for parameter in objective.parameters.values()]

    with pytest.raises(Killed):
        run(tmp_path / "killed", 7)
    assert run(tmp_path / "killed") == run(tmp_path / "calm")


def test_a_checkpoint_without_what_a_step_changes_besides_is_put_aside(
    data: SystemData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed_after(lesson_of("composing", data), tmp_path, 3)
    (more,) = tmp_path.glob("step-*/more.safetensors")
    more.unlink()
    assert train_system(lesson_of("composing", data), tmp_path).resumed_from == 0
    assert "more.safetensors is missing" in caplog.text and "setr repair checkpoints" in caplog.text
    assert (tmp_path / f"damaged-{more.parent.name}").is_dir()


def test_a_finished_training_is_found_again_and_another_is_not(data: SystemData, tmp_path: Path) -> None:
    lesson = lesson_of("prompt_tuned", data)
    done = train_system(lesson, tmp_path)
    told: list[tuple[int, float]] = []
    found = load_result(
        tmp_path,
        lesson.run,
        lambda step, figures: told.append((step, figures["loss"])) if "loss" in figures else None,
    )
    assert isinstance(found, SystemResult) and found.reused and found.folder == tmp_path
    assert (found.ranks, found.recall, found.curve) == (done.ranks, done.recall, done.curve)
    assert told == [(step, loss) for step, loss, _ in done.curve]
    assert load_result(tmp_path, "another run") is None
    (tmp_path / "weights.safetensors").unlink()
    assert load_result(tmp_path, lesson.run) is None


def test_ranks_before_are_those_of_the_untrained_system(data: SystemData, tmp_path: Path) -> None:
    from setr_lib.systems.held_out import held_out_ranks

    lesson = lesson_of("prompt_tuned", data)
    expected = held_out_ranks(lesson.model, data, lesson.features).tolist()
    killed_after(lesson, tmp_path, 4)
    assert train_system(lesson_of("prompt_tuned", data), tmp_path).ranks_before == expected
    other = lesson_of("prompt_tuned", data, seed=99)
    again = Lesson(other.name, other.model, data, other.rows, other.features, "another run")
    expected = held_out_ranks(other.model, data, other.features).tolist()
    assert train_system(again, tmp_path).ranks_before == expected, "kept for one run only"


def test_a_loss_that_is_no_number_names_the_setting(data: SystemData, tmp_path: Path) -> None:
    lesson = lesson_of("prompt_tuned", data)
    with torch.no_grad():
        next(iter(lesson.model.trained().values())).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1 is nan: lower systems\.prompt_tuned\.learning_rate"):
        train_system(lesson, tmp_path)
