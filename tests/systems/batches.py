"""Random features and batches of the tests of trained systems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.features import Batch, ImageBatch, ImageFeatures, TripletBatch
from setr_lib.systems.models.system_model import SystemModel

TEXTS = ["is red", "with a belt", "has $ signs", "shorter", "", "the same in blue, not red"]


def draw(shape: Sequence[int], seed: int) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def unit(vectors: Tensor) -> Tensor:
    """Rows of norm 1."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def patch_shape(encoder: OpenClipSpace) -> tuple[int, int]:
    """Number and width of an image's patch tokens."""
    height, width = encoder.model.visual.image_size
    return encoder.embed_patches([torch.zeros((3, height, width))]).shape[1:]


def pictures(encoder: OpenClipSpace, ids: Sequence[str]) -> ImageFeatures:
    """Features of images that are a function of their ids."""
    shape = patch_shape(encoder)
    seeds = [int.from_bytes(name.encode()[-6:], "big") for name in ids]
    return ImageFeatures(
        vectors=unit(torch.stack([draw((encoder.dimension,), seed) for seed in seeds])),
        patches=torch.stack([draw(shape, seed + 1) for seed in seeds]),
    )


def triplets(encoder: OpenClipSpace, references: Sequence[str], targets: Sequence[str]) -> TripletBatch:
    """Triplets of such images, with texts in turn."""
    return TripletBatch(
        references=pictures(encoder, references),
        texts=[TEXTS[row % len(TEXTS)] for row in range(len(targets))],
        targets=pictures(encoder, targets),
        reference_ids=list(references),
        target_ids=list(targets),
    )


def captioned(encoder: OpenClipSpace, ids: Sequence[str], captions: Sequence[str]) -> ImageBatch:
    """Captioned images."""
    return ImageBatch(images=pictures(encoder, ids), image_ids=list(ids), captions=list(captions))


def names(prefix: str, count: int) -> list[str]:
    """Ids: ``prefix0``, ``prefix1``, ..."""
    return [f"{prefix}{number}" for number in range(count)]


def losses_of(model: SystemModel[Any], batch: Batch, steps: int, rate: float) -> list[float]:
    """The losses of some steps of AdamW on one batch."""
    optimiser = torch.optim.AdamW(model.trained().values(), lr=rate)
    model.train()
    losses = []
    for _ in range(steps):
        loss = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.eval()
    return losses


def nce_by_hand(queries: Any, candidates: Any, own: Any, allowed: Any, temperature: float) -> float:
    """InfoNCE in numpy: ``own[i]`` is the column of query i, ``allowed[i]`` the columns of its negatives."""
    import numpy as np

    cosines = queries.double().detach().numpy() @ candidates.double().numpy().T / temperature
    rows = [
        np.log(np.exp(row[own[i]]) + np.exp(row[list(allowed[i])]).sum()) - row[own[i]]
        for i, row in enumerate(cosines)
    ]
    return float(np.mean(rows))
