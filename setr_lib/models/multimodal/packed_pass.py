"""Forward pass for training: a batch of prompts in one sequence, each shared prefix once, with gradients.

A judge's pairs with the same query share all tokens before the candidate's picture. Here the language model's
layers see every prefix and every suffix once, without padding; only attention knows which token belongs to
which row (:mod:`setr_lib.models.multimodal.packed_attention`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.models.multimodal.forward import LanguageModelPass, backbone, vision_outputs
from setr_lib.models.multimodal.last_layer import only_where_read
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.packed_attention import PackedLayout, attend
from setr_lib.models.multimodal.token_rows import TokenRow

if TYPE_CHECKING:
    from torch import Tensor

_ATTENTION = "setr_packed"
"""What transformers calls the attention over packed rows."""
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What an attention layer may ask for beside the usual; packed rows have none of it."""


class PackingError(SetrError):
    """A language model attends in a way that packed rows do not know; the message says which."""


@dataclass(eq=False)
class _Batch:
    layout: PackedLayout
    layers: int = 0


_batch: ContextVar[_Batch] = ContextVar("packed batch")


class PackedPass:
    """The language model on packed rows.

    Args:
        loaded: The model.
        forward: Its pass over token rows, for their positions and the two rows of the output head.
    """

    def __init__(self, loaded: LoadedModel, forward: LanguageModelPass) -> None:
        self._loaded = loaded
        self._forward = forward

    def answer_differences(
        self, prefixes: Sequence[TokenRow], suffixes: Sequence[Sequence[TokenRow]]
    ) -> Tensor:
        """logit(Yes) - logit(No) after each prefix and each of its suffixes; gradients flow if enabled.

        Args:
            prefixes: The beginnings of prompts.
            suffixes: For each prefix, the ends of prompts.

        Returns:
            float32 [suffixes of all prefixes].

        Raises:
            PackingError: The model attends in a way that packed rows do not know.
        """
        import torch

        if not all(prefix.ids for prefix in prefixes):
            raise PackingError("a prompt begins with its candidate: there is nothing to share")
        ends = [
            (prefix, end) for prefix, of_prefix in zip(prefixes, suffixes, strict=True) for end in of_prefix
        ]
        device, place = self._loaded.device, self._forward.positions
        positions = [place.of_row(prefix) for prefix in prefixes]
        positions += [place.of_row(start + end)[..., len(start.ids) :] for start, end in ends]
        rows = [*prefixes, *(end for _, end in ends)]
        lengths = [[len(end.ids) for end in of_prefix] for of_prefix in suffixes]
        layout = PackedLayout.of([len(prefix.ids) for prefix in prefixes], lengths, device)
        with self._packed(layout):
            output = backbone(self._loaded.model)(
                input_ids=torch.tensor([[token for row in rows for token in row.ids]], device=device),
                position_ids=torch.cat(positions, -1).unsqueeze(-2).to(device),
                mm_encoder_outputs=vision_outputs(rows),
                use_cache=False,
            )
        return self._forward.answer_differences(output.last_hidden_state[0, layout.last])

    @contextmanager
    def _packed(self, layout: PackedLayout) -> Iterator[None]:
        """The language model attends as ``layout`` says inside a ``with`` block."""
        from transformers import AttentionInterface

        AttentionInterface.register(_ATTENTION, _attention)
        config, batch = self._loaded.model.get_decoder().config, _Batch(layout)
        if getattr(config, "attention_dropout", 0.0):
            raise PackingError("attention with dropout")
        usual, token = config._attn_implementation, _batch.set(batch)
        config._attn_implementation = _ATTENTION
        try:
            with only_where_read(self._loaded.model.get_decoder(), layout.last):
                yield
        finally:
            config._attn_implementation = usual
            _batch.reset(token)
        if batch.layers != config.num_hidden_layers:
            raise PackingError(f"{batch.layers} of {config.num_hidden_layers} layers attend to packed rows")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: [1, heads, tokens, size] to [1, tokens, heads, size]."""
    asked = [name for name in _UNKNOWN if more.get(name) is not None]
    if attention_mask is not None or dropout or asked:
        raise PackingError(f"attention with {', '.join(asked) or 'dropout or a mask of its own'}")
    batch = _batch.get()
    batch.layers += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    made = attend(query[0], key[0], value[0], batch.layout, scale)
    return made.transpose(0, 1)[None], None
