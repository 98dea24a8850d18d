"""The adapter's training: it learns, touches the language model only, repeats itself exactly, and survives
SIGKILL.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch  # noqa: TID253
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from setr_lib.models.multimodal import Picture
from setr_lib.reranking.held_out import HeldOutError, judge_pair_frame
from setr_lib.reranking.lora import AdapterError, lora_layers, lora_targets, trainable_parameters
from setr_lib.reranking.scorer import JudgedQuery
from setr_lib.reranking.training import train_adapter
from setr_lib.reranking.training_result import AdapterResult
from setr_lib.reranking.training_step import LabelledQuery, YesNoObjective, groups_of
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import AdapterSettings
from setr_lib.training.checkpoint import FolderBusyError, only_trainer
from setr_lib.training.course import tell_course
from setr_lib.training.loop import begin_step, learning_rate_at
from tests.reranking import judge_worlds as worlds
from tests.tiny_judges import tiny_picture

REPOSITORY = Path(__file__).parents[2]
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    worlds.load_tiny_judge(folder)
    return folder


@pytest.fixture
def base(judge_folder: Path) -> YesNoJudge:
    return worlds.load_tiny_judge(judge_folder)


def train(base: YesNoJudge, folder: Path, **changes: object) -> AdapterResult:
    return train_adapter(base, worlds.pairs(), worlds.pictures(), worlds.settings(**changes), folder)


@pytest.fixture(scope="module")
def trained(judge_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AdapterResult:
    return train(worlds.load_tiny_judge(judge_folder), tmp_path_factory.mktemp("trained"))


def test_it_learns_what_the_base_does_not_know(trained: AdapterResult) -> None:
    assert trained.after.auc > max(0.75, trained.before.auc + 0.15)
    assert set(trained.after.auc_by_kind) == {
        "coarse_negative",
        "reference_negative",
        "shuffled_text_negative",
    }
    assert trained.steps == 22
    assert trained.curve.height == trained.steps
    assert trained.curve["loss"].tail(5).mean() < trained.curve["loss"].head(5).mean()  # pyright: ignore[reportOperatorIssue]
    assert (trained.resumed_from, trained.reused) == (0, False)


def test_the_saved_adapter_scores_as_in_training_and_the_base_as_before(
    trained: AdapterResult, judge_folder: Path, tmp_path: Path
) -> None:
    base = worlds.load_tiny_judge(judge_folder)
    weights = {name: tensor.clone() for name, tensor in base.model.model.state_dict().items()}
    again = train(base, tmp_path, epochs=0.5)
    assert set(base.model.model.state_dict()) == set(weights)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.model.model.state_dict().items())
    held_out = worlds.pairs().filter(split="held_out")
    now = judge_pair_frame(base, held_out, worlds.pictures())
    np.testing.assert_allclose(now, again.held_out["before"].to_numpy(), atol=1e-5)
    adapted = worlds.judge_of(judge_folder, trained.folder)
    scores = judge_pair_frame(adapted, held_out, worlds.pictures())
    np.testing.assert_allclose(scores, trained.held_out["after"].to_numpy(), atol=1e-4)
    assert np.abs(scores - now).max() > 0.5


def test_the_same_seed_trains_the_same_adapter_and_a_finished_one_is_reused(
    trained: AdapterResult, base: YesNoJudge, tmp_path: Path
) -> None:
    again = train(base, tmp_path)
    assert _largest_gap(again.folder, trained.folder) < 1e-6
    told: list[int] = []
    reused = train_adapter(
        base,
        worlds.pairs(),
        worlds.pictures(),
        worlds.settings(checkpoint_every=9),  # how often it saves is no part of what it is
        tmp_path,
        on_metrics=lambda step, values: told.append(step) if "loss" in values else None,
    )
    assert reused.reused
    assert (reused.run, reused.after) == (again.run, again.after)
    assert told == list(range(1, 23))
    other = train(base, tmp_path, seed=12)
    assert not other.reused
    assert _largest_gap(other.folder, trained.folder) > 1e-3


def test_measuring_in_between_changes_no_bit_of_the_adapter(judge_folder: Path, tmp_path: Path) -> None:
    """Not even where the memory of vision outputs is too small for the training images."""
    adapters: list[bytes] = []
    points: dict[int, Mapping[str, float]] = {}

    def listen(step: int, values: Mapping[str, float]) -> None:
        if "held_out_auc" in values:
            points[step] = values

    for often in (1, 4):
        base = worlds.load_tiny_judge(judge_folder)
        base.model.vision.memory.limit = 20_000
        torch.manual_seed(often)  # what is drawn outside of the training is of no consequence
        options = worlds.settings(epochs=1.5, held_out_points=often)
        done = train_adapter(
            base, worlds.pairs(), worlds.pictures(), options, tmp_path / str(often), on_metrics=listen
        )
        adapters.append((done.folder / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
    assert list(points) == [2, 4, 7] and done.steps == 9
    assert all(0 <= values["held_out_auc"] <= 1 for values in points.values())
    assert len({values["held_out_auc"] for values in points.values()} - {done.before.auc}) > 1
    again: list[int] = []
    tell_course(tmp_path / "4", done.run, lambda step, values: again.append(step))
    assert again == [2, 4, 7], "as a finished training tells them"


def test_killed_it_goes_on_from_its_last_checkpoint_to_the_same_end(
    trained: AdapterResult, base: YesNoJudge, judge_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.reranking.train_in_process", str(judge_folder), str(tmp_path)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reached = 0
    for line in process.stdout:
        if found := re.match(r"step (\d+)", line):
            reached = int(found[1])
            if reached == 11:
                os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert reached < trained.steps
    assert not (tmp_path / "result.json").exists()
    resumed = train(base, tmp_path)
    assert resumed.resumed_from == reached // 3 * 3, "at most one interval of three steps is repeated"
    assert resumed.curve["step"].to_list() == list(range(1, trained.steps + 1))
    np.testing.assert_allclose(resumed.curve["loss"], trained.curve["loss"], atol=1e-5)
    assert _largest_gap(resumed.folder, trained.folder) < 1e-5
    np.testing.assert_allclose(resumed.held_out["after"], trained.held_out["after"], atol=1e-4)


def test_two_trainings_of_one_folder_train_once(
    trained: AdapterResult, base: YesNoJudge, judge_folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.reranking.train_in_process", str(judge_folder), str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("step 2"):
                break
        with pytest.raises(FolderBusyError, match=rf"{tmp_path}: another training \(process {first.pid}\)"):
            train(base, tmp_path, seed=12)
        assert first.poll() is None, "another training does not wait"
        told: list[str] = []
        second = train_adapter(
            base,
            worlds.pairs(),
            worlds.pictures(),
            worlds.settings(),
            tmp_path,
            progress=lambda done, total, what: told.append(what),
        )
        first.stdout.read()
    assert first.returncode == 0
    assert second.reused and second.steps == trained.steps
    assert told and all(f"process {first.pid} runs this very training" in words for words in told)
    assert _largest_gap(second.folder, trained.folder) < 1e-5


def test_a_lock_goes_with_its_thread_and_its_process(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    entered = threading.Event()

    def other(run: str) -> str:
        try:
            with only_trainer(folder, run, lambda *_: entered.set()):
                return "trains"
        except FolderBusyError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        with only_trainer(folder, "a"), only_trainer(folder, "a"):
            same, another = pool.submit(other, "a"), pool.submit(other, "b")
            assert str(folder) in another.result(timeout=30)
            assert entered.wait(timeout=30) and not same.done()
        assert same.result(timeout=30) == "trains"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from setr_lib.training.checkpoint import only_trainer\n"
        "with only_trainer(Path(sys.argv[1]), 'killed'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=REPOSITORY, check=False)
    assert other("b") == "trains", "what a killed training leaves behind stops nobody"


def test_nothing_is_written_but_safetensors_json_and_tables(trained: AdapterResult) -> None:
    files = [path for path in trained.folder.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json", ".parquet"}
    assert len([path for path in trained.folder.parent.iterdir() if path.name.startswith("step-")]) == 1


@pytest.mark.parametrize("kind", ["llava", "llava_qwen2", "qwen3_vl", "qwen2_5_vl"])
def test_only_the_language_model_is_adapted(kind: str, tmp_path: Path) -> None:
    base = worlds.load_tiny_judge(tmp_path, kind)
    with lora_layers(base.model, AdapterSettings()):
        adapted = {name.partition(".lora_")[0] for name in trainable_parameters(base.model.model)}
    assert (
        len(adapted) == 3 * 7
    )  # layers x target modules: all of the text decoder's, none of the vision tower's
    assert all(".language_model." in name for name in adapted)
    assert not any("lora_" in name for name, _ in base.model.model.named_parameters())


def test_unknown_target_modules_are_refused_by_name(base: YesNoJudge) -> None:
    with pytest.raises(AdapterError, match=r"\['qkv'\].*'down_proj'.*'q_proj'"):
        lora_targets(base.model.model, ["qkv"])


@pytest.mark.parametrize("kind", ["llava", "llava_qwen2", "qwen3_vl", "qwen2_5_vl"])
def test_shared_prefixes_give_the_gradients_of_whole_sequences(kind: str, tmp_path: Path) -> None:
    base = worlds.load_tiny_judge(tmp_path, kind)
    pictures = worlds.pictures()
    if kind.startswith("qwen"):  # two numbers of tokens in one batch
        pictures |= {
            f"i{number}": Picture(f"p{number}", tiny_picture(number, (64, 48))) for number in range(20)
        }
    with lora_layers(base.model, worlds.settings(dropout=0.0)):
        groups = groups_of(worlds.pairs().filter(split="train"), pictures)
        job = YesNoObjective(base, groups, worlds.settings(dropout=0.0))
        assert job.shares_prefixes
        torch.manual_seed(0)
        for name, parameter in job.parameters.items():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        batch = job.batch_at(0)
        base.model.model.train()
        losses = [job._backward(batch, batch)]
        shared = {name: parameter.grad.clone() for name, parameter in job.parameters.items()}  # pyright: ignore[reportOptionalMemberAccess]
        begin_step(job.parameters, 0, 0)
        job._differences = job._plain_differences
        losses.append(job._backward(batch, batch))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in shared.values())
    for name, parameter in job.parameters.items():
        assert parameter.grad is not None
        assert float((parameter.grad - shared[name]).abs().max()) < 1e-5 * largest, name


def test_where_prefixes_cannot_be_shared_pairs_are_trained_one_by_one(
    base: YesNoJudge, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = groups_of(worlds.pairs().filter(split="train"), worlds.pictures())
    config = base.model.model.get_decoder().config
    usual = config._attn_implementation
    with lora_layers(base.model, worlds.settings()):
        config.attention_dropout = 0.1
        job = YesNoObjective(base, groups, worlds.settings())
        assert not job.shares_prefixes
        assert "one by one (attention with dropout)" in caplog.text
        assert torch.isfinite(torch.tensor(job.gradients(0)))
        config.attention_dropout = 0.0
        shared = base.model.packed.answer_differences
        monkeypatch.setattr(base.model.packed, "answer_differences", lambda *rows: shared(*rows) + 0.01)
        assert not YesNoObjective(base, groups, worlds.settings()).shares_prefixes
        assert "differ from those of its own pass" in caplog.text
    assert config._attn_implementation == usual


def test_a_batch_that_does_not_fit_is_taken_in_parts(base: YesNoJudge, tmp_path: Path) -> None:
    options = worlds.settings(dropout=0.0)
    with lora_layers(base.model, options):
        groups = groups_of(worlds.pairs().filter(split="train"), worlds.pictures())
        job = YesNoObjective(base, groups, options)
        loss = job._accumulate(job.batch_at(0), 0)
        gradients = {name: parameter.grad.clone() for name, parameter in job.parameters.items()}  # pyright: ignore[reportOptionalMemberAccess]
        fits = job._differences

        def small_memory(queries):
            if len(queries) > 6:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return fits(queries)

        job._differences = small_memory
        assert job._accumulate(job.batch_at(0), 0) == pytest.approx(loss, abs=1e-5)
        assert job.micro_batch == 2
        for name, parameter in job.parameters.items():
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3)


BATCHES = st.lists(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=5
)


def test_the_loss_is_the_weighted_mean_over_the_whole_batch(base: YesNoJudge, tmp_path: Path) -> None:
    picture = worlds.pictures()["i0"]
    train_pairs = worlds.pairs().filter(split="train")
    with lora_layers(base.model, AdapterSettings()):
        groups = groups_of(train_pairs, worlds.pictures())
        job = YesNoObjective(base, groups, worlds.settings())

    count = {label: train_pairs.filter(label=label).height for label in (True, False)}
    assert count[False] > count[True]
    assert job.weights[True] * count[True] == pytest.approx(job.weights[False] * count[False])

    @given(BATCHES)
    @settings(deadline=None)
    def holds(batch: list[list[tuple[float, bool]]]) -> None:
        scores = [torch.tensor([d for d, _ in each], requires_grad=True) for each in batch]
        made = [
            (
                LabelledQuery(
                    JudgedQuery(picture, str(number), (picture,) * len(group)),
                    tuple(label for _, label in group),
                ),
            )
            for number, group in enumerate(batch)
        ]
        job._differences = lambda queries: torch.cat([scores[int(query.modification)] for query in queries])
        d = np.array([score for each in batch for score, _ in each], dtype=np.float32).astype(float)
        yes = np.array([label for each in batch for _, label in each])
        weights = np.where(yes, job.weights[True], job.weights[False])
        expected = (weights * np.logaddexp(0, np.where(yes, -d, d))).sum() / weights.sum()
        slopes = weights * (1 / (1 + np.exp(-d)) - yes) / weights.sum()
        for parts in ([made], [[group] for group in made]):
            loss = sum(job._backward(part, made) for part in parts)
            assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
            gradients = torch.cat([score.grad for score in scores if score.grad is not None]).numpy()
            np.testing.assert_allclose(gradients, slopes, rtol=1e-3, atol=1e-6)
            for score in scores:
                score.grad = None

    holds()


def test_each_epoch_has_every_group_once_in_an_order_of_its_own(base: YesNoJudge, tmp_path: Path) -> None:
    groups = groups_of(worlds.pairs().filter(split="train"), worlds.pictures())

    def epochs(seed: int) -> list[list[int]]:
        """The places of the groups in the order of the first two epochs."""
        options = worlds.settings(seed=seed, groups_per_batch=7)
        with lora_layers(base.model, options):
            job = YesNoObjective(base, groups, options)
        places = {id(group): number for number, group in enumerate(groups)}
        steps = [
            places[id(group)] for step in range(2 * len(groups) // 7 + 1) for group in job.batch_at(step)
        ]
        return [steps[start : start + len(groups)] for start in range(0, 2 * len(groups), len(groups))]

    first, second = epochs(1)
    assert sorted(first) == sorted(second) == list(range(len(groups)))
    assert first != second
    assert epochs(1) == [first, second]
    assert epochs(2)[0] != first


def test_the_learning_rate_warms_up_and_falls() -> None:
    options = AdapterSettings(learning_rate=1.0, warmup_share=0.1)
    rates = [learning_rate_at(step, 100, options) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.01 + 0.99 / 2), "half-way down, half of what there is to lose"
    assert 0.01 < rates[-1] < 0.0104
    assert learning_rate_at(100, 100, options) == pytest.approx(0.01)


def test_what_cannot_be_trained_on_is_said(base: YesNoJudge, tmp_path: Path) -> None:
    only_train = worlds.pairs().filter(split="train")
    with pytest.raises(AdapterError, match="0 held-out pairs"):
        train_adapter(base, only_train, worlds.pictures(), worlds.settings(), tmp_path)
    few = {name: picture for name, picture in worlds.pictures().items() if name != "i0"}
    with pytest.raises(HeldOutError, match=r"1 images.*'i0'"):
        train_adapter(base, worlds.pairs(), few, worlds.settings(), tmp_path)
    with pytest.raises(AdapterError, match="learning_rate"):
        # More than settings allow: no small model loses its head as quickly at less.
        wild = worlds.settings(epochs=1.0).model_copy(update={"learning_rate": 1e30})
        train_adapter(base, worlds.pairs(), worlds.pictures(), wild, tmp_path)
    assert not any("lora_" in name for name, _ in base.model.model.named_parameters()), (
        "the base is given back clean"
    )


def test_checkpoints_of_another_training_are_not_continued(base: YesNoJudge, tmp_path: Path) -> None:
    train(base, tmp_path, epochs=0.5)
    fewer = worlds.pairs().filter(pl.col("group") != "g0")
    result = train_adapter(base, fewer, worlds.pictures(), worlds.settings(epochs=0.5), tmp_path)
    assert (result.resumed_from, result.reused) == (0, False)


def _largest_gap(mine: Path, theirs: Path) -> float:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (mine, theirs))
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)
