"""Attention of rows that continue shared prefixes, over keys and values that are never copied.

All rows stand behind one another in one sequence, without padding. The rows of one prefix attend to it as one
long sequence of queries (the heads that share keys folded into a batch of views), each row attends to itself
causally, and the two parts are merged by their log-sum-exps; after Hydragen (arXiv 2402.05099), a
reconstruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


_PADDED = 1.25
"""Neighbouring rows attend to themselves in one batch where padding them to the longest adds a quarter at
most."""


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Neighbouring rows of a packed sequence that attend to themselves in one call.

    Attributes:
        begin, end: Places of their tokens.
        longest: Tokens of the longest.
        padded: int64 [rows * longest], the token (counted from ``begin``) at each place of the padded batch;
            behind a row's end any. None where all are of one length.
        real: int64 [tokens], where each token is in the padded batch.
    """

    begin: int
    end: int
    longest: int
    padded: Tensor | None = None
    real: Tensor | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], begin: int, device: torch.device | None) -> RowBatch:
        """Rows of given lengths.

        Args:
            lengths: Tokens of each row.
            begin: The place of the first token.
            device: Where the model is.

        Returns:
            The batch.
        """
        import torch

        longest, end = max(lengths), begin + sum(lengths)
        if min(lengths) == longest:
            return cls(begin, end, longest)
        each = torch.tensor(list(lengths))[:, None]
        columns = torch.arange(longest)
        first = each.cumsum(0) - each
        padded = first + columns.minimum(each - 1)
        return cls(
            begin,
            end,
            longest,
            padded.flatten().to(device),
            (columns < each).flatten().nonzero()[:, 0].to(device),
        )

    def batch(self, packed: Tensor) -> Tensor:
        """The rows of [all tokens, heads, size] as [rows, heads, longest, size]."""
        tokens = packed[self.begin : self.end]
        if self.padded is not None:
            tokens = tokens.index_select(0, self.padded)
        return tokens.unflatten(0, (-1, self.longest)).transpose(1, 2)

    def packed(self, batch: Tensor) -> Tensor:
        """The tokens of [rows, heads, longest, ...], one behind the other: [tokens, heads, ...]."""
        flat = batch.transpose(1, 2).flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)


@dataclass(frozen=True, eq=False)
class RowRuns:
    """Where the rows of a packed sequence are: neighbours of similar lengths, and of one prefix.

    Attributes:
        batches: The rows, in batches that attend to themselves.
        owners: (first token, end, index of the prefix) of neighbouring rows of one prefix.
        last: The place of each row's last token.
    """

    batches: tuple[RowBatch, ...]
    owners: tuple[tuple[int, int, int], ...]
    last: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], owners: Sequence[int], device: torch.device | None = None) -> RowRuns:
        """The runs of rows in order.

        Args:
            lengths: Tokens of each row.
            owners: The index of each row's prefix.
            device: Where the model is.

        Returns:
            The runs; the fewer, the better the rows are sorted by prefix and length.
        """
        ends = [0, *accumulate(lengths)]
        batches, begin = [], 0
        for row in range(1, len(lengths) + 1):
            members = lengths[begin : row + 1]
            if row == len(lengths) or max(members) * len(members) > _PADDED * sum(members):
                batches.append(RowBatch.of(lengths[begin:row], ends[begin], device))
                begin = row
        runs = []
        for owner, members in groupby(range(len(owners)), lambda row: owners[row]):
            rows = list(members)
            runs.append((ends[rows[0]], ends[rows[-1] + 1], owner))
        return cls(tuple(batches), tuple(runs), tuple(end - 1 for end in ends[1:]))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefixes: Sequence[tuple[Tensor, Tensor]],
    runs: RowRuns,
    scale: float,
) -> Tensor:
    """Attention of packed rows to their prefixes and, causally, to themselves.

    It has no gradient: the log-sum-exps of torch's kernels are not differentiable. Training has a pass of its
    own.

    Args:
        query: [tokens, heads, size].
        key: [tokens, key heads, size]; each serves ``heads / key heads`` neighbouring heads.
        value: As ``key``.
        prefixes: Keys and values of each prefix, [key heads, length, size].
        runs: Where the rows are.
        scale: What the products of queries and keys are multiplied by.

    Returns:
        [tokens, heads, size], in the queries' dtype.
    """
    import torch

    made = query.new_empty(query.shape)
    found = []
    for rows in runs.batches:
        q, k, v = (rows.batch(part) for part in (query, key, value))
        out, lse = attention_and_lse(q, k, v, scale, causal=True)
        found.append((rows.packed(out), rows.packed(lse)))
    own, own_lse = found[0] if len(found) == 1 else (torch.cat(parts) for parts in zip(*found, strict=True))
    for begin, end, owner in runs.owners:
        of_prefix, lse = _to_prefix(query[begin:end], *prefixes[owner], scale)
        # exp(a) / (exp(a) + exp(b)) is the share of the prefix in the whole softmax.
        share = (lse - own_lse[begin:end]).sigmoid_()[..., None].to(query.dtype)
        made[begin:end] = own[begin:end].lerp(of_prefix, share)
    return made


