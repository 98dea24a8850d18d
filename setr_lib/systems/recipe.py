"""The trained retrieval systems by name: what each learns from, its settings, and the class that computes it.

Nothing here imports torch: settings, ``setr doctor`` and Dagster's code location read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from setr_lib.settings import BLIP2, OPEN_CLIP
from setr_lib.systems.options import (
    ComposingOptions,
    MappingOptions,
    Pic2WordOptions,
    PromptTunedOptions,
    QFormerOptions,
    RetrievalDpoFusedOptions,
    RetrievalDpoOptions,
    SystemOptions,
)

if TYPE_CHECKING:
    from setr_lib.systems.models.system_model import SystemModel

LearnsFrom = Literal["triplets", "images", "captioned images"]


@dataclass(frozen=True)
class Recipe:
    """A trained retrieval system, as settings and reports know it.

    Attributes:
        name: What it is called, e.g. ``"prompt_tuned"``.
        model: The class that computes it, ``package.module:NAME``, a subclass of ``SystemModel``; loaded when
            it is needed.
        options: The settings of ``[systems.NAME]``.
        learns_from: What a training step sees: triplets, images, or images with their captions.
        summary: What it is, in one line.
        source: Where it was published; a reconstruction says so.
        builds_on: Another system whose champion it starts from, frozen; its weights are in the bundle, too.
        own_space: Whether its image side is trained, so that galleries are embedded by each version.
        reads_patches: Whether it reads the patch tokens of the encoder's vision tower.
        encoders: The built-in kinds of embedding space that can be its encoder.
    """

    name: str
    model: str
    options: type[SystemOptions]
    learns_from: LearnsFrom
    summary: str
    source: str
    builds_on: str | None = None
    own_space: bool = False
    reads_patches: bool = False
    encoders: tuple[str, ...] = (OPEN_CLIP,)

    def load(self) -> type[SystemModel]:
        """Import the class that computes it.

        Returns:
            The class.
        """
        module, _, name = self.model.partition(":")
        return getattr(import_module(module), name)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="prompt_tuned",
            model="setr_lib.systems.models.prompt_tuned:PromptTuned",
            options=PromptTunedOptions,
            learns_from="triplets",
            summary="learnable context vectors before the text; CLIP frozen",
            source="CoOp's context vectors (arXiv 2109.01134), as the prompt-tuned baseline of "
            "arXiv 2506.06602; a reconstruction",
        ),
        Recipe(
            name="retrieval_dpo",
            model="setr_lib.systems.models.retrieval_dpo:RetrievalDpo",
            options=RetrievalDpoOptions,
            learns_from="triplets",
            summary="CLIP's text encoder alone, by DPO against mined hard negatives; a negative control",
            source="Retrieval-DPO of arXiv 2506.06602; a reconstruction",
        ),
        Recipe(
            name="retrieval_dpo_fused",
            model="setr_lib.systems.models.retrieval_dpo_fused:RetrievalDpoFused",
            options=RetrievalDpoFusedOptions,
            learns_from="triplets",
            summary="Retrieval-DPO with fused query, list-wise loss, curated negatives, LoRA on both towers",
            source="after the four reasons that arXiv 2506.06602 gives for Retrieval-DPO's failure; ours",
            own_space=True,
        ),
        Recipe(
            name="qformer",
            model="setr_lib.systems.models.qformer:QFormer",
            options=QFormerOptions,
            learns_from="triplets",
            summary="a light Q-Former fuses reference image and text; images by its image side",
            source="BLIP-2 with a light Q-Former (arXiv 2506.06602), on the lines of SPRC (ICLR 2024); a "
            "reconstruction",
            own_space=True,
            reads_patches=True,
            encoders=(OPEN_CLIP, BLIP2),
        ),
        Recipe(
            name="pic2word",
            model="setr_lib.systems.models.pic2word:Pic2Word",
            options=Pic2WordOptions,
            learns_from="images",
            summary="one pseudo-word for the reference, by an MLP from its vector; CLIP frozen",
            source="Pic2Word (arXiv 2302.03084); a reconstruction",
        ),
        Recipe(
            name="mapping",
            model="setr_lib.systems.models.mapping:Mapping",
            options=MappingOptions,
            learns_from="captioned images",
            summary="pseudo-words from patch tokens, visual semantics injected into the text tower",
            source="From Mapping to Composing, stage I (arXiv 2504.17990); a reconstruction",
            reads_patches=True,
        ),
        Recipe(
            name="composing",
            model="setr_lib.systems.models.composing:Composing",
            options=ComposingOptions,
            learns_from="triplets",
            summary="adapters in the text tower on top of a frozen mapping; hard negatives",
            source="From Mapping to Composing, stage II (arXiv 2504.17990); a reconstruction",
            builds_on="mapping",
            reads_patches=True,
        ),
    )
}
"""The systems that come with the package, in the order in which one builds on another."""
