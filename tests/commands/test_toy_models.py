"""The miniature's models on data that are not the miniature's: one plain sentence, and silence elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import setr_lib.miniature
from setr_lib.cli import main
from setr_lib.pipeline.toy_models import toy_models_note
from setr_lib.settings import Settings, load_settings

WEIGHTS = Path(setr_lib.miniature.__file__).parent / "weights"
PHOTOS = '[datasets.photos]\nkind = "folder"\nroot = "photos"\n'
DRAWN = '[datasets.circo]\nroot = "var/miniature/circo"\nsplits = ["val"]\n'
TOY_ENCODER = f'[models.encoder]\nname = "local-dir:{WEIGHTS / "clip"}"\n'
TOY_JUDGE = f'[models.judge]\nname = "{WEIGHTS / "mllm"}"\nprompts = "miniature"\n'


def described(folder: Path, text: str) -> Settings:
    (folder / "setr.toml").write_text(text, encoding="utf-8")
    return load_settings(folder / "setr.toml")


def test_both_models_on_photographs_are_told_with_every_key_to_remove(tmp_path: Path) -> None:
    note = toy_models_note(described(tmp_path, PHOTOS + TOY_ENCODER + TOY_JUDGE))
    assert note is not None
    assert note.startswith("encoder and judge are toys") and "photos is not the miniature's" in note
    for key in ("[models.encoder] name", "[models.judge] name", "[models.judge] prompts"):
        assert key in note
    assert "ViT-L-14 with laion2b_s32b_b82k and Qwen/Qwen3-VL-2B-Instruct" in note
    assert "\n" not in note


@pytest.mark.parametrize(
    ("models", "toy", "other"), [(TOY_ENCODER, "encoder", "judge"), (TOY_JUDGE, "judge", "encoder")]
)
def test_one_of_them_is_told_alone(tmp_path: Path, models: str, toy: str, other: str) -> None:
    note = toy_models_note(described(tmp_path, PHOTOS + models))
    assert note is not None and note.startswith(f"the {toy} is a toy")
    assert f"[models.{toy}] name" in note and f"[models.{other}]" not in note


def test_a_copy_of_the_models_is_known(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "clip", tmp_path / "my_clip", ignore=shutil.ignore_patterns("*.safetensors"))
    note = toy_models_note(described(tmp_path, PHOTOS + '[models.encoder]\nname = "local-dir:my_clip"\n'))
    assert note is not None and "encoder" in note


def test_nothing_is_told_where_models_and_data_fit(tmp_path: Path) -> None:
    assert toy_models_note(described(tmp_path, DRAWN + TOY_ENCODER + TOY_JUDGE)) is None
    assert toy_models_note(described(tmp_path, PHOTOS)) is None
    moved = tmp_path / "photos"  # the stamp of the miniature says where moved data are from
    moved.mkdir()
    (moved / "miniature.json").write_text("{}")
    assert toy_models_note(described(tmp_path, PHOTOS + TOY_ENCODER)) is None


def test_only_the_data_set_that_is_asked_about_counts(tmp_path: Path) -> None:
    settings = described(tmp_path, PHOTOS + DRAWN + TOY_JUDGE)
    assert toy_models_note(settings, "circo") is toy_models_note(settings, "circo-val") is None
    for name in (None, "photos"):
        note = toy_models_note(settings, name)
        assert note is not None and "photos is not" in note and "circo" not in note
    two = toy_models_note(described(tmp_path, PHOTOS + PHOTOS.replace("photos", "more") + TOY_JUDGE))
    assert two is not None and "photos and more are not" in two


def test_doctor_warns_and_still_calls_the_setup_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described(tmp_path, PHOTOS + DRAWN + TOY_ENCODER)
    (tmp_path / "photos").mkdir()
    for arguments, warned in (([], True), (["photos"], True), (["circo"], False)):
        main(["--config", str(tmp_path / "setr.toml"), "doctor", *arguments, "--json"])
        found = json.loads(capsys.readouterr().out)
        checks = [each for each in found["configured"] if each["what"] == "models"]
        assert [each["status"] for each in checks] == (["warning"] if warned else [])
        assert not [problem for problem in found["problems"] if "toy" in problem]
