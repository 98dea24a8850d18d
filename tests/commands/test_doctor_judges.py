"""What ``setr doctor`` says of the multimodal LLM, before a run says it: its files, or also its processor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.commands.check import Check
from setr_lib.commands.setup_checks import configured
from setr_lib.settings import load_settings
from tests.published_judges import write_published_judge


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published_judge("gemma3", tmp_path_factory.mktemp("models") / "gemma3")


def check(folder: Path, judge: Path | str, *, quick: bool = False, more: str = "") -> Check:
    (folder / "setr.toml").write_text(
        f'[models]\ndevice = "cpu"\n[models.judge]\nname = "{judge}"\n{more}', encoding="utf-8"
    )
    found = configured(load_settings(folder / "setr.toml"), set(), quick=quick)
    return next(each for each in found if each.what == "multimodal LLM")


def test_what_is_slower_than_expected_is_a_warning(gemma: Path, tmp_path: Path) -> None:
    found = check(tmp_path, gemma)
    assert (
        found.status == "warning" and "each pair is judged and trained on as a whole prompt" in found.detail
    )
    assert check(tmp_path, gemma, quick=True).status == "ok", "its processor is not opened"


def test_what_its_processor_lacks_is_broken_unless_nobody_looks_inside(
    gemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = Path(shutil.copytree(gemma, tmp_path / "judge"))
    (judge / "chat_template.jinja").unlink()
    found = check(tmp_path, judge)
    assert found.status == "broken" and "its processor has no chat template" in found.detail
    assert check(tmp_path, judge, quick=True).status == "ok"
    main(["--config", str(tmp_path / "setr.toml"), "doctor", "--json"])
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("its processor has no chat template" in problem for problem in problems)


def test_what_its_files_tell_is_said_at_a_quick_look_too(tmp_path: Path) -> None:
    told = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "judge" / "model.safetensors").write_bytes(b"")
    found = check(tmp_path, tmp_path / "judge", quick=True)
    assert found.status == "broken" and "a language model (qwen3) that sees no pictures" in found.detail


def test_a_model_that_nobody_asks_is_not_looked_at(tmp_path: Path, gemma: Path) -> None:
    plain = '[coarse]\nstrategies = ["image"]\ndefault = "image"\n[reranking]\nrerankers = []\n'
    assert check(tmp_path, gemma, more=plain).status == "ok"
