"""Forward passes of the language model over token rows: padding, positions, cached prefixes, Yes/No scores.

Gradients flow through everything here where they are enabled; vision outputs come in without one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.token_rows import TokenRow

if TYPE_CHECKING:
    from torch import Tensor

    from setr_lib.models.multimodal.answer_rows import AnswerRows

_POSITION_STRUCTURES = 20_000


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Attention keys and values of several rows, which later rows continue.

    Attributes:
        rows: The rows themselves.
        layers: For each language layer keys and values, both [rows, heads, length, head size] in the model's
            dtype.
        mask: int64 [rows, length], 1 for tokens and 0 for padding.
    """

    rows: tuple[TokenRow, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor


class LanguageModelPass:
    """The language model without its vision tower, run on padded batches of token rows.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.positions = PositionIds(loaded)
        self._loaded = loaded

    def run(
        self, rows: Sequence[TokenRow], prefixes: PrefixCache | None = None, owners: Sequence[int] = ()
    ) -> tuple[Tensor, PrefixCache]:
        """One forward pass; padded on the right, with explicit positions, so padding changes nothing.

        Args:
            rows: The rows of the batch: whole ones, or continuations of ``prefixes``.
            prefixes: The cache that the rows continue; ``None`` for whole rows.
            owners: With ``prefixes``, for each row the index of the prefix that it continues.

        Returns:
            The hidden state of each row's last token ([rows, hidden], the model's dtype), and the cache of
            the whole rows, prefixes included.
        """
        import torch
        from transformers import DynamicCache

        device = self._loaded.device
        ids, mask = self._padded(rows)
        mask = mask.to(device)
        whole, cached_tokens, cache = list(rows), [0] * len(rows), DynamicCache()
        if prefixes is not None:
            before = [prefixes.rows[owner] for owner in owners]
            whole = [start + row for start, row in zip(before, rows, strict=True)]
            cached_tokens = [len(start.ids) for start in before]
            index = torch.tensor(list(owners), device=device)
            mask = torch.cat([prefixes.mask[index], mask], dim=1)
            cache = DynamicCache(
                [(k.index_select(0, index), v.index_select(0, index)) for k, v in prefixes.layers]
            )
        output = backbone(self._loaded.model)(
            input_ids=ids.to(device),
            attention_mask=mask,
            position_ids=self.positions.of_batch(whole, cached_tokens, ids.shape[1]).to(device),
            past_key_values=cache,
            mm_encoder_outputs=vision_outputs(rows),
            use_cache=True,
        )
        last = torch.tensor([len(row.ids) - 1 for row in rows], device=device)
        hidden = output.last_hidden_state[torch.arange(len(rows), device=device), last]
        kept: Any = cache.layers
        return hidden, PrefixCache(tuple(whole), tuple((layer.keys, layer.values) for layer in kept), mask)

    def run_next(self, tokens: Sequence[int], positions: Sequence[int], rows: AnswerRows) -> Tensor:
        """One more token in each row of a key/value cache.

        Args:
            tokens: The token of each row; an image placeholder is a token like any other here.
            positions: Its position; a text token has the same one in all dimensions of rotary positions.
            rows: The cache; each of its rows has one more token afterwards.

        Returns:
            The hidden state of each token ([rows, hidden], the model's dtype).
        """
        import torch

        model, device = backbone(self._loaded.model), self._loaded.device
        place = torch.tensor(positions, device=device)[:, None]
        mask, cache = rows.next_token()
        if self._loaded.model.config.get_text_config()._attn_implementation == "eager":  # adds its mask
            dtype = self._loaded.model.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(
                ~mask, torch.finfo(dtype).min
            )
        output = model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=mask,
            position_ids=place.expand(3, *place.shape) if hasattr(model, "get_rope_index") else place,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def answer_differences(self, hidden: Tensor) -> Tensor:
        """The judge's score: logit(Yes) - logit(No) of the next token.

        Only two rows of the output head are used, in float32: P(Yes) itself saturates in half precision.

        Args:
            hidden: [rows, hidden], last hidden states.

        Returns:
            float32 [rows].
        """
        special = self._loaded.special_tokens
        head = self._loaded.model.get_output_embeddings()
        weight = (head.weight[special.yes_id].float() - head.weight[special.no_id].float()).to(hidden.device)
        difference = hidden.float() @ weight
        if getattr(head, "bias", None) is not None:
            difference = difference + (head.bias[special.yes_id] - head.bias[special.no_id]).float()
        return difference

    def _padded(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both int64 [rows, longest] on the CPU."""
        import torch

        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self._loaded.special_tokens.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        return ids, mask


class PositionIds:
    """Position ids of token rows: counted from 0, or the model's own rotary positions in three dimensions.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._cached = lru_cache(maxsize=_POSITION_STRUCTURES)(self._of_structure)

    def of_batch(self, rows: Sequence[TokenRow], skip: Sequence[int], length: int) -> Tensor:
        """Positions of the ends of several rows.

        Args:
            rows: Whole rows.
            skip: For each row, how many tokens at its beginning to leave out: those already in a cache.
            length: Length of the longest end; shorter ones are padded with zeros.

        Returns:
            int64 [rows, length], or [3, rows, length] where images have positions of their own.
        """
        import torch

        columns = []
        for row, cached in zip(rows, skip, strict=True):
            whole = self.of_row(row)[..., cached:]
            columns.append(torch.nn.functional.pad(whole, (0, length - whole.shape[-1])))
        return torch.stack(columns, dim=-2)

    def of_ends(self, rows: Sequence[TokenRow], starts: Sequence[TokenRow], owners: Sequence[int]) -> Tensor:
        """Positions of the ends of rows, one behind the other.

        Args:
            rows: The ends.
            starts: What is before them.
            owners: For each end the index of its start.

        Returns:
            int64 [tokens of all ends], or [3, tokens] where images have positions of their own.
        """
        import torch

        known: dict[Any, Tensor] = {}  # the ends of one start often differ in nothing but their images
        for row, owner in zip(rows, owners, strict=True):
            key = (owner, row.ids, *(image.grid for image in row.images))
            if key not in known:
                known[key] = self.of_row(starts[owner] + row)[..., len(starts[owner].ids) :]
        keys = (
            (owner, row.ids, *(image.grid for image in row.images))
            for row, owner in zip(rows, owners, strict=True)
        )
        return torch.cat([known[key] for key in keys], -1)

    def of_row(self, row: TokenRow) -> Tensor:
        """Positions of one whole row.

        Args:
            row: The row.

        Returns:
            int64 [length], or [3, length] where images have positions of their own.
        """
        import torch

        if not hasattr(backbone(self._loaded.model), "get_rope_index"):
            return torch.arange(len(row.ids))
        # Positions depend on where images are and on their grids, not on words: few structures, many rows.
        image_token_id = self._loaded.special_tokens.image_token_id
        runs = tuple(
            (is_image, sum(1 for _ in run))
            for is_image, run in groupby(token == image_token_id for token in row.ids)
        )
        return self._cached(runs, tuple(image.grid for image in row.images))

    def _of_structure(
        self, runs: tuple[tuple[bool, int], ...], grids: tuple[tuple[int, int, int] | None, ...]
    ) -> Tensor:
        """int64 [3, length]: the model's own multimodal rotary positions; an image's span its grid."""
        import torch

        special = self._loaded.special_tokens
        kinds = torch.tensor([int(is_image) for is_image, length in runs for _ in range(length)])
        ids = torch.where(kinds == 1, special.image_token_id, special.pad_id)[None]
        model = backbone(self._loaded.model)
        offers = {
            "input_ids": ids,
            "mm_token_type_ids": kinds[None],
            "image_grid_thw": torch.tensor(grids) if grids else None,
            "attention_mask": torch.ones_like(ids),
        }
        accepted = inspect.signature(model.get_rope_index).parameters
        positions, _ = model.get_rope_index(
            **{key: value for key, value in offers.items() if key in accepted}
        )
        return positions[:, 0]


def backbone(model: Any) -> Any:
    """The model without its output head: the head runs on one position, not on all.

    Args:
        model: The transformers model, with or without LoRA layers.

    Returns:
        The module that gives hidden states.
    """
    return model.base_model if not hasattr(model, "get_base_model") else model.get_base_model().base_model


def vision_outputs(rows: Sequence[TokenRow]) -> dict[str, Any] | None:
    """The vision outputs of all images of a batch, in the form in which the model takes them.

    Args:
        rows: The rows of the batch.

    Returns:
        What to pass as ``mm_encoder_outputs``; None without images.
    """
    import torch

    images = [image for row in rows for image in row.images]
    if not images:
        return None
    embeds: Any = [image.embeds for image in images]
    fields: dict[str, Any] = {"pooler_output": torch.cat(embeds)[None] if images[0].stacked else embeds}
    if images[0].deepstack:
        fields["deepstack_features"] = [
            [image.deepstack[level] for image in images] for level in range(len(images[0].deepstack))
        ]
    return {"image": images[0].container(**fields)}