def _to_prefix(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [tokens, heads, size] and log-sum-exps [tokens, heads] of queries that see a whole prefix."""
    tokens, heads, size = query.shape
    shared = heads // key.shape[0]
    folded = query.unflatten(1, (key.shape[0], shared)).permute(2, 1, 0, 3)  # a view: no key is repeated
    keys, values = (part.expand(shared, *part.shape) for part in (key, value))
    out, lse = attention_and_lse(folded, keys, values, scale, causal=False)
    return out.permute(2, 1, 0, 3).reshape(tokens, heads, size), lse.permute(2, 1, 0).reshape(tokens, heads)


def attention_and_lse(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Softmax attention together with the logarithm of each softmax's denominator.

    By torch's flash kernels where the device has one for the dtype (the CPU; CUDA in half precision), else by
    its memory-efficient kernel (CUDA in float32), else by matrix products. The kernels of CUDA have not been
    run by the tests; a model's first request compares the scores, and falls back where they are wrong.

    Args:
        query: [batch, heads, tokens, size].
        key: [batch, key heads, keys, size].
        value: As ``key``.
        scale: What the products of queries and keys are multiplied by.
        causal: Whether query i sees the keys up to i only; there are as many keys as queries then.

    Returns:
        Output [batch, heads, tokens, size] and log-sum-exps float32 [batch, heads, tokens].
    """
    import torch

    kernels = torch.ops.aten
    if query.device.type == "cpu":
        return kernels._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
    if query.device.type != "cuda":
        return by_products(query, key, value, scale, causal=causal)
    key, value = _repeated(query, key), _repeated(query, value)
    if query.dtype != torch.float32:
        made = kernels._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
        return made[0], made[1][..., : query.shape[2]]
    made = kernels._scaled_dot_product_efficient_attention(
        query, key, value, None, True, 0.0, causal, scale=scale
    )
    return made[0], made[1][..., : query.shape[2]]


def by_products(
    query: Tensor, key: Tensor, value: Tensor, scale: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """:func:`attention_and_lse` by matrix products, for devices without such a kernel.

    Args:
        query: As of :func:`attention_and_lse`.
        key: As of :func:`attention_and_lse`.
        value: As of :func:`attention_and_lse`.
        scale: As of :func:`attention_and_lse`.
        causal: As of :func:`attention_and_lse`.

    Returns:
        As of :func:`attention_and_lse`.
    """
    import torch

    key, value = _repeated(query, key), _repeated(query, value)
    products = (query @ key.transpose(-1, -2)).float() * scale
    if causal:
        later = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        products = products.masked_fill(later, float("-inf"))
    return products.softmax(-1).to(value.dtype) @ value, products.logsumexp(-1)


def _repeated(query: Tensor, part: Tensor) -> Tensor:
    repeats = query.shape[1] // part.shape[1]
    return part if repeats == 1 else part.repeat_interleave(repeats, 1)
