"""Attention over packed rows that share prefixes: nothing is padded but here, no prefix is computed twice.

All tokens of a batch stand in one sequence: the prefixes, then the suffixes. A prefix attends to itself, a
suffix to its prefix and to itself, both causally. A suffix's two parts are computed apart and merged by their
log-sum-exps; the suffixes of one prefix attend to it as one long sequence of queries, so its keys are not
copied. In the backward pass each part gets its gradient from the merged output and log-sum-exp, as the blocks
of FlashAttention-2 do (Dao, arXiv 2307.08691, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class PaddedRows:
    """Neighbouring rows of a packed sequence, and where their tokens are in a padded batch of them.

    Attributes:
        begin, end: The rows' places in the packed sequence.
        shape: Rows, and tokens of the longest.
        real: int64 [tokens], the places in the flattened padded batch that are tokens; None for all.
    """

    begin: int
    end: int
    shape: tuple[int, int]
    real: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], begin: int, device: torch.device) -> PaddedRows:
        """Rows of given lengths.

        Args:
            lengths: Tokens of each row.
            begin: Place of the first.
            device: Where the model is.

        Returns:
            The rows.
        """
        import torch

        tokens, longest = torch.tensor(list(lengths)), max(lengths)
        is_token = torch.arange(longest) < tokens[:, None]
        real = None if min(lengths) == longest else is_token.flatten().nonzero()[:, 0].to(device)
        return cls(begin, begin + sum(lengths), (len(lengths), longest), real)

    def padded(self, packed: Tensor) -> Tensor:
        """The rows as a batch, padded with zeros on the right.

        Args:
            packed: [heads, all tokens, size].

        Returns:
            [rows, heads, longest, size].
        """
        tokens = packed[:, self.begin : self.end]
        if self.real is not None:
            empty = tokens.new_zeros(tokens.shape[0], self.shape[0] * self.shape[1], tokens.shape[2])
            tokens = empty.index_copy(1, self.real, tokens)
        return tokens.unflatten(1, self.shape).transpose(0, 1)

    def unpadded(self, batch: Tensor) -> Tensor:
        """The tokens of a batch.

        Args:
            batch: [rows, heads, longest, size].

        Returns:
            [heads, tokens of these rows, size].
        """
        flat = batch.transpose(0, 1).flatten(1, 2)
        return flat if self.real is None else flat.index_select(1, self.real)


@dataclass(frozen=True, eq=False)
class Bucket:
    """Prefixes with the same number of suffixes.

    Attributes:
        prefixes: int64 [b], which prefixes.
        suffixes: int64 [b * count], which suffixes continue them, one prefix after the other.
        count: Suffixes of each prefix.
        width: Tokens of the longest of these prefixes.
        behind: bool [b, width], True behind a prefix's end; None where all are of one length.
    """

    prefixes: Tensor
    suffixes: Tensor
    count: int
    width: int
    behind: Tensor | None

    def keys(self, batch: Tensor) -> Tensor:
        """Keys or values of these prefixes: [b, heads, width, size] of [prefixes, heads, longest, size]."""
        return batch[self.prefixes, :, : self.width]

    def folded(self, batch: Tensor, key_heads: int) -> Tensor:
        """What is had of each suffix's token, as one long sequence of each prefix.

        Args:
            batch: [suffixes, heads, longest, ...].
            key_heads: How many heads the keys have; the heads that share one are folded into the sequence.

        Returns:
            [b, key heads, heads / key heads * count * longest, ...].
        """
        rows = batch[self.suffixes].unflatten(0, (-1, self.count)).unflatten(2, (key_heads, -1))
        return rows.movedim(1, 3).flatten(2, 4)

    def unfolded(self, folded: Tensor, longest: int) -> Tensor:
        """The reverse of :meth:`folded`: [b * count, heads, longest, ...]."""
        rows = folded.unflatten(2, (-1, self.count, longest)).movedim(3, 1)
        return rows.flatten(2, 3).flatten(0, 1)

    def bias(self, queries: Tensor) -> Tensor | None:
        """What is added to the products of ``queries`` and keys: minus infinity behind a prefix's end."""
        if self.behind is None:
            return None
        zeros = queries.new_zeros(self.behind.shape)
        bias = zeros.masked_fill(self.behind, float("-inf"))[:, None, None]
        return bias.expand(-1, 1, queries.shape[2], -1)


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """The rows of a packed batch: all prefixes, then all suffixes in the order of their prefixes.

    Attributes:
        prefixes, suffixes: Where their tokens are.
        owners: int64 [suffixes], the prefix of each.
        lengths: int64 [prefixes], the tokens of each.
        buckets: The prefixes that have suffixes, each once.
        last: int64 [suffixes], the place of each suffix's last token.
    """

    prefixes: PaddedRows
    suffixes: PaddedRows
    owners: Tensor
    lengths: Tensor
    buckets: tuple[Bucket, ...]
    last: Tensor

    @classmethod
    def of(
        cls, prefixes: Sequence[int], suffixes: Sequence[Sequence[int]], device: torch.device
    ) -> PackedLayout:
        """The layout of rows of given lengths.

        Args:
            prefixes: Tokens of each prefix, at least one.
            suffixes: For each prefix, tokens of each of its suffixes.
            device: Where the model is.

        Returns:
            The layout.
        """
        import torch

        flat = [length for of_prefix in suffixes for length in of_prefix]
        owners = [index for index, of_prefix in enumerate(suffixes) for _ in of_prefix]
        begin = sum(prefixes)
        return cls(
            PaddedRows.of(prefixes, 0, device),
            PaddedRows.of(flat, begin, device),
            torch.tensor(owners, device=device),
            torch.tensor(list(prefixes), device=device),
            tuple(_buckets(prefixes, [len(of_prefix) for of_prefix in suffixes], device)),
            (begin + torch.tensor(flat).cumsum(0) - 1).to(device),
        )


