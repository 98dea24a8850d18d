"""The last layer of a language model, only for the tokens whose hidden states are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def only_where_read(decoder: Any, places: Tensor) -> Iterator[None]:
    """The last layer works only for the tokens whose hidden states are read, inside a ``with`` block.

    Its queries, its output projection and its MLP serve each token alone; keys and values serve others, too.
    Elsewhere these modules give zeros. An architecture with other names of them does the whole work.

    Args:
        decoder: The language model, run on packed rows of [1, tokens, hidden].
        places: int64, places of those tokens in the packed sequence.
    """
    last = decoder.layers[-1]
    attention = getattr(last, "self_attn", None)
    named = [(attention, "q_proj"), (attention, "o_proj"), (last, "mlp")]
    found = [getattr(owner, name) for owner, name in named if hasattr(owner, name)]
    before = [(module, vars(module).get("forward")) for module in found]
    for module in found:
        module.forward = partial(_at, module.forward, places)
    try:
        yield
    finally:
        for module, forward in before:
            del module.forward
            if forward is not None:
                module.forward = forward


def _at(forward: Callable[[Tensor], Tensor], places: Tensor, x: Tensor) -> Tensor:
    """What ``forward`` makes of some tokens of [1, tokens, features], and zeros for the others."""
    made = forward(x.index_select(1, places))
    return made.new_zeros(1, x.shape[1], made.shape[-1]).index_copy(1, places, made)
