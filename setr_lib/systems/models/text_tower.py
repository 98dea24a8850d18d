"""Text encoding with injected token vectors (pseudo-words, learned prompts) in open_clip text transformers.

Forward hooks on the token embedding and on the transformer's blocks change what ``encode_text`` computes; the
model's own code is used as it is, so positions, masks, pooling and projection are those of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from setr_lib.systems.models.system_model import SystemModelError

if TYPE_CHECKING:
    from setr_lib.spaces.open_clip_space import OpenClipSpace

_MARKS = (("$", "*"), ("x", "y"), ("red", "blue"))
"""Words that hold the place of injected vectors, in pairs: where two tokenisations that differ in nothing but
the word differ, there is the place. Tokenizers that drop punctuation (SigLIP's) need the second pair."""

BlockHook = tuple[int, Callable[[Tensor], Tensor]]
"""A block's number, and what is done with its output, [texts, positions, width] to the same shape."""


class Prompt(NamedTuple):
    """A text with a place for injected vectors: ``before``, the vectors, ``after``, each its own word.

    A ``$`` in ``before`` or ``after`` is a plain character of the text.
    """

    before: str = ""
    after: str = ""

    def with_word(self, word: str) -> str:
        """The text with a word in the place of the vectors."""
        return " ".join(part for part in (self.before, word, self.after) if part)


class TextTower:
    """An open_clip text transformer that takes vectors in place of tokens, and hooks on its blocks.

    ``n`` vectors take ``n`` positions one behind another. The place is held by one token of the tokenizer's
    own (that of ``$``, where it has one), repeated ``n`` times; the embedding of these positions is replaced,
    so which token it is has no influence. A text that becomes too long loses its end, as always.

    Args:
        encoder: The encoder whose tokenizer and text tower are used.
        model: The open_clip model to run in place of the encoder's own: a copy with other weights.

    Attributes:
        width: Length of a token embedding, and of the hidden states.
        depth: Number of blocks.
        heads: Attention heads of a block.

    Raises:
        SystemModelError: The text tower has no token embedding or no blocks as open_clip's own text
            transformers have them, or no word of the tokenizer can hold the place.
    """

    def __init__(self, encoder: OpenClipSpace, model: Any = None) -> None:
        self._model = encoder.model if model is None else model
        self._tokenizer = encoder.tokenizer
        self._device = encoder.device
        self._embedding, self.blocks = _parts(self._model, encoder.id)
        self.width, self.depth = self._embedding.embedding_dim, len(self.blocks)
        block: Any = self.blocks[0]
        self.heads = int(block.attn.num_heads)
        self._marks = _working_marks(self._tokenizer, encoder.id)

    @property
    def token_embedding(self) -> nn.Embedding:
        """The table of token embeddings."""
        return self._embedding

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode texts without injected vectors.

        Args:
            texts: The texts.

        Returns:
            Unit vectors, float32 [texts, dimension].
        """
        return self._run(self._tokenizer(list(texts)), (), ())

    def encode_with(
        self, prompts: Sequence[Prompt], vectors: Tensor, hooks: Sequence[BlockHook] = ()
    ) -> Tensor:
        """Encode texts with vectors in place of token embeddings.

        Args:
            prompts: The texts, each with its place for vectors.
            vectors: What is injected, float [texts, n, width]; n of at least 1.
            hooks: What is done with the output of blocks, in this order.

        Returns:
            Unit vectors, float32 [texts, dimension], with gradients to ``vectors`` and to what the hooks
            use.

        Raises:
            SystemModelError: The vectors do not fit into the model's context.
        """
        if not prompts:
            return torch.zeros((0, self.encode([""]).shape[1]), device=self._device)
        ids, places = self._tokens(prompts, vectors.shape[1])

        def inject(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[places] = vectors.reshape(-1, self.width).to(output.dtype)
            return changed

        return self._run(ids, (inject,), hooks)

    def _tokens(self, prompts: Sequence[Prompt], count: int) -> tuple[Tensor, Tensor]:
        """Token ids, int64 [texts, context], and which positions are injected, bool of the same shape.

        The texts are tokenised for a context that is shorter by what the repetition adds, so that the
        tokenizer itself cuts their end and keeps its closing token.
        """
        short = self._tokenizer.context_length - count + 1
        first, other = (
            self._tokenizer([prompt.with_word(word) for prompt in prompts], context_length=max(short, 1))
            for word in self._marks
        )
        for prompt, found in zip(prompts, (first != other).sum(dim=1).tolist(), strict=True):
            if found != 1 or short < 1:
                raise SystemModelError(
                    f"{count} injected vectors and {prompt.before!r} before them do not fit into the text "
                    f"tower's context of {self._tokenizer.context_length} tokens (text {prompt.after!r}): "
                    "use fewer vectors"
                )
        start = (first != other).int().argmax(dim=1, keepdim=True)
        column = torch.arange(short + count - 1)[None]
        source = torch.where(column < start + count, column.minimum(start), column - count + 1)
        places = (column >= start) & (column < start + count)
        return first.gather(1, source), places.to(self._device)

    def _run(
        self, ids: Tensor, embedding_hooks: Sequence[Callable[..., Tensor]], hooks: Sequence[BlockHook]
    ) -> Tensor:
        with ExitStack() as stack:
            for hook in embedding_hooks:
                stack.callback(self._embedding.register_forward_hook(hook).remove)
            for layer, change in hooks:
                stack.callback(self.blocks[layer].register_forward_hook(_on_output(change)).remove)
            features = self._model.encode_text(ids.to(self._device))
        return nn.functional.normalize(features.float(), dim=-1)


def _on_output(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return change(output)

    return hook


def _parts(model: Any, name: str) -> tuple[nn.Embedding, nn.ModuleList]:
    """The token embedding and the blocks of an open_clip model's text tower.

    They are attributes of ``CLIP`` itself, and of the ``text`` of ``CustomTextCLIP`` and ``CoCa``.
    """
    tower = model if hasattr(model, "token_embedding") else getattr(model, "text", None)
    embedding = getattr(tower, "token_embedding", None)
    transformer = getattr(tower, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    if embedding is None or not blocks or not getattr(transformer, "batch_first", True):
        raise SystemModelError(
            f"encoder {name}: its text tower ({type(tower).__name__}) has no token embedding and blocks "
            "where vectors could be injected; use a model with open_clip's own text transformer, e.g. "
            "ViT-B-32 or ViT-L-14"
        )
    return embedding, blocks


def _working_marks(tokenizer: Any, name: str) -> tuple[str, str]:
    """The first pair of words that are one token each, alone and within a text."""
    prompts = [Prompt(), Prompt("a photo of"), Prompt("a photo of", ", in red"), Prompt("", "in red")]
    special = tokenizer([""])
    for marks in _MARKS:
        first, other = (tokenizer([prompt.with_word(word) for prompt in prompts]) for word in marks)
        differs = first != other
        if bool((differs.sum(dim=1) == 1).all()) and not bool(torch.isin(first[differs], special).any()):
            return marks
    raise SystemModelError(
        f"encoder {name}: its tokenizer has no word of one token that could hold the place of injected "
        "vectors; use another encoder"
    )
