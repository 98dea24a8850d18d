"""The forward and backward pass of PEFT's LoRA layers in fewer operations, with the same result.

PEFT's own pass makes a scaled copy of each layer's output and of its gradient, and draws a number for each
input that dropout may take. Here W x + s B A dropout(x) is one autograd function: the product of B is added
in place, the scale is applied to the small inner product, and what dropout takes is drawn by gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor


@contextmanager
def fast_lora(model: Any) -> Iterator[int]:
    """LoRA layers take the fast pass inside a ``with`` block.

    Those that are not plain LoRA on a frozen linear layer of the same number format keep PEFT's pass, and so
    do all on other devices than the CPU.

    Args:
        model: A model with PEFT's layers.

    Yields:
        How many layers take the fast pass.
    """
    import torch
    from numpy.random import SFC64, Generator

    # From torch's random state: the training loop seeds that at each step, so a resumed one drops the same.
    generator = Generator(SFC64(int(torch.randint(2**62, ()))))
    changed = [module for module in model.modules() if _is_plain(module)]
    for module in changed:
        module.forward = partial(_forward, module, generator)
    try:
        yield len(changed)
    finally:
        for module in changed:
            del module.forward


def _is_plain(module: Any) -> bool:
    """Whether a module is a LoRA layer that :func:`_forward` computes exactly."""
    import torch
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear:
        return False
    base, active = module.base_layer, module.active_adapters
    if len(active) != 1 or active[0] not in module.lora_A or module.disable_adapters or module.merged:
        return False
    down, up, dropout = (each[active[0]] for each in (module.lora_A, module.lora_B, module.lora_dropout))
    return (
        not module.lora_variant
        and not module.fan_in_fan_out
        and base.weight.device.type == "cpu"
        and not base.weight.requires_grad
        and base.weight.dtype == down.weight.dtype == up.weight.dtype
        and down.bias is None
        and up.bias is None
        and type(dropout) in (torch.nn.Dropout, torch.nn.Identity)
    )


def _forward(module: Any, generator: Generator, x: Tensor) -> Tensor:
    """W x + s B A dropout(x) of one layer."""
    name = module.active_adapters[0]
    dropout, base = module.lora_dropout[name], module.base_layer
    rate = float(getattr(dropout, "p", 0.0)) if module.training else 0.0
    taken = None if rate == 0 else dropped(generator, x.numel(), rate)
    return _lora().apply(
        x,
        base.weight,
        base.bias,
        module.lora_A[name].weight,
        module.lora_B[name].weight,
        module.scaling[name] / (1 - rate),
        taken,
    )


def dropped(generator: Generator, count: int, rate: float) -> Tensor:
    """Which of ``count`` inputs dropout takes, each independently with probability ``rate``.

    The gaps between them are geometrically distributed: far fewer numbers are drawn than one for each input.

    Args:
        generator: The source of chance.
        count: How many inputs there are.
        rate: Between 0 and 1, both excluded.

    Returns:
        int64, increasing, from 0 to ``count - 1``.
    """
    import numpy as np
    import torch

    found, last = [], -1
    while last < count:
        left = (count - last) * rate
        gaps = generator.standard_exponential(int(left + 4 * left**0.5) + 8)
        places = last + ((gaps / -np.log1p(-rate)).astype(np.int64) + 1).cumsum()
        found.append(places)
        last = int(places[-1])
    places = np.concatenate(found)
    return torch.from_numpy(places[: np.searchsorted(places, count)])


@cache
def _lora() -> Any:
    import torch

    class Lora(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            x: Tensor,
            weight: Tensor,
            bias: Tensor | None,
            down: Tensor,
            up: Tensor,
            scale: float,
            taken: Tensor | None,
        ) -> Tensor:
            rows = x.reshape(-1, x.shape[-1])
            left = rows if taken is None else rows.flatten().index_fill(0, taken, 0).view_as(rows)
            inner = left @ down.T
            inner *= scale
            ctx.save_for_backward(left, weight, down, up, inner, taken)
            ctx.scale = scale
            out = torch.nn.functional.linear(rows, weight, bias)
            return out.addmm_(inner, up.T).view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
            left, weight, down, up, inner, taken = ctx.saved_tensors
            gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
            of_inner = gradient @ up
            of_inner *= ctx.scale
            of_up, of_down = gradient.T @ inner, of_inner.T @ left
            of_x = None
            if ctx.needs_input_grad[0]:
                of_x = of_inner @ down
                if taken is not None:
                    of_x.flatten().index_fill_(0, taken, 0)
                of_x = of_x.addmm_(gradient, weight).view(*gradients[0].shape[:-1], -1)
            return of_x, None, None, of_down, of_up, None, None

    return Lora
