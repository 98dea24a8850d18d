"""``prompt_tuned``: learnable context vectors before the modification text; CLIP is frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from setr_lib.systems.features import Batch, ImageFeatures, TripletBatch
from setr_lib.systems.models.losses import info_nce
from setr_lib.systems.models.system_model import SystemModel
from setr_lib.systems.models.text_tower import Prompt, TextTower
from setr_lib.systems.options import PromptTunedOptions

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace

_INITIAL_SPREAD = 0.02
"""Standard deviation of the context vectors at the start, as CoOp's."""


class PromptTuned(SystemModel[PromptTunedOptions]):
    """Soft prompt tuning of a frozen CLIP for composed image retrieval.

    The query is ``unit(T(v_1 ... v_m text) + V(reference))`` with context vectors v that all queries share,
    or the text's vector alone (``reference = false``). CoOp's context vectors (Zhou et al., arXiv
    2109.01134), as the prompt-tuned baseline of arXiv 2506.06602; a reconstruction: that paper gives no
    details.

    Raises:
        SystemModelError: The text tower does not take injected vectors.
    """

    def __init__(
        self, encoder: OpenClipSpace, options: PromptTunedOptions, base: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(encoder, options, base)
        self._tower = TextTower(encoder)
        start = torch.randn(
            (options.context_vectors, self._tower.width),
            generator=torch.Generator().manual_seed(options.seed),
        )
        self.context = nn.Parameter((_INITIAL_SPREAD * start).to(self.device))

    def encode_queries(self, references: ImageFeatures, texts: Sequence[str]) -> Tensor:
        """The text behind the context vectors, with the reference's vector added where the options say so."""
        prompts = [Prompt(after=text) for text in texts]
        vectors = self._tower.encode_with(prompts, self.context.expand(len(prompts), -1, -1))
        if self.options.reference:
            vectors = nn.functional.normalize(vectors + references.vectors, dim=-1)
        return vectors

    def loss(self, batch: Batch) -> Tensor:
        """InfoNCE over the batch's targets."""
        assert isinstance(batch, TripletBatch)
        queries = self.encode_queries(batch.references, batch.texts)
        return info_nce(queries, batch.targets.vectors, batch.target_ids, self.options.temperature)