def _buckets(lengths: Sequence[int], counts: Sequence[int], device: torch.device) -> list[Bucket]:
    import torch

    begins = torch.tensor(list(counts)).cumsum(0) - torch.tensor(list(counts))
    found: list[Bucket] = []
    for count in sorted(set(counts) - {0}):
        members = torch.tensor([index for index, each in enumerate(counts) if each == count])
        tokens = torch.tensor(list(lengths))[members]
        width = int(tokens.max())
        behind = torch.arange(width) >= tokens[:, None]
        suffixes = (begins[members][:, None] + torch.arange(count)).flatten()
        found.append(
            Bucket(
                members.to(device),
                suffixes.to(device),
                count,
                width,
                behind.to(device) if bool(behind.any()) else None,
            )
        )
    return found


def attend(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float) -> Tensor:
    """Attention of a packed batch, with gradients where they are enabled.

    Args:
        query: [heads, tokens, size].
        key: [key heads, tokens, size]; each serves ``heads / key heads`` neighbouring heads.
        value: As ``key``.
        layout: Of the batch.
        scale: What the products of queries and keys are multiplied by.

    Returns:
        [heads, tokens, size].
    """
    if query.device.type != "cpu":
        return attend_plainly(query, key, value, layout, scale)
    return _merged_attention().apply(query, key, value, layout, scale)


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float) -> Tensor:
    """The same by torch's own attention, on any device: a prefix's keys are copied for each of its suffixes.

    Args:
        query, key, value, layout, scale: As of :func:`attend`.

    Returns:
        [heads, tokens, size].
    """
    import torch

    attention, device = torch.nn.functional.scaled_dot_product_attention, query.device
    shared = query.shape[0] // key.shape[0]
    each = (query, key.repeat_interleave(shared, 0), value.repeat_interleave(shared, 0))
    q, k, v = (layout.prefixes.padded(tensor) for tensor in each)
    own_q, own_k, own_v = (layout.suffixes.padded(tensor) for tensor in each)
    of_prefixes = attention(q, k, v, is_causal=True, scale=scale)
    width, length = k.shape[2], own_k.shape[2]
    is_token = torch.arange(width, device=device) < layout.lengths[layout.owners][:, None]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    rows = len(layout.owners)
    mask = torch.cat([is_token[:, None].expand(-1, length, -1), causal.expand(rows, -1, -1)], 2)
    of_suffixes = attention(
        own_q,
        torch.cat([k.index_select(0, layout.owners), own_k], 2),
        torch.cat([v.index_select(0, layout.owners), own_v], 2),
        attn_mask=mask[:, None],
        scale=scale,
    )
    return torch.cat([layout.prefixes.unpadded(of_prefixes), layout.suffixes.unpadded(of_suffixes)], 1)


