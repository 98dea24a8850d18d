"""The fast pass of LoRA layers gives what PEFT's gives, and its dropout is dropout."""

from __future__ import annotations

import pytest
import torch  # noqa: TID253
from numpy.random import SFC64, Generator
from peft import LoraConfig, get_peft_model  # noqa: TID253

from setr_lib.reranking.lora_forward import dropped, fast_lora

torch.set_num_threads(1)


def lora_model(dropout: float, bias: bool = True) -> torch.nn.Module:
    """One linear layer with LoRA whose second matrix is not zero."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=bias))
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, target_modules=["0"]))  # pyright: ignore[reportArgumentType]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return adapted.train()


def layer(model: torch.nn.Module) -> torch.nn.Module:
    return next(module for module in model.modules() if hasattr(module, "lora_A"))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_pefts_pass_with_its_gradients(bias: bool) -> None:
    module = layer(lora_model(0.0, bias))
    x, gradient = torch.randn(1, 7, 6, requires_grad=True), torch.randn(1, 7, 5)
    wanted = [x, *(each for each in module.parameters() if each.requires_grad)]
    expected = module(x)
    with fast_lora(module) as changed:
        made = module(x)
    assert changed == 1 and "forward" not in vars(module)
    torch.testing.assert_close(made, expected)
    mine = torch.autograd.grad(made, wanted, gradient)
    theirs = torch.autograd.grad(expected, wanted, gradient)
    torch.testing.assert_close(mine, theirs)


def test_with_dropout_the_low_rank_part_sees_what_is_left_scaled_up() -> None:
    module = layer(lora_model(0.25))
    x, gradient = torch.randn(1, 50, 6, requires_grad=True), torch.randn(1, 50, 5)
    torch.manual_seed(5)
    with fast_lora(module):
        made = module(x)
    torch.manual_seed(5)
    taken = dropped(Generator(SFC64(int(torch.randint(2**62, ())))), 300, 0.25)
    kept = torch.ones(300).index_fill(0, taken, 0).view(1, 50, 6) / 0.75
    down, up = (getattr(module, name)["default"].weight for name in ("lora_A", "lora_B"))
    expected = module.base_layer(x) + 3 * (x * kept) @ down.T @ up.T  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(made, expected)
    for mine, theirs in zip(
        torch.autograd.grad(made, [x, down, up], gradient),
        torch.autograd.grad(expected, [x, down, up], gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_nothing_is_dropped_at_evaluation() -> None:
    module = layer(lora_model(0.5).eval())
    x = torch.randn(1, 9, 6)
    expected = module(x)
    with fast_lora(module):
        torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5, 0.9])
def test_each_input_is_dropped_with_the_same_chance_whatever_its_neighbours(rate: float) -> None:
    count = 200_000
    taken = dropped(Generator(SFC64(7)), count, rate)
    assert bool((taken.diff() > 0).all()) and int(taken[0]) >= 0 and int(taken[-1]) < count
    five_sigma = 5 * (rate * (1 - rate) / count) ** 0.5
    assert abs(len(taken) / count - rate) < five_sigma
    halves = [int(((taken >= begin) & (taken < begin + count // 2)).sum()) for begin in (0, count // 2)]
    assert all(abs(half / (count / 2) - rate) < five_sigma * 2**0.5 for half in halves)
    after_one = int((taken.diff() == 1).sum()) / len(taken)
    assert abs(after_one - rate) < 5 * (rate * (1 - rate) / len(taken)) ** 0.5
    assert len(dropped(Generator(SFC64(1)), 3, 0.001)) <= 3


def test_layers_of_another_kind_keep_pefts_pass() -> None:
    config = LoraConfig(r=2, target_modules=["0"], use_dora=True)
    module = layer(get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5)), config))  # pyright: ignore[reportArgumentType]
    with fast_lora(module) as changed:
        assert changed == 0
