"""The same layers with fewer passes over memory, for forward passes without gradients.

On a CPU a layer's normalisations cost as much as a tenth of its products: transformers writes each step of
them to memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


_ROTARY = "apply_rotary_pos_emb"
"""What transformers calls the function that rotates queries and keys, in the module of each architecture."""
_is_usual: dict[Any, bool] = {}
"""By such a function whether it rotates as most do: the first half of a head's components with the second."""


@contextmanager
def lean_layers(decoder: Any) -> Iterator[None]:
    """A language model writes less to memory inside a ``with`` block; its sums may round otherwise.

    Normalisations, gated MLPs and rotary positions of the usual kinds in float32 on a CPU; all else is as
    before.

    Args:
        decoder: The language model. No other model of its architecture may run meanwhile.
    """
    import torch

    changed = []
    for module in decoder.modules():
        if "forward" in vars(module):
            continue
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = partial(_normalised, module, module.forward)
        elif _is_gated(module, torch.nn.SiLU):
            module.forward = partial(_gated, module)
        else:
            continue
        changed.append(module)
    of_architecture: Any = sys.modules[type(decoder).__module__]
    rotate = getattr(of_architecture, _ROTARY, None)
    if rotate is not None:
        setattr(of_architecture, _ROTARY, partial(_rotated, rotate))
    try:
        yield
    finally:
        for module in changed:
            del module.forward
        if rotate is not None:
            setattr(of_architecture, _ROTARY, rotate)


def _is_gated(module: Any, silu: type) -> bool:
    parts = {name for name, _ in module.named_children()}
    acts = getattr(module, "act_fn", None)
    return parts == {"gate_proj", "up_proj", "down_proj", "act_fn"} and (
        isinstance(acts, silu) or type(acts).__name__ == "SiLUActivation"
    )


def _normalised(module: Any, usual: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``x`` over its root mean square, times the weights."""
    import torch

    if x.dtype != torch.float32 or module.weight.dtype != torch.float32:
        return usual(x)
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    scale = scale.div_(x.shape[-1]).add_(module.variance_epsilon).rsqrt_()
    return (x * scale).mul_(module.weight)


def _gated(module: Any, x: Tensor) -> Tensor:
    """The MLP with a gate of SiLU."""
    import torch

    gate = torch.nn.functional.silu(module.gate_proj(x), inplace=True)
    return module.down_proj(gate.mul_(module.up_proj(x)))


def _rotated(usual: Callable[..., Any], *tensors: Tensor, **more: Any) -> Any:
    """Queries and keys of [1, heads, tokens, size], rotated by cosines and sines of [1, tokens, size]."""
    import torch

    fits = len(tensors) == 4 and not more and all(each.dtype == torch.float32 for each in tensors)
    if not fits or tensors[0].device.type != "cpu" or _is_usual.get(usual) is False:
        return usual(*tensors, **more)
    query, key, cosines, sines = tensors
    if usual not in _is_usual:
        expected = usual(*tensors)
        try:
            made = [_halves_rotated(each, cosines, sines) for each in (query, key)]
        except RuntimeError:  # other shapes
            made = []
        _is_usual[usual] = len(made) == 2 and all(
            torch.allclose(a, b, atol=1e-5) for a, b in zip(made, expected, strict=True)
        )
        return expected
    return _halves_rotated(query, cosines, sines), _halves_rotated(key, cosines, sines)


def _halves_rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    cosines, sines = cosines[:, None], sines[:, None]
    made = x * cosines
    made[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    made[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return made
