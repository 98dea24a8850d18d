"""Vision features on disk: what a later run finds, and what it does not take."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch  # noqa: TID253

from setr_lib.models.multimodal import MultimodalModel, Picture
from setr_lib.models.multimodal.kept_features import FeaturesFolder, KeptFeatures
from setr_lib.reranking.reranker import JudgedQuery
from setr_lib.reranking.yes_no_judge import YesNoJudge
from setr_lib.settings import JudgeSettings
from setr_lib.texts.prompts import load_prompts
from tests.tiny_judges import tiny_picture, write_tiny_judge

torch.set_num_threads(1)
PICTURES = [Picture(f"p{seed}", tiny_picture(seed, (32 + 16 * (seed % 3), 40))) for seed in range(6)]
QUERIES = [JudgedQuery(PICTURES[0], "make it red", (*PICTURES[1:],)), JudgedQuery(PICTURES[2], "blue", ())]


@pytest.fixture(scope="module", params=["llava", "qwen3_vl"])
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_judge(request.param, tmp_path_factory.mktemp("judges") / request.param)


Load = Callable[..., MultimodalModel]


@pytest.fixture
def load(weights: Path, tmp_path: Path) -> Load:
    def loaded(folder: Path = weights, megabytes: int = 8) -> MultimodalModel:
        settings = JudgeSettings(name=str(folder), batch_size=4, features_mb=megabytes)
        return MultimodalModel.load(settings, device="cpu", features=tmp_path / "features")

    return loaded


def scores(model: MultimodalModel) -> np.ndarray:
    return np.concatenate(YesNoJudge(model, load_prompts("miniature").get("judge")).score(QUERIES))


def forward_passes(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that run through the vision tower from here on."""
    seen: list[str] = []
    run = model.vision.run
    monkeypatch.setattr(
        model.vision, "run", lambda batch: seen.extend(p.identity for p in batch) or run(batch)
    )
    return seen


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "features").rglob("*.safetensors"))


