"""Trainable additions to a frozen text tower that leave it as it is at the start: bottlenecks, and LoRA."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from setr_lib.systems.models.seeding import seeded
from setr_lib.systems.models.text_tower import BlockHook, TextTower

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace


class Bottlenecks(nn.ModuleList):
    """A bottleneck adapter behind every block: ``h + up(GELU(down(LN(h))))``, ``up`` of zeros at the start.

    After Houlsby et al., arXiv 1902.00751; PEFT has no such adapter.

    Args:
        tower: The text tower.
        inner: Width of the bottleneck.
        seed: Of the initial weights.
    """

    def __init__(self, tower: TextTower, inner: int, seed: int) -> None:
        with seeded(seed):
            super().__init__(_bottleneck(tower.width, inner) for _ in range(tower.depth))

    def hooks(self) -> list[BlockHook]:
        """The adapters as hooks on the tower's blocks."""
        return [(layer, _added(adapter)) for layer, adapter in enumerate(self)]


def _bottleneck(width: int, inner: int) -> nn.Module:
    up = nn.Linear(inner, width)
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), up)


def _added(adapter: nn.Module) -> Any:
    def add(hidden: Tensor) -> Tensor:
        return hidden + adapter(hidden)

    return add


def with_lora(
    encoder: OpenClipSpace, rank: int, alpha: int, seed: int
) -> tuple[TextTower, dict[str, nn.Parameter]]:
    """A copy of the encoder's text tower with LoRA on q, k, v and the MLP of every block.

    Hu et al., arXiv 2106.09685, by PEFT. The frozen tensors are the encoder's own. Not by PEFT's layer for
    ``MultiheadAttention``: it adds the output projection's update twice and merges in place around each
    forward pass, so that the frozen weights drift (measured with PEFT 0.21.2).

    Args:
        encoder: The encoder.
        rank: Of the updates.
        alpha: Their scale is alpha / rank.
        seed: Of the initial weights.

    Returns:
        The tower, and its trainable tensors by name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    original: Any = encoder.model
    shared = [*original.parameters(), *original.buffers()]
    model = copy.deepcopy(original, {id(tensor): tensor for tensor in shared})
    tower = TextTower(encoder, model)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=["c_fc", "c_proj"],
        target_parameters=["attn.in_proj_weight"],
    )
    with seeded(seed):
        inject_adapter_in_model(config, tower.blocks)
    return tower, {
        name.replace(".", "/"): value
        for name, value in tower.blocks.named_parameters()
        if value.requires_grad
    }
