"""Vectors injected into an open_clip text tower, against what the model computes of real tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.models.system_model import SystemModelError
from setr_lib.systems.models.text_tower import Prompt, TextTower
from tests.systems.encoders import CONTEXT, DIMENSION, SIGLIP, WIDTH, encoder_of, miniature, random_encoder

ENCODERS = {
    "miniature": miniature,
    "CLIP": random_encoder,
    "CustomTextCLIP": lambda: random_encoder("CustomTextCLIP"),
    "of SigLIP": lambda: random_encoder("CustomTextCLIP", clean="canonicalize", **SIGLIP),
    "of CoCa": lambda: random_encoder("CustomTextCLIP", embed_cls=True),
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> OpenClipSpace:
    return ENCODERS[request.param]()


def plain(encoder: OpenClipSpace, texts: list[str]) -> Tensor:
    features = encoder.model.encode_text(encoder.tokenizer(texts))
    return torch.nn.functional.normalize(features, dim=-1)


def three_tokens(encoder: OpenClipSpace) -> tuple[str, Tensor]:
    """Words of one token each, which stand one behind another in a text, and their embeddings [3, width]."""
    words = "*+!" if encoder.id.startswith("local-dir") else "red blue dress"
    ids = encoder.tokenizer([words])[0, 1:4]
    return words, TextTower(encoder).token_embedding(ids)


@pytest.mark.parametrize("after", ["", "with a belt", ", with dots"])
@pytest.mark.parametrize("before", ["", "a photo of"])
def test_the_embeddings_of_real_tokens_give_the_plain_text_exactly(
    encoder: OpenClipSpace, before: str, after: str
) -> None:
    words, vectors = three_tokens(encoder)
    text = " ".join(part for part in (before, words, after) if part)
    got = TextTower(encoder).encode_with([Prompt(before, after)], vectors[None])
    assert torch.equal(got, plain(encoder, [text]))
    assert not torch.equal(
        TextTower(encoder).encode_with([Prompt(before, after)], vectors.flip(0)[None]), got
    )


def test_texts_without_vectors_are_encoded_as_the_model_does(encoder: OpenClipSpace) -> None:
    texts = ["a red dress", "$ 5 cheaper"]
    assert torch.equal(TextTower(encoder).encode(texts), plain(encoder, texts))


def test_each_text_of_a_batch_gets_its_own_vectors_at_its_own_place(encoder: OpenClipSpace) -> None:
    tower = TextTower(encoder)
    prompts = [Prompt("a photo of", "in red"), Prompt("", "a dress with dots"), Prompt("a picture of my")]
    vectors = torch.randn((3, 2, tower.width), generator=torch.Generator().manual_seed(1))
    together = tower.encode_with(prompts, vectors)
    for row, prompt in enumerate(prompts):
        alone = tower.encode_with([prompt], vectors[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("text", ["under $ 50", "$ $ $", "* not $ *", "x y red blue"])
def test_a_dollar_in_the_text_is_text(encoder: OpenClipSpace, text: str) -> None:
    words, vectors = three_tokens(encoder)
    got = TextTower(encoder).encode_with([Prompt("a photo of", text)], vectors[None])
    assert torch.equal(got, plain(encoder, [f"a photo of {words} {text}"]))


def test_a_text_that_is_too_long_loses_its_end(encoder: OpenClipSpace) -> None:
    words, vectors = three_tokens(encoder)
    long = " ".join(["with dots and a belt"] * 30)
    got = TextTower(encoder).encode_with([Prompt("", long)], vectors[None])
    assert torch.equal(got, plain(encoder, [f"{words} {long}"]))
    assert torch.equal(
        got, TextTower(encoder).encode_with([Prompt("", f"{long} that is red")], vectors[None])
    )


def test_gradients_reach_the_vectors_and_nothing_of_the_model(encoder: OpenClipSpace) -> None:
    tower = TextTower(encoder)
    vectors = torch.randn((2, 2, tower.width), generator=torch.Generator().manual_seed(1)).requires_grad_()
    tower.encode_with([Prompt("", "red"), Prompt("", "blue")], vectors)[0, 0].backward()
    assert vectors.grad is not None
    assert bool(vectors.grad[0].abs().sum(dim=1).all()) and not bool(vectors.grad[1].any())
    assert all(weight.grad is None for weight in encoder.model.parameters())


def test_hooks_see_the_blocks_outputs_in_order_and_are_gone_afterwards(encoder: OpenClipSpace) -> None:
    tower, seen = TextTower(encoder), []
    before = plain(encoder, ["a red dress"])

    def note(name: str) -> Any:
        return lambda hidden: (seen.append((name, tuple(hidden.shape))), hidden + 1.0)[1]

    last = tower.depth - 1
    hooks = [(last, note("third")), (0, note("first")), (0, note("second"))]
    vectors = torch.zeros((1, 1, tower.width))
    changed = tower.encode_with([Prompt("a")], vectors, hooks)
    assert [name for name, _ in seen] == ["first", "second", "third"]
    assert all(shape[0] == 1 and shape[2] == tower.width for _, shape in seen)
    assert not torch.equal(changed, tower.encode_with([Prompt("a")], vectors))
    assert torch.equal(plain(encoder, ["a red dress"]), before)


def test_hooks_are_gone_after_an_exception(encoder: OpenClipSpace) -> None:
    def fail(_hidden: Tensor) -> Tensor:
        raise RuntimeError("no")

    tower, before = TextTower(encoder), plain(encoder, ["a red dress"])
    with pytest.raises(RuntimeError, match="no"):
        tower.encode_with([Prompt("a")], torch.zeros((1, 1, tower.width)), [(0, fail)])
    assert torch.equal(plain(encoder, ["a red dress"]), before)


def test_no_text_gives_no_vector() -> None:
    assert TextTower(random_encoder()).encode_with([], torch.zeros((0, 1, WIDTH))).shape == (0, DIMENSION)


@pytest.mark.parametrize("count", [CONTEXT - 3, CONTEXT + 5])
def test_more_vectors_than_the_context_holds_are_refused_in_words(count: int) -> None:
    tower = TextTower(random_encoder())
    with pytest.raises(SystemModelError, match="context of 24 tokens"):
        tower.encode_with([Prompt("a photo of", "red")], torch.zeros((1, count, WIDTH)))
    fits = tower.encode_with([Prompt("", "red")], torch.zeros((1, CONTEXT - 2, WIDTH)))
    assert bool(fits.isfinite().all())


def test_a_hugging_face_text_tower_is_refused_in_words() -> None:
    from open_clip import SimpleTokenizer
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    small: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    bert: Any = BertConfig(vocab_size=49408, **small)
    model = random_encoder("CustomTextCLIP").model
    model.text = HFTextEncoder(
        "bert", output_dim=DIMENSION, config=bert, pooler_type="mean_pooler", proj_type="linear"
    )
    encoder = encoder_of(model, SimpleTokenizer(context_length=CONTEXT))
    with pytest.raises(SystemModelError, match=r"HFTextEncoder.*no token embedding"):
        TextTower(encoder)


def test_a_tokenizer_without_a_word_of_one_token_is_refused_in_words() -> None:
    encoder = random_encoder()
    letters = encoder_of(encoder.model, Letters())
    with pytest.raises(SystemModelError, match="no word of one token"):
        TextTower(letters)


class Letters:
    """A tokenizer that knows no sign and no letter of the marks: all of it is token 7."""

    context_length = CONTEXT

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        length = context_length or self.context_length
        rows = torch.zeros((len(texts), length), dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = len(text.split())
            row[0], row[1 : words + 1], row[min(words, length - 2) + 1] = 1, 7, 2
        return rows
