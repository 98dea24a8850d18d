"""Damaged checkpoints, notes and bundles: a training goes on from the last whole checkpoint and says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest
import torch  # noqa: TID253
from damages import (
    Damage,
    a_file,
    a_folder,
    assert_told,
    cut,
    emptied,
    garbage,
    gone,
    mend,
    name_of,
    text,
)
from safetensors.torch import save_file

from setr_lib.faults import safetensors_fault
from setr_lib.files import read_json, write_json
from setr_lib.registry.bundle import BaseReference, Bundle
from setr_lib.registry.errors import RegistryError
from setr_lib.training.checkpoint import load_checkpoint, save_checkpoint
from setr_lib.training.notes import is_numbers, read_note

RUN = "a" * 32


def trained(folder: Path, *steps: int) -> None:
    """Checkpoints of ``steps``, in each of which the weight is the step's number."""
    made: list[Path] = []
    for step in steps:
        weight, optimiser = parameter(float(step))
        weight.grad = torch.ones_like(weight)
        optimiser.step()
        with torch.no_grad():
            weight.fill_(float(step))
        kept = folder.with_name(f"kept-{step}")
        path = save_checkpoint(folder, {"weight": weight}, optimiser, {"run": RUN, "step": step, "curve": []})
        shutil.copytree(path, kept / path.name)
        made.append(kept / path.name)
    for path in made:
        shutil.copytree(path, folder / path.name, dirs_exist_ok=True)


def parameter(value: float = 0.0) -> tuple[torch.nn.Parameter, torch.optim.AdamW]:
    weight = torch.nn.Parameter(torch.full((40,), value))
    return weight, torch.optim.AdamW([weight], lr=0.0)


def resumed(folder: Path) -> tuple[int, float]:
    """The step that a training goes on from, and the weight that it has then; 0 and 0 for one anew."""
    weight, optimiser = parameter()
    state = load_checkpoint(folder, {"weight": weight}, optimiser, RUN)
    return (0 if state is None else state["step"]), float(weight.detach()[0])


DAMAGES: list[tuple[str, Damage]] = [
    *(
        (file, damage)
        for file in ("weights.safetensors", "moments.safetensors")
        for damage in (gone, cut, emptied, garbage, a_folder)
    ),
    *(
        ("state.json", damage)
        for damage in (gone, cut, emptied, garbage, text("[]"), text("{}"), text('{"run": 5, "step": 1}'))
    ),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES, ids=name_of)
