"""Forward pass of rows that continue cached prefixes: each prefix's keys and values are read in place.

Rows are packed without padding and run in parts whose activations stay in the processor's caches. The last
layer works only for the tokens whose hidden states are read. Without gradients; :meth:`LanguageModelPass.run`
is the same with them, over copies of the prefixes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.models.device import is_out_of_memory
from setr_lib.models.multimodal.errors import first_line
from setr_lib.models.multimodal.forward import LanguageModelPass, PrefixCache, backbone, vision_outputs
from setr_lib.models.multimodal.last_layer import only_where_read
from setr_lib.models.multimodal.lean_layers import lean_layers
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.prefix_attention import RowRuns, attend
from setr_lib.models.multimodal.token_rows import TokenRow

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
_ATTENTION = "setr_shared_prefix"
"""What transformers calls the attention to shared prefixes."""
_UNKNOWN = ("sliding_window", "softcap", "s_aux", "position_bias")
"""What an attention layer may ask for beside the usual; shared prefixes have none of it."""
ACTIVATION_BYTES = 16 * 2**20
"""Of a part's widest activation on a CPU: what is written by one operation is read by the next from its last
cache, and products are large enough for their full rate. On other devices a part is the whole batch."""

_SPREAD_OVER = 2 * 10**8
"""Parameters of the layers times passes whose prefixes are run in one batch."""
_MOST_PASSES = 8


class SharedPrefixError(SetrError):
    """A language model attends in a way that shared prefixes do not know; the message says which."""


@dataclass(eq=False)
class _Part:
    prefixes: Sequence[Sequence[tuple[Tensor, Tensor]]]
    """Of each layer, keys and values of each prefix, [key heads, length, size]."""
    runs: RowRuns
    layers: int = 0


_part: ContextVar[_Part] = ContextVar("rows that continue shared prefixes")


class SharedPrefixPass:
    """The language model on rows that continue cached prefixes.

    Args:
        loaded: The model.
        forward: Its pass over token rows, for their positions.
    """

    def __init__(self, loaded: LoadedModel, forward: LanguageModelPass) -> None:
        self.loaded = loaded
        self.forward = forward

    def last_hidden(self, rows: Sequence[TokenRow], prefixes: PrefixCache, owners: Sequence[int]) -> Tensor:
        """Hidden states of the rows' last tokens.

        Args:
            rows: Ends of prompts.
            prefixes: The cached beginnings.
            owners: For each row the index of the prefix that it continues.

        Returns:
            [rows, hidden] in the model's dtype.

        Raises:
            SharedPrefixError: The model attends in a way that shared prefixes do not know.
        """
        import torch

        lengths = [len(row.ids) for row in rows]
        order = sorted(range(len(rows)), key=lambda row: (owners[row], lengths[row]))
        ends = [len(row.ids) for row in prefixes.rows]
        layers = [
            [(keys[n, :, :end], values[n, :, :end]) for n, end in enumerate(ends)]
            for keys, values in prefixes.layers
        ]
        made = [
            self._run([rows[n] for n in part], prefixes.rows, layers, [owners[n] for n in part])
            for part in self._parts(order, lengths)
        ]
        places = torch.tensor(order, device=self.loaded.device)
        hidden = torch.cat(made)
        return torch.empty_like(hidden).index_copy_(0, places, hidden)

    def _parts(self, order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Rows in order, in as few parts as fit, of about as many tokens each."""
        total, most = sum(lengths), tokens_of_a_part(self.loaded)
        parts: list[list[int]] = [[] for _ in range(1 if most is None else -(-total // most))]
        taken = 0
        for row in order:
            parts[taken * len(parts) // total].append(row)
            taken += lengths[row]
        return [part for part in parts if part]

    def _run(
        self,
        rows: Sequence[TokenRow],
        starts: Sequence[TokenRow],
        layers: Sequence[Sequence[tuple[Tensor, Tensor]]],
        owners: Sequence[int],
    ) -> Tensor:
        import torch

        device = self.loaded.device
        positions = self.forward.positions.of_ends(rows, starts, owners)
        part = _Part(layers, RowRuns.of([len(row.ids) for row in rows], owners, device))
        last = torch.tensor(part.runs.last, device=device)
        with self._attending(part, last):
            output = backbone(self.loaded.model)(
                input_ids=torch.tensor([[token for row in rows for token in row.ids]], device=device),
                position_ids=positions.unsqueeze(-2).to(device),
                mm_encoder_outputs=vision_outputs(rows),
                use_cache=False,
            )
        if part.layers != len(layers):
            raise SharedPrefixError(f"{part.layers} of {len(layers)} layers attend to shared prefixes")
        return output.last_hidden_state[0, last]

    @contextmanager
    def _attending(self, part: _Part, last: Tensor) -> Iterator[None]:
        """The language model attends to the prefixes of ``part`` inside a ``with`` block."""
        from transformers import AttentionInterface

        AttentionInterface.register(_ATTENTION, _attention)
        decoder = self.loaded.model.get_decoder()
        usual, token = decoder.config._attn_implementation, _part.set(part)
        decoder.config._attn_implementation = _ATTENTION
        try:
            with lean_layers(decoder), only_where_read(decoder, last):
                yield
        finally:
            decoder.config._attn_implementation = usual
            _part.reset(token)


def tokens_of_a_part(loaded: LoadedModel) -> int | None:
    """How many tokens are run at a time.

    Args:
        loaded: The model.

    Returns:
        So many that the widest activation has ``ACTIVATION_BYTES``; None for any number, off the CPU.
    """
    if loaded.device.type != "cpu":
        return None
    config = loaded.model.config.get_text_config()
    widest = max(getattr(config, "intermediate_size", 0) or 0, config.hidden_size)
    return max(64, ACTIVATION_BYTES // (widest * loaded.model.dtype.itemsize))


def pairs_run_together(loaded: LoadedModel, pairs: int) -> int:
    """Of how many pairs the queries' prefixes are run in one batch: the smaller the model, the more.

    What a pass costs whatever its size is spread over them; in a model of a billion parameters it does not
    count, and a run that is killed loses the scores of as few pairs as its passes have.

    Args:
        loaded: The model.
        pairs: Of a pass, as settings have it.

    Returns:
        Pairs, at least ``pairs``.
    """
    weights = sum(weight.numel() for weight in loaded.model.get_decoder().layers.parameters())
    return pairs * min(_MOST_PASSES, max(1, _SPREAD_OVER // max(1, weights)))


def check_shared_prefixes(shared: SharedPrefixPass, rows: Sequence[TokenRow]) -> bool:
    """Whether rows cut in two, at their last picture, give the same scores as in one piece.

    In one piece they are run by transformers' own attention. Where the scores differ, or a layer attends in
    a way that shared prefixes do not know, a warning is logged.

    Args:
        shared: The pass to check.
        rows: Whole prompts; prompts of several lengths try more.

    Returns:
        Whether the scores agree, within what rounding explains.
    """
    import torch

    loaded, forward = shared.loaded, shared.forward
    kinds = set(getattr(loaded.model.config.get_text_config(), "layer_types", None) or ())
    try:
        if other := kinds - {"full_attention"}:
            raise SharedPrefixError(f"layers with {', '.join(sorted(other))}")
        parts = [_cut(row, loaded.special_tokens.image_token_id) for row in rows]
        owners = [n for n in range(len(rows)) for _ in range(2)]
        with torch.inference_mode():
            whole = forward.answer_differences(forward.run(rows)[0])
            cache = forward.run([start for start, _ in parts])[1]
            hidden = shared.last_hidden([parts[n][1] for n in owners], cache, owners)
            cut = forward.answer_differences(hidden)
        close = 1e-3 if loaded.model.dtype == torch.float32 else 0.5
        if torch.allclose(cut, whole[owners], atol=close, rtol=close / 10):
            return True
        reason = f"scores {cut.tolist()} differ from {whole[owners].tolist()}"
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
    _LOG.warning("%s: each pair copies its query's keys and values (%s); slower", loaded.id, reason)
    return False


def _cut(row: TokenRow, image_token_id: int) -> tuple[TokenRow, TokenRow]:
    """A row in two parts: the second begins with the last picture, or is the last token where that is all."""
    last = len(row.images) - 1
    tokens = row.images[last].placeholder.count(image_token_id) if row.images else 0
    places = [place for place, token in enumerate(row.ids) if token == image_token_id]
    cut = places[-tokens] if tokens else 0
    if cut == 0:
        cut, last = len(row.ids) - 1, len(row.images)
    return TokenRow(row.ids[:cut], row.images[:last]), TokenRow(row.ids[cut:], row.images[last:])


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
        raise SharedPrefixError(
            f"attention with {', '.join(asked) or ('dropout' if dropout else 'a mask of its own')}"
        )
    part = _part.get()
    part.layers += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    return attend(q, k, v, part.prefixes[module.layer_idx], part.runs, scale)[None], None
