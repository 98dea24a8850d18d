"""Token ids and attention masks of texts, from any tokenizer that open_clip brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from setr_lib.systems.models.system_model import SystemModelError


class TextTokens:
    """An encoder's tokenizer with the padding that it uses, which tokenizers of open_clip do not tell.

    They differ: CLIP's own pads with 0, which is also its token of ``!``; SigLIP's with the token that ends a
    text. So padding is the run of padding ids *at the end* of a text, never an id within it.

    Args:
        tokenizer: Called with texts and ``context_length``; gives token ids, int64 [texts, context_length].
        length: Tokens of a text; longer ones are truncated.

    Attributes:
        vocab_size: How many token ids there are.
        padding_id: The id that texts are padded with.

    Raises:
        SystemModelError: The tokenizer puts padding before or within a text, or does not tell its size.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        self._tokenizer = tokenizer
        self.length = length
        self.vocab_size = _vocab_size(tokenizer)
        shorter, longer = tokenizer([""], context_length=length), tokenizer([""], context_length=length + 1)
        self.padding_id = int(longer[0, -1])
        if not torch.equal(longer[:, :length], shorter) or int(shorter[0, -1]) != self.padding_id:
            raise SystemModelError(
                "this encoder's tokenizer does not pad texts at their end, so that what is padding cannot be "
                "told: take another encoder"
            )

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenize texts; one without words has no tokens.

        Args:
            texts: The texts.

        Returns:
            Token ids, and which of them are a text's and not padding: int64 and bool [texts, tokens], both as
            long as the longest of the texts.
        """
        ids = self._tokenizer(list(texts), context_length=self.length)
        places = torch.arange(1, self.length + 1)
        ends = ((ids != self.padding_id) * places).amax(dim=1)  # of the last token that is no padding
        ends = ends * torch.tensor([bool(text.strip()) for text in texts])
        longest = int(ends.max())
        return ids[:, :longest], places[:longest] <= ends[:, None]


def _vocab_size(tokenizer: Any) -> int:
    size = getattr(tokenizer, "vocab_size", None)
    if size is None and (inner := getattr(tokenizer, "tokenizer", None)) is not None:
        size = len(inner)  # tokens that were added count, too
    if size is None:
        raise SystemModelError(
            f"the encoder's tokenizer ({type(tokenizer).__name__}) does not tell how many tokens it has: "
            "take another encoder"
        )
    return int(size)