def test_a_training_goes_on_from_the_last_whole_checkpoint_and_says_so(
    tmp_path: Path, file: str, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "var" / "checkpoints" / RUN[:16]
    trained(folder, 2, 4)
    damage(folder / "step-000004" / file)
    assert resumed(folder) == (2, 2.0)
    (said,) = caplog.messages
    assert_told(said, "checkpoints", "step-000004", file)
    assert (folder / "damaged-step-000004").is_dir(), "nothing is deleted"
    damage(folder / "step-000002" / file)
    assert resumed(folder) == (0, 0.0)
    assert mend(tmp_path, "checkpoints") == 0
    assert [path.name for path in folder.iterdir()] == []
    assert len(list((tmp_path / "var" / "set-aside").glob("*/checkpoints/*/damaged-step-*"))) == 2


def test_a_checkpoint_with_values_that_are_no_numbers_is_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "training"
    trained(folder, 2, 4)
    save_file({"weight": torch.full((40,), float("nan"))}, folder / "step-000004" / "weights.safetensors")
    assert resumed(folder) == (2, 2.0)


def test_repair_leaves_whole_trainings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "var" / "checkpoints" / RUN[:16]
    trained(folder, 4)
    write_json(folder / "before.json", {"run": RUN, "scores": [0.5]})
    assert mend(tmp_path, "checkpoints") == 0
    assert "nothing is damaged" in capsys.readouterr().out
    assert resumed(folder) == (4, 4.0)


def test_a_result_goes_with_the_damaged_file_that_it_vouches_for(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "checkpoints" / RUN[:16]
    trained(folder, 4)
    save_file({"a": torch.ones(9)}, folder / "weights.safetensors")
    write_json(folder / "result.json", {"run": RUN})
    cut(folder / "weights.safetensors")
    assert mend(tmp_path, "checkpoints") == 0
    assert [path.name for path in folder.iterdir()] == ["step-000004"]


@pytest.mark.parametrize("name", ["checkpoints", f"checkpoints/{RUN[:16]}"])
def test_a_file_in_the_place_of_a_folder_is_set_aside(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "var" / "checkpoints" / RUN[:16]
    trained(folder, 4)
    a_file(tmp_path / "var" / name)
    assert mend(tmp_path, "checkpoints") == 0
    trained_again = tmp_path / "var" / "checkpoints" / RUN[:16]
    shutil.rmtree(trained_again.with_name("kept-4"), ignore_errors=True)
    trained(trained_again, 4)
    assert resumed(trained_again) == (4, 4.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        "{}",
        '{"scores": [1, 2]}',
        f'{{"run": "{RUN}"}}',
        f'{{"run": "{RUN}", "scores": [1]}}',
        f'{{"run": "{RUN}", "scores": [1, "2"]}}',
        f'{{"run": "{RUN}", "scores": {{}}}}',
        '{"run": 1, "scores": [1, 2]}',
    ],
)
def test_a_damaged_note_is_put_aside_and_made_again(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "before.json"
    path.write_text(content, encoding="utf-8")
    assert read_note(path, RUN, lambda note: is_numbers(note["scores"], 2)) is None
    assert_told(caplog.text.partition("notes.py")[2] or caplog.messages[0], "checkpoints", "before.json")
    assert (tmp_path / "damaged-before.json").read_text(encoding="utf-8") == content


def test_the_note_of_another_training_is_none_and_a_whole_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    write_json(path, {"run": RUN, "scores": [1, 2]})
    assert read_note(path, "another", lambda _: False) is None
    assert path.exists()
    assert (read_note(path, RUN, lambda note: is_numbers(note["scores"], 2)) or {})["scores"] == [1, 2]


def model(folder: Path) -> Path:
    """The files of a logged adapter, and of the training that made it."""
    logged = folder / "var" / "mlartifacts" / "setr" / "models" / "m-1" / "artifacts"
    bundle = logged / "artifacts"
    (bundle / "judge" / "prompts").mkdir(parents=True)
    (bundle / "adapter").mkdir()
    (logged / "MLmodel").write_text("flavors: {}", encoding="utf-8")
    (bundle / "judge" / "prompts" / "judge.jinja").write_text("Yes?", encoding="utf-8")
    base = BaseReference("m", None, None, "m@d/float32", None, "float32", False)
    record = {"run": RUN, "base": asdict(base), "prompt_hash": "p"}
    write_json(bundle / "judge" / "reranker.json", record)
    pl.DataFrame({"label": [True]}).write_parquet(bundle / "judge" / "examples.parquet")
    training = folder / "var" / "checkpoints" / RUN[:16]
    for place in (bundle / "adapter", training / "adapter"):
        place.mkdir(parents=True, exist_ok=True)
        save_file({"lora": torch.arange(40.0)}, place / "adapter_model.safetensors")
        write_json(place / "adapter_config.json", {"r": 2})
    write_json(training / "result.json", {"run": RUN})
    return bundle


@pytest.mark.parametrize("damage", [gone, cut, emptied, garbage, a_folder], ids=name_of)
def test_a_damaged_adapter_comes_back_from_its_training(
    tmp_path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = model(tmp_path)
    weights = bundle / "adapter" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    damage(weights)
    with pytest.raises(RegistryError) as told:
        Bundle(bundle / "adapter", bundle / "judge").check()
    assert_told(str(told.value), "registry", weights)
    assert mend(tmp_path, "registry") == 0
    assert "a whole one of the same training is back" in capsys.readouterr().out
    assert weights.read_bytes() == whole and safetensors_fault(weights) is None


@pytest.mark.parametrize("damage", [gone, cut, text("[]"), text("{}")], ids=name_of)
def test_a_model_that_cannot_be_mended_is_set_aside(tmp_path: Path, damage: Damage) -> None:
    bundle = model(tmp_path)
    damage(bundle / "judge" / "reranker.json")
    with pytest.raises(RegistryError) as told:
        _ = Bundle(bundle / "adapter", bundle / "judge").record
    assert_told(str(told.value), "registry", "reranker.json")
    assert mend(tmp_path, "registry") == 0
    assert not bundle.exists()
    assert list((tmp_path / "var" / "set-aside").glob("*-registry/mlartifacts/setr/models/m-1"))


def test_a_whole_model_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = model(tmp_path)
    Bundle(bundle / "adapter", bundle / "judge").check()
    assert mend(tmp_path, "registry") == 0
    assert "nothing is damaged" in capsys.readouterr().out
    assert json.loads((bundle / "judge" / "reranker.json").read_text())["run"] == RUN
    assert read_json(bundle / "adapter" / "adapter_config.json") == {"r": 2}
