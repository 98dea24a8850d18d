"""Packed attention is the attention of the whole rows, with their gradients: compared with a dense mask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253

from setr_lib.models.multimodal.packed_attention import PackedLayout, attend, attend_plainly

torch.set_num_threads(1)
SCALE, SIZE = 0.4, 8
ROWS = [
    ([5, 7, 3], [[4, 4], [2], [3, 6, 1]]),
    ([4, 4], [[3, 3], [3, 3]]),
    ([6, 2, 9], [[1], [], [5, 5]]),
]


def dense_mask(prefixes: list[int], suffixes: list[list[int]]) -> Tensor:
    """bool [tokens, tokens]: what each token of the packed sequence sees, row by row."""
    row_of = [(prefix, -1) for prefix, length in enumerate(prefixes) for _ in range(length)]
    flat = [(prefix, length) for prefix, lengths in enumerate(suffixes) for length in lengths]
    row_of += [(prefix, number) for number, (prefix, length) in enumerate(flat) for _ in range(length)]
    sees = torch.zeros(len(row_of), len(row_of), dtype=torch.bool)
    for at, (prefix, row) in enumerate(row_of):
        for to, (other_prefix, other_row) in enumerate(row_of[: at + 1]):
            sees[at, to] = prefix == other_prefix and other_row in (-1, row)
    return sees


@pytest.mark.parametrize("function", [attend, attend_plainly])
@pytest.mark.parametrize("key_heads", [6, 2])
@pytest.mark.parametrize(("prefixes", "suffixes"), ROWS)
def test_it_is_the_attention_of_whole_rows(
    prefixes: list[int], suffixes: list[list[int]], key_heads: int, function: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    tokens = sum(prefixes) + sum(map(sum, suffixes))
    tensors = [torch.randn(heads, tokens, SIZE, requires_grad=True) for heads in (6, key_heads, key_heads)]
    query, key, value = tensors
    shared = 6 // key_heads
    products = query @ key.repeat_interleave(shared, 0).transpose(1, 2) * SCALE
    products = products.masked_fill(~dense_mask(prefixes, suffixes), float("-inf"))
    expected = products.softmax(-1) @ value.repeat_interleave(shared, 0)
    gradient = torch.randn_like(expected)
    layout = PackedLayout.of(prefixes, suffixes, torch.device("cpu"))
    made = function(*tensors, layout, SCALE)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    for mine, dense in zip(
        torch.autograd.grad(made, tensors, gradient),
        torch.autograd.grad(expected, tensors, gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, dense, atol=1e-5, rtol=1e-5)


def test_the_last_tokens_are_those_of_the_suffixes() -> None:
    layout = PackedLayout.of([5, 7, 3], [[4, 4], [2], [3, 6, 1]], torch.device("cpu"))
    assert layout.last.tolist() == [18, 22, 24, 27, 33, 34]
    assert layout.owners.tolist() == [0, 0, 1, 2, 2, 2]
