"""What an image becomes in a text tower: pseudo-words, and cross-attention to its patch tokens in blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from setr_lib.systems.features import ImageFeatures
from setr_lib.systems.models.seeding import seeded
from setr_lib.systems.models.system_model import SystemModelError
from setr_lib.systems.models.text_tower import BlockHook, TextTower

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.systems.options import ImageWordsOptions

_SPREAD = 3
"""How many blocks get visual semantics by default."""


class ImageWords(nn.Module):
    """Token learner and visual semantic injection (VSI) of "From Mapping to Composing", arXiv 2504.17990.

    The pseudo-words are ``W AttentionalPooler(patches)`` with learned queries, 1 to 4. In some blocks of the
    text tower, the hidden states attend to the projected patches (a cross-attending transformer block); its
    LayerScale gates are 0 at the start, so that the tower is then exactly as without it. A reconstruction:
    the paper's layers and widths are not public.

    Args:
        encoder: The encoder.
        tower: Its text tower.
        options: Number of pseudo-words, layers of the injection, seed.

    Raises:
        SystemModelError: The vision tower gives no patch tokens, or the text tower has no such block.
    """

    def __init__(self, encoder: OpenClipSpace, tower: TextTower, options: ImageWordsOptions) -> None:
        from open_clip.transformer import AttentionalPooler, ResidualAttentionBlock

        super().__init__()
        patch_width, width = _patch_width(encoder), tower.width
        layers = injected_layers(options, tower.depth)
        with seeded(options.seed):
            self.pooler = AttentionalPooler(width, patch_width, tower.heads, options.tokens)
            self.word = nn.Linear(width, width)
            self.project = nn.Linear(patch_width, width) if layers else None
            self.injection = nn.ModuleDict(
                {
                    str(layer): ResidualAttentionBlock(
                        width, tower.heads, ls_init_value=0.0, is_cross_attention=True
                    )
                    for layer in layers
                }
            )

    def words(self, images: ImageFeatures) -> Tensor:
        """The images' pseudo-words.

        Args:
            images: Features with patch tokens.

        Returns:
            float32 [images, tokens, width].
        """
        return self.word(self.pooler(_patches(images)))

    def hooks(self, images: ImageFeatures) -> list[BlockHook]:
        """The injection, for sentences of which row i speaks of image i.

        Args:
            images: Features with patch tokens.

        Returns:
            Hooks on the text tower's blocks; none where the injection is switched off.
        """
        if self.project is None:
            return []
        patches = self.project(_patches(images))
        return [(int(layer) - 1, _attend(block, patches)) for layer, block in self.injection.items()]


def injected_layers(options: ImageWordsOptions, depth: int) -> list[int]:
    """The blocks that get visual semantics, counted from 1.

    Args:
        options: Of the system.
        depth: Blocks of the text tower.

    Returns:
        Their numbers, ascending: those of the options, or a third, two thirds and all of the depth.

    Raises:
        SystemModelError: The tower has fewer blocks.
    """
    if not options.visual_injection:
        return []
    if options.injection_layers and max(options.injection_layers) > depth:
        raise SystemModelError(
            f"injection_layers = {options.injection_layers}: the text tower has {depth} blocks, counted from "
            "1; name some of these, or leave the key out"
        )
    spread = {-(-depth * part // _SPREAD) for part in range(1, _SPREAD + 1)}
    return sorted(options.injection_layers or spread)


def _attend(block: nn.Module, patches: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda hidden: block(hidden, k_x=patches, v_x=patches)


def _patches(images: ImageFeatures) -> Tensor:
    assert images.patches is not None
    return images.patches


def _patch_width(encoder: OpenClipSpace) -> int:
    """Width of the vision tower's patch tokens, measured on a blank image."""
    if not encoder.embeds_patches:
        raise SystemModelError(
            f"encoder {encoder.id}: its vision tower ({type(encoder.model.visual).__name__}) gives no patch "
            "tokens, of which pseudo-words are made; use a model with open_clip's own vision transformer, "
            "e.g. ViT-B-32 or ViT-L-14"
        )
    size = cast("Sequence[int]", encoder.model.visual.image_size)
    return int(encoder.embed_patches([torch.zeros((3, *size))]).shape[2])
