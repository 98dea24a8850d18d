"""The batch size that is found on a model's first batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from setr_lib.models import batch_sizes
from setr_lib.models.batch_sizes import BatchSizes


class Worker:
    """Doubles numbers on a clock of its own: so many seconds for a number in a batch of a size."""

    def __init__(self, each: Callable[[int], float], most: int = 10_000) -> None:
        self.now, self.each, self.most = 0.0, each, most
        self.done: list[int] = []
        self.batches: list[int] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        if len(numbers) > self.most:
            raise MemoryError("out of memory")
        self.batches.append(len(numbers))
        self.done += numbers
        self.now += self.each(len(numbers)) * len(numbers)
        return [2 * number for number in numbers]


def sizes_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, file: Path | None, model: str = "m"
) -> BatchSizes:
    import torch

    monkeypatch.setattr(batch_sizes, "process_time", lambda: worker.now)
    return BatchSizes(model, "64 pixels", torch.device("cpu"), file)


@pytest.mark.parametrize(
    ("each", "best"),
    [
        (lambda size: abs(size - 32) + 1, 32),
        (lambda size: 1 / size, 128),
        (lambda size: 1 + size / 1000, 16),
        (lambda size: 1.0 if size < 64 else 0.5 - size / 1e5, 64),  # 128 is no gain that counts
    ],
)
def test_the_fastest_size_is_found_on_work_that_is_done_once(
    each: Callable[[int], float], best: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(each)
    sizes = sizes_for(worker, monkeypatch, tmp_path / "sizes.json")
    assert sizes.largest == 128
    numbers = list(range(3000))
    made = [
        double for start in range(0, 3000, 150) for double in sizes.run(numbers[start : start + 150], worker)
    ]
    assert made == [2 * number for number in numbers]
    assert worker.done == numbers
    assert sizes.found == sizes.largest == best
    assert max(worker.batches[-5:]) == best


def test_what_was_found_is_read_by_the_next_run_with_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "state" / "sizes.json"
    worker = Worker(lambda size: abs(size - 32) + 1)
    with caplog.at_level("INFO"):
        sizes_for(worker, monkeypatch, file).run(range(2000), worker)
    assert "32 images at a time" in caplog.text
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    again = Worker(lambda size: 1 / size)
    sizes = sizes_for(again, monkeypatch, file)
    assert sizes.found == 32
    sizes.run(range(100), again)
    assert again.batches == [32, 32, 32, 4]
    assert sizes_for(again, monkeypatch, file, model="another").found is None
    kept = file.read_text()
    for wrong in ("true", "-3", "1000000000", '"64"', "[64]"):
        file.write_text(kept.replace('"batch_size": 32', f'"batch_size": {wrong}'))
        assert file.read_text() != kept
        assert sizes_for(again, monkeypatch, file).found is None
    file.write_text("{ damaged")
    assert sizes_for(again, monkeypatch, file).found is None


def test_a_size_that_does_not_fit_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, told = Worker(lambda size: 1 / size, most=40), list[tuple[int, int]]()
    file = tmp_path / "sizes.json"
    sizes = sizes_for(worker, monkeypatch, file)
    made = sizes.run(range(1000), worker, lambda *halved: told.append(halved))
    assert made == [2 * number for number in range(1000)]
    assert told == [(64, 32)]
    assert sizes.found == 32 and sizes.largest == 32
    assert not file.exists()  # the next run may have more memory


def test_few_items_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(lambda size: 1.0)
    sizes = sizes_for(worker, monkeypatch, None)
    for count in (1, 5, 12, 0):
        assert sizes.run(range(count), worker) == [2 * number for number in range(count)]
    assert sizes.found is None
