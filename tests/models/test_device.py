"""Choosing a device, and batches that halve when memory is short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch  # noqa: TID253
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.models.device import (
    DeviceError,
    free_memory,
    is_out_of_memory,
    iterate_as_finished,
    iterate_in_batches,
    pick_device,
    run_in_batches,
)
from setr_lib.models.multimodal import features as features_module
from setr_lib.models.multimodal.features import (
    VISION_CACHE_BYTES,
    VisionFeatures,
    VisionMemory,
    vision_cache_bytes,
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's own, which is recognised by this name."""


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=pick_device()).item() == 0
    assert pick_device("cpu") == torch.device("cpu")


def test_what_is_kept_to_save_time_gives_way_before_a_smaller_batch_is_tried() -> None:
    kept = VisionMemory(1600)
    features = [VisionFeatures(torch.zeros(25, 4), (), None, (), tuple) for _ in range(4)]
    kept.keep({str(place): each for place, each in enumerate(features)})
    other, room = VisionMemory(1600), list[int]()

    def run(batch: Sequence[int]) -> list[int]:
        room.append(kept.limit)
        if len(batch) > 1:
            raise OutOfMemoryError("out of memory")
        return [*batch]

    assert run_in_batches(range(16), run, 16) == [*range(16)]
    assert room[:5] == [1600, 800, 400, 200, 200], "half each time, until an eighth is left"
    assert not any(str(place) in kept for place in range(4)), "400 bytes each"
    kept.keep({"a": features[0]})
    assert "a" in kept, "what is at work stays"
    kept.keep({"b": features[1]})
    assert "a" not in kept and "b" in kept
    assert other.limit == 200
    del other


def test_vision_outputs_take_a_third_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[int | None] = [900, 3 * VISION_CACHE_BYTES + 30, None, -5]
    wanted = [300, VISION_CACHE_BYTES, VISION_CACHE_BYTES, 0]
    monkeypatch.setattr(features_module, "free_memory", lambda device: free.pop(0))
    assert [vision_cache_bytes(torch.device("cpu")) for _ in wanted] == wanted
    monkeypatch.undo()
    found = free_memory(torch.device("cpu"))
    assert found is not None and found > 2**20


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps:7", ""])
def test_an_absent_device_is_named_in_the_error(name: str) -> None:
    with pytest.raises(DeviceError, match=f'"{name}"') as told:
        pick_device(name)
    assert len(str(told.value)) < 350


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(), max_size=60), st.integers(1, 70), st.integers(1, 70))
def test_results_are_complete_and_in_order_whatever_fits(items: list[int], size: int, fits: int) -> None:
    halvings: list[tuple[int, int]] = []
    ran: list[int] = []

    def run(batch: Sequence[int]) -> list[int]:
        if len(batch) > fits:
            raise OutOfMemoryError("CUDA out of memory")
        ran.append(len(batch))
        return [2 * item for item in batch]

    assert run_in_batches(items, run, size, lambda *sizes: halvings.append(sizes)) == [2 * i for i in items]
    assert all(length <= fits for length in ran)
    assert all(after == before // 2 for before, after in halvings)


def test_the_smaller_batch_holds_for_the_rest() -> None:
    sizes: list[int] = []

    def run(batch: Sequence[int]) -> Sequence[int]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError("MPS backend out of memory")
        return batch

    batches = [list(batch) for batch, _ in iterate_in_batches(range(9), run, 8)]
    assert sizes == [8, 4, 2, 2, 2, 2, 1]
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8]]


def test_what_has_no_result_yet_is_run_again_with_fewer_at_a_time() -> None:
    sizes: list[tuple[int, int]] = []

    def run(items: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
        sizes.append((len(items), size))
        for place in reversed(range(len(items))):
            if size > 3 and len(items) - place > 2:
                raise OutOfMemoryError("CUDA out of memory")
            yield place, 10 * items[place]

    found = list(iterate_as_finished([1, 2, 3, 4, 5, 6, 7, 8], run, 16))
    assert sizes == [(8, 8), (6, 4), (4, 2)]
    assert sorted(found) == [(place, 10 * (place + 1)) for place in range(8)]

    def never(items: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
        raise MemoryError
        yield  # a generator

    with pytest.raises(DeviceError, match="not even one item"):
        list(iterate_as_finished([1, 2], never, 2))


def test_one_item_too_many_says_so() -> None:
    def run(batch: Sequence[int]) -> Sequence[int]:
        raise MemoryError

    with pytest.raises(DeviceError, match="not even one item"):
        run_in_batches([1, 2, 3], run, 2, lambda *_: None)


def test_other_errors_pass_through() -> None:
    def run(batch: Sequence[int]) -> Sequence[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run_in_batches([1, 2], run, 2)


def test_a_halving_is_logged_when_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    def run(batch: Sequence[int]) -> Sequence[int]:
        if len(batch) > 1:
            raise OutOfMemoryError("out of memory")
        return batch

    run_in_batches([1, 2], run, 2)
    assert "a batch of 2 did not fit" in caplog.text


def test_what_counts_as_short_memory() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(ValueError("out of memory"))
