"""The cores that a model takes while others decode."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from setr_lib.models.cpu_passes import CoreShare, _cores_of_model, run_side_by_side

if TYPE_CHECKING:
    import torch


@pytest.fixture(autouse=True)
def processor() -> Iterator[torch.device]:
    """The processor, with four threads of torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield torch.device("cpu")
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("share", "cores", "expected"),
    [(0.47, 2, 1), (0.55, 2, 1), (0.7, 2, 2), (0.95, 2, None), (0.0, 16, 1), (0.5, 16, 8), (1.0, 1, None)],
)
def test_cores_of_a_model(share: float, cores: int, expected: int | None) -> None:
    assert _cores_of_model(share, cores) == expected


@pytest.mark.parametrize(
    ("model_s", "decoding_s", "passes"), [(1, 3, [1]), (1, 1, [1, 1]), (2, 1, [1, 1, 1])]
)
def test_parts_run_in_order_on_the_share_and_nobody_elses_threads_change(
    model_s: float, decoding_s: float, passes: list[int], processor: torch.device
) -> None:
    import torch

    seen: list[int] = []

    def doubled(part: slice) -> list[int]:
        seen.append(torch.get_num_threads())
        return [2 * number for number in range(50)[part]]

    with CoreShare() as share:
        assert run_side_by_side(range(50), doubled, processor) == [[2 * number for number in range(50)]]
        assert seen.pop() == 4  # nothing is known yet
        share.note(model_s, decoding_s)
        parts = run_side_by_side(range(50), doubled, processor)
        assert torch.get_num_threads() == 4
    assert [number for part in parts for number in part] == [2 * number for number in range(50)]
    assert seen == passes
    run_side_by_side(range(50), doubled, processor)
    assert seen[-1] == 4


def test_a_failing_part_raises(processor: torch.device) -> None:
    def fails(part: slice) -> None:
        raise MemoryError(f"from {part.start}")

    with CoreShare() as share:
        share.note(1, 1)
        with pytest.raises(MemoryError, match="from 0"):
            run_side_by_side(range(50), fails, processor)


def test_vectors_of_a_model_do_not_depend_on_the_share(processor: torch.device) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 32))
    rows = torch.randn(96, 64)

    def embedded(part: slice) -> torch.Tensor:
        with torch.inference_mode():
            return model(rows[part])

    with CoreShare() as share:
        whole = run_side_by_side(range(96), embedded, processor)
        share.note(1, 1)
        parts = run_side_by_side(range(96), embedded, processor)
    assert len(parts) == 2
    torch.testing.assert_close(torch.cat(parts), whole[0], rtol=1e-6, atol=1e-6)


def test_threads_begun_during_a_pass_have_the_callers_number(processor: torch.device) -> None:
    import torch

    def number_of_another(_: slice) -> tuple[int, int]:
        with ThreadPoolExecutor(1) as other:
            return torch.get_num_threads(), other.submit(torch.get_num_threads).result()

    with CoreShare() as share:
        share.note(1, 3)
        assert run_side_by_side(range(64), number_of_another, processor) == [(1, 4)]
    assert torch.get_num_threads() == 4
