"""Inputs of pictures that are prepared while the model works on earlier ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: TID253

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import MultimodalModel, Picture, PictureError
from setr_lib.models.multimodal.features import VisionFeatures
from setr_lib.models.multimodal.prepared_inputs import PreparedInputs
from setr_lib.settings import JudgeSettings
from tests.tiny_judges import tiny_picture, write_tiny_judge

torch.set_num_threads(1)
BATCHES = [[Picture(f"{batch}{place}", b"") for place in range(2)] for batch in range(6)]


def test_one_batch_is_prepared_while_another_is_in_work_and_no_more() -> None:
    begun: dict[str, threading.Event] = {batch[0].fingerprint: threading.Event() for batch in BATCHES}

    def prepare(batch: Sequence[Picture]) -> str:
        begun[batch[0].fingerprint].set()
        return "".join(picture.fingerprint for picture in batch)

    inputs = PreparedInputs(prepare)
    inputs.announce(BATCHES)
    for place, batch in enumerate(BATCHES):
        assert inputs.take(batch) == "".join(picture.fingerprint for picture in batch)
        if place + 1 < len(BATCHES):
            assert begun[BATCHES[place + 1][0].fingerprint].wait(10), "while this one is in work"
        assert not any(begun[later[0].fingerprint].is_set() for later in BATCHES[place + 2 :])
    assert inputs.take([BATCHES[3][0]]) == "30", "what was not announced is made at once"


def test_what_comes_first_takes_no_announced_batchs_place() -> None:
    made: list[str] = []
    inputs = PreparedInputs(lambda batch: made.append(batch[0].fingerprint) or batch)
    inputs.announce(BATCHES[:2])
    inputs.announce_first(BATCHES[2:4])
    for batch in (*BATCHES[2:4], *BATCHES[:2]):
        assert inputs.take(batch) is batch
    inputs.announce(BATCHES[4:])
    inputs.announce([])
    assert inputs.take(BATCHES[5]) is BATCHES[5]
    assert sorted(made)[:4] == ["00", "10", "20", "30"]
    assert made.count("50") == 1


def test_an_announced_picture_that_cannot_be_read_is_named_where_it_is_asked_for(tmp_path: Path) -> None:
    folder = write_tiny_judge("qwen3_vl", tmp_path / "judge")
    model = MultimodalModel.load(JudgeSettings(name=str(folder), batch_size=4), device="cpu")
    contents = [tiny_picture(seed, (32 + 16 * (seed % 3), 40)) for seed in range(10)]
    contents[6] = b"no picture"
    pictures = []
    for place, content in enumerate(contents):
        (tmp_path / f"{place}.png").write_bytes(content)
        pictures.append(Picture(fingerprint_bytes(content), tmp_path / f"{place}.png"))
    good = [picture for place, picture in enumerate(pictures) if place != 6]
    alone = [model.vision.run([picture])[0].embeds for picture in good]
    model.vision.announce([pictures])
    with pytest.raises(PictureError, match=r"6\.png") as raised:
        model.vision.features(pictures)
    assert [*raised.value.refused] == [pictures[6].identity]
    found = model.vision.features(good)
    assert all(torch.allclose(a.embeds, b, atol=1e-5) for a, b in zip(found, alone, strict=True))
    model.vision.memory.clear()
    model.vision.announce([good])
    announced = model.vision.features(good)
    model.vision.memory.clear()
    assert all(
        torch.equal(a.embeds, b.embeds) for a, b in zip(announced, model.vision.features(good), strict=True)
    )
    assert list(model.vision.precompute(pictures)) == [pictures[6].identity]


def test_pictures_that_cannot_be_read_cost_no_batch_again_and_no_decoding_ahead(tmp_path: Path) -> None:
    folder = write_tiny_judge("qwen3_vl", tmp_path / "judge")
    model = MultimodalModel.load(JudgeSettings(name=str(folder), batch_size=4), device="cpu")
    bad = {5, 13}
    pictures = [
        Picture(f"q{seed}", b"no picture" if seed in bad else tiny_picture(seed, (32, 40)))
        for seed in range(24)
    ]
    run, seen = model.vision.run, list[str]()
    prepare, threads = model.vision._inputs._prepare, list[str]()

    def running(pictures: Sequence[Picture]) -> list[VisionFeatures]:
        made = run(pictures)
        seen.extend(picture.fingerprint for picture in pictures)
        return made

    def preparing(batch: Sequence[Picture]) -> Any:
        threads.append(threading.current_thread().name)
        return prepare(batch)

    model.vision.run, model.vision._inputs._prepare = running, preparing
    with pytest.raises(PictureError) as raised:
        model.vision.features(pictures)
    assert len(raised.value.refused) == 2
    assert seen == [picture.fingerprint for seed, picture in enumerate(pictures) if seed not in bad]
    assert threading.main_thread().name not in threads


def test_batches_that_are_halved_are_let_go_and_the_next_is_prepared() -> None:
    begun = {batch[0].fingerprint: threading.Event() for batch in BATCHES}
    inputs = PreparedInputs(lambda batch: begun[batch[0].fingerprint].set())
    inputs.announce(BATCHES[:2])
    inputs.announce_first(BATCHES[:1])
    assert begun[BATCHES[0][0].fingerprint].wait(10)
    inputs.take(BATCHES[0][:1])
    assert begun[BATCHES[1][0].fingerprint].wait(10)
