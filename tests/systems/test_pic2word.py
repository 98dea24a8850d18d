"""Pic2Word: its pseudo-word against real words, and its network and loss by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.features import ImageFeatures
from setr_lib.systems.models.pic2word import Pic2Word
from setr_lib.systems.models.text_tower import Prompt, TextTower
from setr_lib.systems.options import Pic2WordOptions
from tests.systems.batches import captioned, losses_of, names, nce_by_hand, pictures, unit
from tests.systems.encoders import miniature, random_encoder

SMALL = Pic2WordOptions(hidden=8)


@pytest.fixture(scope="module", params=["CLIP", "CustomTextCLIP"])
def encoder(request: pytest.FixtureRequest) -> OpenClipSpace:
    return random_encoder(request.param)


def test_a_pseudo_word_that_is_a_real_word_gives_the_plain_sentences(encoder: OpenClipSpace) -> None:
    model = Pic2Word(encoder, SMALL).eval()
    red = TextTower(encoder).token_embedding(encoder.tokenizer(["red"])[0, 1])
    last: torch.nn.Linear = model.word[-1]  # pyright: ignore[reportAssignmentType]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(red)
        got = model.encode_queries(pictures(encoder, ["a", "b", "c"]), ["with $ dots", "", " "])
        sentences = ["a photo of red , with $ dots", "a photo of red", "a photo of red"]
        plain = unit(encoder.model.encode_text(encoder.tokenizer(sentences)))
    assert torch.equal(got, plain)


def test_the_text_alone_counts_where_the_reference_cannot_be_read(encoder: OpenClipSpace) -> None:
    model = Pic2Word(encoder, SMALL).eval()
    features = pictures(encoder, ["a", "b", "c"])
    whole = model.encode_queries(features, ["red", "blue", "dotted"])
    features.vectors[1] = 0
    got = model.encode_queries(features, ["red", "blue", "dotted"])
    torch.testing.assert_close(got[1:2], TextTower(encoder).encode(["blue"]))
    torch.testing.assert_close(got[::2], whole[::2])


def test_the_word_and_the_loss_are_those_of_an_independent_computation(encoder: OpenClipSpace) -> None:
    model = Pic2Word(encoder, Pic2WordOptions(hidden=8, temperature=0.1)).eval()
    batch = captioned(encoder, ["a", "b", "a", "c"], [""] * 4)
    kept = {name: value.numpy() for name, value in model.state_dict().items()}
    layers = [(kept[f"word.{layer}.weight"], kept[f"word.{layer}.bias"]) for layer in (0, 3, 6)]
    hidden = batch.images.vectors.numpy() * np.sqrt(encoder.dimension)
    for number, (weight, bias) in enumerate(layers):
        hidden = hidden @ weight.T + bias
        hidden = hidden if number == 2 else np.maximum(hidden, 0)
    words = torch.from_numpy(hidden.astype(np.float32))[:, None]
    sentences = TextTower(encoder).encode_with([Prompt("a photo of")] * 4, words)
    negatives = [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    forth = nce_by_hand(sentences, batch.images.vectors, range(4), negatives, 0.1)
    back = nce_by_hand(batch.images.vectors, sentences.detach(), range(4), negatives, 0.1)
    np.testing.assert_allclose(model.loss(batch).item(), (forth + back) / 2, rtol=1e-4)


def test_dropout_is_for_training_alone(encoder: OpenClipSpace) -> None:
    model, batch = Pic2Word(encoder, Pic2WordOptions(hidden=8, dropout=0.5)), captioned(encoder, "abc", "...")
    model.eval()
    assert model.loss(batch).item() == model.loss(batch).item()
    model.train()
    assert model.loss(batch).item() != model.loss(batch).item()


def test_the_stored_tensors_give_the_same_vectors_in_another_model(encoder: OpenClipSpace) -> None:
    torch.manual_seed(5)
    model = Pic2Word(encoder, SMALL).eval()
    assert set(model.trained()) == set(model.state_dict())
    again, other = (
        Pic2Word(encoder, SMALL).eval(),
        Pic2Word(encoder, Pic2WordOptions(hidden=8, seed=1)).eval(),
    )
    features = ImageFeatures(pictures(encoder, ["a", "b"]).vectors)
    vectors = model.encode_queries(features, ["red", ""])
    assert torch.equal(again.encode_queries(features, ["red", ""]), vectors)
    assert not torch.equal(other.encode_queries(features, ["red", ""]), vectors)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.encode_queries(features, ["red", ""]), vectors)


def test_the_loss_falls_on_the_miniatures_clip() -> None:
    encoder = miniature()
    model = Pic2Word(encoder, Pic2WordOptions(hidden=64, temperature=0.05))
    losses = losses_of(model, captioned(encoder, names("i", 16), [""] * 16), steps=10, rate=0.003)
    assert losses[-1] < losses[0] - 0.1
    assert all(weight.grad is None for weight in encoder.model.parameters())
