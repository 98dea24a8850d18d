"""PDV, prompt direction vectors (arXiv 2502.07215, WACV 2026): the reference moved along the change of text.

The direction of a query is ``T(composed caption) - T(reference caption)``: what both captions share cancels
out. A reconstruction from the published formulas and settings, not from the authors' code. The composed
caption is the composition's ``target_caption`` here; the paper takes that of the method it is added to, e.g.
CIReVL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.methods.inputs import CAPTIONS, COMPOSITIONS, EncodedQueries, MethodInputs
from setr_lib.methods.method import VectorMethod
from setr_lib.methods.options import Option

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Setting:
    """The constants of PDV for a benchmark and a backbone."""

    image_scale: float
    """a_I: how far ``pdv_i`` goes from the reference image."""
    text_scale: float
    """a_T: how far ``pdv_t`` goes from the reference's caption."""
    text_share: float
    """b: the share of ``pdv_t`` in ``pdv_f``."""


PUBLISHED = MappingProxyType(
    {
        ("fashioniq", "B/32"): Setting(image_scale=1.4, text_scale=1.4, text_share=0.75),
        ("fashioniq", "L/14"): Setting(image_scale=1.0, text_scale=1.3, text_share=0.55),
        ("fashioniq", "G/14"): Setting(image_scale=1.4, text_scale=1.4, text_share=0.6),
        ("cirr", "B/32"): Setting(image_scale=1.4, text_scale=1.2, text_share=0.75),
        ("circo", "B/32"): Setting(image_scale=1.4, text_scale=1.2, text_share=0.75),
    }
)
"""The paper's settings, by the kind of data set and CLIP's backbone."""
DEFAULT = PUBLISHED["cirr", "B/32"]
"""For another kind of data set: that of CIRR and CIRCO with B/32. For another backbone, a kind's B/32."""
_BACKBONES = (
    (re.compile(r"vit[-_](l|large)[-_/](patch)?14", re.IGNORECASE), "L/14"),
    (re.compile(r"vit[-_]bigg[-_/](patch)?14", re.IGNORECASE), "G/14"),
)
"""How models are named that have a setting besides B/32: ``ViT-L-14``, ``clip-vit-large-patch14``."""


IMAGE_SCALE = Option(
    "image_scale", meaning="how far `pdv_i` goes from the reference; the paper's if left out"
)
TEXT_SCALE = Option("text_scale", meaning="how far `pdv_t` goes from its caption; the paper's if left out")
TEXT_SHARE = Option(
    "text_share", least=0, most=1, meaning="the share of `pdv_t` in `pdv_f`; the paper's if left out"
)


def setting_of(dataset_kind: str, space_id: str) -> Setting:
    """The constants for a benchmark and an encoder: as published, or the nearest that is.

    Args:
        dataset_kind: The kind of data set, e.g. ``"cirr"``; empty for none.
        space_id: Who the embedding space is; a model is known by the architecture in its name, as open_clip
            (``ViT-L-14``) or its checkpoint on the hub (``clip-vit-large-patch14``) has it.

    Returns:
        The published setting; without one for this backbone, that of the kind with B/32; without one for this
        kind, :data:`DEFAULT`.
    """
    backbone = next((short for name, short in _BACKBONES if name.search(space_id)), "B/32")
    of_kind = PUBLISHED.get((dataset_kind, "B/32"), DEFAULT)
    return PUBLISHED.get((dataset_kind, backbone), of_kind)


def _setting(inputs: MethodInputs) -> Setting:
    """The setting of the data set and encoder, with what ``[methods.NAME]`` says instead."""
    found = setting_of(inputs.queries.dataset_kind, inputs.queries.space_id)
    options = inputs.options
    return Setting(
        image_scale=IMAGE_SCALE.of(options, found.image_scale),
        text_scale=TEXT_SCALE.of(options, found.text_scale),
        text_share=TEXT_SHARE.of(options, found.text_share),
    )


def _caption_vectors(queries: EncodedQueries) -> NDArray[np.float32]:
    """T(reference caption); a zero row where there is no caption, so that the direction is the target's."""
    captions = queries.reference_captions
    vectors = queries.encode(captions)
    vectors[[not caption for caption in captions]] = 0
    return vectors


@dataclass(frozen=True)
class _Parts:
    image: NDArray[np.float32]
    caption: NDArray[np.float32]
    direction: NDArray[np.float32]
    setting: Setting

    @classmethod
    def of(cls, inputs: MethodInputs) -> _Parts:
        queries = inputs.queries
        caption = queries.kept("reference_caption", _caption_vectors)
        # A reference without a vector is stood for by its caption.
        known = np.abs(queries.reference_vectors).sum(axis=1, keepdims=True) > 0
        image = np.where(known, queries.reference_vectors, caption)
        return cls(image, caption, queries.target_vectors - caption, _setting(inputs))

    def from_text(self) -> NDArray[np.floating]:
        return self.caption + self.setting.text_scale * self.direction

    def from_image(self) -> NDArray[np.floating]:
        return self.image + self.setting.image_scale * self.direction

    def fused(self) -> NDArray[np.floating]:
        share = self.setting.text_share
        return (1 - share) * self.from_image() + share * self.from_text()


def _method(
    name: str, vectors: Callable[[_Parts], NDArray[np.floating]], which: str, *options: Option
) -> VectorMethod:
    return VectorMethod(
        name,
        lambda inputs: vectors(_Parts.of(inputs)),
        frozenset({CAPTIONS, COMPOSITIONS}),
        source=f"{which}, arXiv 2502.07215, WACV 2026; a reconstruction, on SETR's compositions",
        options=options,
    )


METHODS = (
    _method("pdv_t", _Parts.from_text, "PDV-T", TEXT_SCALE),
    _method("pdv_i", _Parts.from_image, "PDV-I", IMAGE_SCALE),
    _method("pdv_f", _Parts.fused, "PDV-F", IMAGE_SCALE, TEXT_SCALE, TEXT_SHARE),
)
