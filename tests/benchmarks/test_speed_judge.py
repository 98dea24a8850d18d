"""The judge's benchmark at a size at which it takes no time: the model that it writes, and what it counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.speed import judge, running
from benchmarks.speed.figure import BenchSetting
from benchmarks.speed.random_qwen import QWEN3_VL_2B, QwenSize

TINY = QwenSize(128, 2, 64, vocabulary=256, vision_hidden=64, vision_layers=3, deepstack=(0, 1, 2))


@pytest.mark.parametrize("size", [TINY, replace(TINY, hidden=256, head_size=128, dtype="bfloat16")])
def test_a_random_model_is_judged_as_transformers_judges_it_and_its_products_are_counted(
    size: QwenSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(judge, "_K", 6)
    monkeypatch.setattr(judge, "_rate", lambda _: 1e12)
    figure = judge.kept_figure(
        BenchSetting(tmp_path, full=False, threads=1), judge.Case("tiny", size, 0.4, 2)
    )
    assert figure.equal, figure.also
    assert figure.work.startswith("12 pairs")
    assert figure.bound_s is not None and figure.met == (figure.bound_s >= 0.4 * figure.ours_s)
    loaded = judge._judge(BenchSetting(tmp_path, full=False, threads=1), *_folder(tmp_path, size), size.dtype)
    layers = loaded.model.model.get_decoder().layers
    products = [m for m in layers.modules() if isinstance(m, torch.nn.Linear)]
    assert size.weights == sum(m.weight.numel() for m in products)
    assert {m.weight.dtype for m in products} == {getattr(torch, size.dtype)}


def _folder(tmp_path: Path, size: QwenSize) -> tuple[Path, str]:
    return tmp_path / f"random-qwen-{size.hidden}-{size.layers}-{size.head_size}", "standard"


def test_the_published_configuration_has_the_published_weights() -> None:
    assert QWEN3_VL_2B.weights == 28 * (2048 * (2 * 16 * 128 + 2 * 8 * 128) + 3 * 2048 * 6144)


def test_a_figure_that_needs_a_gpu_is_skipped_without_one_and_said_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = running.Run.__new__(running.Run)
    run.setting = BenchSetting(tmp_path, full=False, threads=1)
    left = running._measurable(run, "benchmarks.speed.judge", judge.NAMES)
    assert [*left, "judge-2b-kept"] == [*judge.NAMES]
    assert "judge-2b-kept: skipped: it needs --device cuda" in "".join(capsys.readouterr())
    run.setting = replace(run.setting, device="cuda")
    assert running._measurable(run, "benchmarks.speed.judge", judge.NAMES) == [*judge.NAMES]
