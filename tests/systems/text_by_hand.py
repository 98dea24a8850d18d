"""A text tower's blocks run one by one, for tests of what is injected between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from setr_lib.spaces.open_clip_space import OpenClipSpace


def encode_by_hand(
    encoder: OpenClipSpace, text: str, words: Tensor, after: Mapping[int, Callable[[Tensor], Tensor]]
) -> Tensor:
    """Unit vectors of a text with vectors in the place of ``$``, [rows, 1, width], by an open_clip ``CLIP``.

    ``after`` changes the output of blocks, which count from 1.
    """
    model = encoder.model
    ids = encoder.tokenizer([text] * len(words))
    hidden = model.token_embedding(ids)
    (place,) = (ids[0] == encoder.tokenizer(["$"])[0, 1]).nonzero()[0].tolist()
    hidden[:, place] = words[:, 0]
    hidden = hidden + model.positional_embedding
    for layer, block in enumerate(model.transformer.resblocks, start=1):
        hidden = block(hidden, attn_mask=model.attn_mask)
        if layer in after:
            hidden = after[layer](hidden)
    end = model.ln_final(hidden)[torch.arange(len(ids)), ids.argmax(dim=1)]
    return torch.nn.functional.normalize(end @ model.text_projection, dim=-1)