def test_a_later_run_gives_the_same_scores_without_the_vision_tower(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = scores(load(megabytes=0))
    assert not files(tmp_path)
    first = scores(load())
    later = load()
    later.caches_are_exact = later.prefixes_are_shared = (
        True  # what is compared at a first request runs the tower
    )
    seen = forward_passes(later, monkeypatch)
    assert len(files(tmp_path)) == len(PICTURES)
    assert np.array_equal(scores(later), first)
    assert np.array_equal(first, without), "to the last bit"
    assert without.std() > 1e-3
    assert not seen


@pytest.mark.parametrize("damage", ["torn", "empty", "other", "flipped", "retold"])
def test_a_damaged_file_is_made_anew_and_said_once(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = [features.embeds for features in load().vision.features(PICTURES)]
    content = [path.read_bytes() for path in files(tmp_path)]
    broken = files(tmp_path)[:2]
    for path, whole in zip(broken, content, strict=False):
        flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
        kinds = {"torn": whole[: len(whole) // 2], "empty": b"", "other": content[-1], "flipped": flipped}
        kinds["retold"] = _with_another_grid(whole)
        path.write_bytes(kinds[damage])
    model = load()
    seen = forward_passes(model, monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = [features.embeds for features in model.vision.features(PICTURES)]
    assert len(seen) == 2
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))
    assert len([record for record in caplog.records if "made anew" in record.getMessage()]) == 1
    again = load()
    seen = forward_passes(again, monkeypatch)
    again.vision.features(PICTURES)
    assert not seen, "the file was mended"


def _with_another_grid(content: bytes) -> bytes:
    """A file that says other rows and columns of patches, or any where there are none."""
    found = re.search(rb'"grid":"(null|\[1, (\d+), (\d+)\])"', content)
    assert found is not None
    grid = b"[1,2]" if found[1] == b"null" else b"[1, %s, %s]" % (found[3], found[2])
    if grid == found[1]:
        grid = grid.replace(b"[1, ", b"[2, ")
    return content[: found.start(1)] + grid.ljust(len(found[1]))[: len(found[1])] + content[found.end(1) :]


def test_another_models_features_are_not_used(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path
) -> None:
    load().vision.features(PICTURES)
    other = load(write_tiny_judge(weights.name, tmp_path / "other" / weights.name, seed=5))
    changed = load()
    with torch.no_grad():  # the same files, other weights in the vision part, as an adapter may make them
        name, weight = next(
            (n, w) for n, w in changed.model.named_parameters() if "vision" in n or "visual" in n
        )
        weight += 1
    folder = FeaturesFolder(tmp_path / "features", 2**23)
    changed.vision._kept = KeptFeatures(folder, changed._loaded, {name: weight})
    for model in (other, changed):
        seen = forward_passes(model, monkeypatch)
        model.vision.features(PICTURES)
        assert len(seen) == len(PICTURES)


def test_the_bound_holds_and_the_longest_unused_give_way(load: Load, tmp_path: Path) -> None:
    model = load()
    made = dict(zip("abcdefgh", model.vision.features([PICTURES[0]] * 8), strict=True))
    size = files(tmp_path)[0].stat().st_size
    folder = FeaturesFolder(tmp_path / "few", 4 * size + size // 2)
    kept = KeptFeatures(folder, model._loaded, {})

    def there(which: str) -> str:
        return "".join(name for name in which if name in kept)

    for age, name in enumerate("abcd"):
        kept.put({name: made[name]})
        _older(folder.path, 100 - age)
    assert there("abcd") == "abcd"
    assert [*kept.get(["a"])] == ["a"], "used, so it is the youngest now"
    kept.put({"e": made["e"]})
    assert "b" not in kept
    assert "a" in kept
    assert "e" in kept
    threads = [
        threading.Thread(target=KeptFeatures(folder, model._loaded, {}).put, args=({name: made[name]},))
        for name in "fgh"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
    assert 0 < total <= folder.limit
    assert not [*folder.path.rglob("*.part")]


def test_a_bound_that_was_lowered_holds_though_nothing_is_written(load: Load, tmp_path: Path) -> None:
    model = load()
    model.vision.features(PICTURES)
    sizes = [path.stat().st_size for path in files(tmp_path)]
    folder = FeaturesFolder(tmp_path / "features", sum(sizes) // 2)
    found = KeptFeatures(folder, model._loaded, {}).get(["nothing"])
    assert not found
    assert 0 < sum(path.stat().st_size for path in files(tmp_path)) <= folder.limit


def test_what_takes_nearly_the_whole_bound_drives_nothing_out(load: Load, tmp_path: Path) -> None:
    model = load()
    features = model.vision.features(PICTURES[:1])[0]
    large = replace(features, embeds=features.embeds.repeat(20, 1))
    KeptFeatures(FeaturesFolder(tmp_path / "all", 2**23), model._loaded, {}).put({"large": large})
    size = next((tmp_path / "all").rglob("*.safetensors")).stat().st_size
    kept = KeptFeatures(FeaturesFolder(tmp_path / "few", int(size / 0.95)), model._loaded, {})
    for name, made in (("small", features), ("large", large), ("other", features)):
        kept.put({name: made})
    assert [name in kept for name in ("small", "large", "other")] == [True, False, True]


@pytest.mark.parametrize("told", [b"", b"many", b"\xff\xfe", b"9" * 5000])
def test_what_killed_writers_leave_is_cleared_away_and_counted(
    load: Load, tmp_path: Path, told: bytes
) -> None:
    model = load()
    model.vision.features(PICTURES)
    size = max(path.stat().st_size for path in files(tmp_path))
    for path in files(tmp_path):
        path.with_name(f".{path.name}.abcd.part").write_bytes(b"0" * size)
    (tmp_path / "features" / ".bytes").write_bytes(told)
    kept = KeptFeatures(FeaturesFolder(tmp_path / "features", 4 * size), model._loaded, {})
    kept.put({"new": model.vision.features(PICTURES[:1])[0]})
    assert "new" in kept
    assert not [*(tmp_path / "features").rglob("*.part")]
    taken = sum(path.stat().st_size for path in files(tmp_path))
    assert taken == int((tmp_path / "features" / ".bytes").read_text()) <= 4 * size


def _older(folder: Path, seconds: float) -> None:
    """Everything that is new becomes so many seconds old."""
    import os
    import time

    now = time.time()
    for path in folder.rglob("*.safetensors"):
        if now - path.stat().st_mtime < 10:
            os.utime(path, (now - seconds, now - seconds))


@pytest.mark.parametrize("name", ["features", "x" * 300])
def test_a_folder_that_cannot_be_used_costs_nothing_but_the_files(
    load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "features").write_text("a file in the folder's place")
    model = load()
    folder = FeaturesFolder(tmp_path / name, 2**23)
    model.vision._kept = KeptFeatures(folder, model._loaded, {})
    with caplog.at_level(logging.WARNING):
        assert not model.vision.precompute(PICTURES)
    assert all(picture in model.vision for picture in PICTURES)
    assert len([record for record in caplog.records if "no more vision features" in record.getMessage()]) == 1
