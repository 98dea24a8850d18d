"""The same layers with fewer passes over memory, for forward passes without gradients.

On a CPU a layer's normalisations cost as much as a tenth of its products: transformers writes each step of
them to memory. Only code that does what Llama's does is replaced: it is compared instruction by instruction,
as a layer of another architecture may have the same name and parts, and clamp or scale what is between them.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


_ROTARY = "apply_rotary_pos_emb"
"""What transformers calls the function that rotates queries and keys, in the module of each architecture."""
_lean: ContextVar[bool] = ContextVar("whether rotary positions are computed with fewer passes", default=False)
_lock = threading.Lock()
_users: Counter[ModuleType] = Counter()
"""How many ``with`` blocks have replaced the function of a module of transformers."""


@contextmanager
def lean_layers(decoder: Any) -> Iterator[None]:
    """A language model writes less to memory inside a ``with`` block; its sums may round otherwise.

    Llama's gated MLP with SiLU, and in float32 its normalisation and, on a CPU, its rotary positions, in
    whatever architecture they are; all else is as before. Other threads may run other models meanwhile.

    Args:
        decoder: The language model.
    """
    changed = []
    for module in decoder.modules():
        if "forward" in vars(module):
            continue
        if _is_norm(type(module)):
            module.forward = partial(_normalised, module, module.forward)
        elif _is_gated(type(module)) and _is_silu(getattr(module, "act_fn", None)):
            module.forward = partial(_gated, module)
        else:
            continue
        changed.append(module)
    try:
        with _lean_rotary(sys.modules[type(decoder).__module__]):
            yield
    finally:
        for module in changed:
            del module.forward


@contextmanager
def _lean_rotary(architecture: Any) -> Iterator[None]:
    """The function of a module of transformers is replaced; in other threads it does as before."""
    with _lock:
        usual = _before(getattr(architecture, _ROTARY, None))
        if replaces := _rotates_halves(usual):
            setattr(architecture, _ROTARY, partial(_rotated, usual))
            _users[architecture] += 1
    if not replaces:
        yield
        return
    token = _lean.set(True)
    try:
        yield
    finally:
        _lean.reset(token)
        with _lock:
            _users[architecture] -= 1
            if not _users[architecture]:
                setattr(architecture, _ROTARY, usual)


def _before(rotate: Any) -> Any:
    """The function that was there before it was replaced, by another thread maybe."""
    return rotate.args[0] if isinstance(rotate, partial) and rotate.func is _rotated else rotate


@cache
def _is_norm(kind: type) -> bool:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    return _same_code(kind.forward, LlamaRMSNorm.forward)  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _is_gated(kind: type) -> bool:
    from transformers.models.llama.modeling_llama import LlamaMLP

    return _same_code(kind.forward, LlamaMLP.forward)  # pyright: ignore[reportAttributeAccessIssue]


def _is_silu(activation: Any) -> bool:
    import torch
    from transformers.activations import SiLUActivation

    return type(activation) in (torch.nn.SiLU, SiLUActivation)


def _rotates_halves(rotate: Any) -> bool:
    """Whether a function rotates as Llama's does: the first half of a head's components with the second."""
    from transformers.models.llama import modeling_llama

    if not _same_code(rotate, _before(modeling_llama.apply_rotary_pos_emb)):
        return False
    return _same_code(inspect.unwrap(rotate).__globals__.get("rotate_half"), modeling_llama.rotate_half)


def _same_code(function: Any, known: Callable[..., Any]) -> bool:
    """Whether two functions are compiled to the same instructions, with the same names and defaults."""
    if not callable(function):
        return False
    return _compiled(inspect.unwrap(function)) == _compiled(inspect.unwrap(known))


def _compiled(function: Any) -> object:
    """What a function does, whatever its arguments are called; one that is not in Python equals no other."""
    if not inspect.isfunction(function):
        return object()
    code = function.__code__
    constants = [value for value in code.co_consts if not isinstance(value, str)]  # one is the docstring
    return code.co_code, code.co_names, constants, code.co_argcount, function.__defaults__


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
    if not _lean.get() or not fits or tensors[0].device.type != "cpu":
        return usual(*tensors, **more)
    query, key, cosines, sines = tensors
    return _halves_rotated(query, cosines, sines), _halves_rotated(key, cosines, sines)


def _halves_rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    cosines, sines = cosines[:, None], sines[:, None]
    made = x * cosines
    made[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    made[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return made