@cache
def _merged_attention() -> Any:
    """:func:`attend` as an autograd function on the CPU's flash kernel, which gives log-sum-exps."""
    import torch

    class MergedAttention(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float
        ) -> Tensor:
            ctx.layout, ctx.scale = layout, scale
            prefixes = [layout.prefixes.padded(tensor) for tensor in (query, key, value)]
            suffixes = [layout.suffixes.padded(tensor) for tensor in (query, key, value)]
            first = _causal(*prefixes, scale=scale)
            out, lse = _causal(*suffixes, scale=scale)
            for bucket in layout.buckets:
                _merge(bucket, suffixes[0], prefixes[1], prefixes[2], out, lse, scale)
            ctx.save_for_backward(*prefixes, *suffixes, *first, out, lse)
            return torch.cat([layout.prefixes.unpadded(first[0]), layout.suffixes.unpadded(out)], 1)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
            layout, saved = ctx.layout, ctx.saved_tensors
            prefixes, suffixes, (first, first_lse, out, lse) = saved[:3], saved[3:6], saved[6:]
            into_first, into = (rows.padded(gradients[0]) for rows in (layout.prefixes, layout.suffixes))
            of_prefixes = _causal_backward(into_first, *prefixes, out=first, lse=first_lse, scale=ctx.scale)
            of_suffixes = _causal_backward(into, *suffixes, out=out, lse=lse, scale=ctx.scale)
            for bucket in layout.buckets:
                heads, longest = prefixes[1].shape[1], into.shape[2]
                grad, query, output, sums = (
                    bucket.folded(each, heads) for each in (into, suffixes[0], out, lse)
                )
                keys, values = bucket.keys(prefixes[1]), bucket.keys(prefixes[2])
                of_query, of_keys, of_values = (
                    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                        grad, query, keys, values, output, sums, 0.0, False,
                        attn_mask=bucket.bias(query), scale=ctx.scale,
                    )
                )  # fmt: skip
                of_suffixes[0][bucket.suffixes] += bucket.unfolded(of_query, longest)
                of_prefixes[1][bucket.prefixes, :, : bucket.width] += of_keys
                of_prefixes[2][bucket.prefixes, :, : bucket.width] += of_values
            whole = [
                torch.cat([layout.prefixes.unpadded(start), layout.suffixes.unpadded(end)], 1)
                for start, end in zip(of_prefixes, of_suffixes, strict=True)
            ]
            return (*whole, None, None)

    return MergedAttention


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [rows, heads, tokens, size] and log-sum-exps [rows, heads, tokens] of rows that stand alone."""
    import torch

    shared = query.shape[1] // key.shape[1]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, _repeated(key, shared), _repeated(value, shared), 0.0, True, scale=scale
    )


def _merge(
    bucket: Bucket, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> None:
    """Add, in place, what the suffixes of a bucket find in their prefixes."""
    import torch

    folded = bucket.folded(query, key.shape[1])
    made, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        folded, bucket.keys(key), bucket.keys(value), 0.0, False, attn_mask=bucket.bias(folded), scale=scale
    )
    made, sums = bucket.unfolded(made, query.shape[2]), bucket.unfolded(sums, query.shape[2])
    own = lse[bucket.suffixes]
    whole = torch.logaddexp(own, sums)
    shares = ((each - whole).exp()[..., None].to(out.dtype) for each in (own, sums))
    own_share, share = shares
    out[bucket.suffixes] = out[bucket.suffixes] * own_share + made * share
    lse[bucket.suffixes] = whole


def _causal_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    heads, shared = key.shape[1], query.shape[1] // key.shape[1]
    of_query, of_key, of_value = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, _repeated(key, shared), _repeated(value, shared), out, lse, 0.0, True, scale=scale
    )
    if shared > 1:
        of_key, of_value = (each.unflatten(1, (heads, shared)).sum(2) for each in (of_key, of_value))
    return of_query, of_key, of_value


def _repeated(tensor: Tensor, shared: int) -> Tensor:
    return tensor if shared == 1 else tensor.repeat_interleave(shared, 1)
