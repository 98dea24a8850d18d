"""The prompt-tuned system against the text that its vectors spell, and its loss by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from setr_lib.systems.features import ImageFeatures, TripletBatch
from setr_lib.systems.models.losses import info_nce
from setr_lib.systems.models.prompt_tuned import PromptTuned
from setr_lib.systems.options import PromptTunedOptions
from tests.systems.encoders import DIMENSION, miniature, random_encoder

TEXTS = ["is red", "with a belt", "has $ signs", "shorter"]


def unit_vectors(count: int, dimension: int = DIMENSION, seed: int = 0) -> torch.Tensor:
    values = torch.randn((count, dimension), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


def batch(ids: list[str], dimension: int = DIMENSION) -> TripletBatch:
    pictures = {
        name: unit_vectors(1, dimension, seed=100 + row)[0] for row, name in enumerate(sorted(set(ids)))
    }
    return TripletBatch(
        references=ImageFeatures(unit_vectors(len(ids), dimension, seed=1)),
        texts=(TEXTS * len(ids))[: len(ids)],
        targets=ImageFeatures(torch.stack([pictures[name] for name in ids])),
        reference_ids=[f"r{row}" for row in range(len(ids))],
        target_ids=ids,
    )


def test_context_vectors_that_are_the_embeddings_of_words_give_the_plain_text() -> None:
    encoder = random_encoder()
    model = PromptTuned(encoder, PromptTunedOptions(context_vectors=4, reference=False))
    tokens = encoder.tokenizer(["a photo of the"])[0, 1:5]
    with torch.no_grad():
        model.context.copy_(encoder.model.token_embedding(tokens))
    plain = encoder.model.encode_text(encoder.tokenizer([f"a photo of the {text}" for text in TEXTS]))
    got = model.encode_queries(ImageFeatures(unit_vectors(4)), TEXTS)
    assert torch.equal(got, torch.nn.functional.normalize(plain, dim=-1))


def test_the_reference_is_added_and_a_zero_row_leaves_the_text_alone() -> None:
    encoder = random_encoder("CustomTextCLIP")
    references = unit_vectors(4)
    references[2] = 0
    alone = PromptTuned(encoder, PromptTunedOptions(reference=False)).encode_queries(
        ImageFeatures(references), TEXTS
    )
    both = PromptTuned(encoder, PromptTunedOptions()).encode_queries(ImageFeatures(references), TEXTS)
    summed = alone + references
    torch.testing.assert_close(both, summed / summed.norm(dim=1, keepdim=True))
    torch.testing.assert_close(both[2], alone[2])


def test_the_start_is_small_and_the_seeds_alone() -> None:
    encoder = random_encoder()
    torch.manual_seed(1)
    first = PromptTuned(encoder, PromptTunedOptions(context_vectors=16, seed=3)).context
    torch.manual_seed(2)
    again = PromptTuned(encoder, PromptTunedOptions(context_vectors=16, seed=3)).context
    other = PromptTuned(encoder, PromptTunedOptions(context_vectors=16, seed=4)).context
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0.015 < first.detach().std().item() < 0.025


def test_the_stored_tensors_give_the_same_vectors_in_another_model() -> None:
    encoder = random_encoder()
    model = PromptTuned(encoder, PromptTunedOptions(seed=1))
    assert list(model.state_dict()) == ["context"] == list(model.trained())
    other = PromptTuned(encoder, PromptTunedOptions(seed=2))
    other.load_state_dict(model.state_dict(), strict=True)
    references = ImageFeatures(unit_vectors(4))
    assert torch.equal(model.encode_queries(references, TEXTS), other.encode_queries(references, TEXTS))


def test_the_loss_falls_on_the_miniatures_clip() -> None:
    encoder = miniature()
    model = PromptTuned(encoder, PromptTunedOptions())
    step = batch([f"t{row}" for row in range(16)], encoder.dimension)
    optimiser = torch.optim.AdamW(model.trained().values(), lr=0.01)
    losses = []
    for _ in range(8):
        loss = model.loss(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(weight.grad is None for weight in encoder.model.parameters())


@pytest.mark.parametrize("ids", [["a", "b", "c", "d"], ["a", "b", "a", "a"]])
def test_info_nce_leaves_equal_targets_out_of_the_negatives(ids: list[str]) -> None:
    step = batch(ids)
    queries = unit_vectors(4, seed=7)
    cosines = (queries @ step.targets.vectors.T).double().numpy() / 0.1
    expected = [
        -np.log(
            np.exp(cosines[i, i])
            / (np.exp(cosines[i, i]) + sum(np.exp(cosines[i, j]) for j in range(4) if ids[j] != ids[i]))
        )
        for i in range(4)
    ]
    got = info_nce(queries, step.targets.vectors, ids, 0.1)
    np.testing.assert_allclose(float(got), np.mean(expected), rtol=1e-5)


def test_info_nce_is_the_metric_learning_librarys_loss_of_the_own_targets() -> None:
    from pytorch_metric_learning.losses import NTXentLoss

    ids = ["a", "b", "a", "c"]
    step, queries = batch(ids), unit_vectors(4, seed=7)
    own = torch.arange(4)
    negatives = torch.tensor([(i, j) for i in range(4) for j in range(4) if ids[i] != ids[j]]).T
    theirs = NTXentLoss(temperature=0.1)(
        queries, indices_tuple=(own, own, *negatives), ref_emb=step.targets.vectors
    )
    torch.testing.assert_close(info_nce(queries, step.targets.vectors, ids, 0.1), theirs)


def test_the_systems_loss_uses_its_queries_its_targets_and_its_temperature() -> None:
    model = PromptTuned(random_encoder(), PromptTunedOptions(temperature=0.2))
    step = batch(["a", "b", "a", "c"])
    queries = model.encode_queries(step.references, step.texts)
    expected = info_nce(queries, step.targets.vectors, step.target_ids, 0.2)
    torch.testing.assert_close(model.loss(step), expected)
