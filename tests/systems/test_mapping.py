"""Stage I of "From Mapping to Composing": exactness at the start, the injection and the losses by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.features import ImageFeatures
from setr_lib.systems.models.image_words import injected_layers
from setr_lib.systems.models.mapping import Mapping
from setr_lib.systems.models.system_model import SystemModelError
from setr_lib.systems.models.text_tower import Prompt, TextTower
from setr_lib.systems.options import MappingOptions
from tests.systems.batches import TEXTS, captioned, draw, losses_of, names, nce_by_hand, pictures, unit
from tests.systems.encoders import SIGLIP, miniature, random_encoder
from tests.systems.text_by_hand import encode_by_hand

ENCODERS = {
    "miniature": miniature,
    "CLIP": random_encoder,
    "CustomTextCLIP": lambda: random_encoder("CustomTextCLIP"),
    "of SigLIP": lambda: random_encoder("CustomTextCLIP", clean="canonicalize", **SIGLIP),
    "of CoCa": lambda: random_encoder("CustomTextCLIP", embed_cls=True),
}
CAPTIONS = ["a red dress", "a blue dress", "a red dress", "", "a belt"]


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> OpenClipSpace:
    return ENCODERS[request.param]()


@pytest.fixture(scope="module")
def clip() -> OpenClipSpace:
    return random_encoder()


def opened(model: Mapping, size: float = 0.5) -> Mapping:
    """The system with its gates open, as after a training."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("gamma"):
                value.copy_(size * draw(value.shape, len(name)))
    return model.eval()


@pytest.mark.parametrize("tokens", [1, 4])
def test_with_closed_gates_it_is_plain_clip_over_the_same_pseudo_words(
    encoder: OpenClipSpace, tokens: int
) -> None:
    model = Mapping(encoder, MappingOptions(tokens=tokens)).eval()
    features = pictures(encoder, names("i", len(TEXTS)))
    with torch.no_grad():
        words = model.image.words(features)
        prompts = [Prompt("a photo of", f"that {text}" if text else "") for text in TEXTS]
        plain = TextTower(encoder).encode_with(prompts, words)
        assert words.shape[1] == tokens
        assert torch.equal(model.encode_queries(features, TEXTS), plain)
        assert not torch.equal(opened(model).encode_queries(features, TEXTS), plain)


def test_each_query_attends_to_the_patches_of_its_own_image(encoder: OpenClipSpace) -> None:
    model = opened(Mapping(encoder, MappingOptions()))
    features = pictures(encoder, ["a", "b", "c"])
    together = model.encode_queries(features, ["red"] * 3)
    assert features.patches is not None
    for row in range(3):
        own = ImageFeatures(features.vectors[row : row + 1], features.patches[row : row + 1])
        torch.testing.assert_close(model.encode_queries(own, ["red"])[0], together[row], atol=2e-6, rtol=0)


def test_the_injection_is_that_of_an_independent_computation(clip: OpenClipSpace) -> None:
    model = opened(Mapping(clip, MappingOptions(injection_layers=[2], seed=4)))
    features = pictures(clip, ["a", "b"])
    with torch.no_grad():
        words = model.image.words(features)
        got = model.encode_queries(features, ["red", "red"])
        expected = encode_by_hand(
            clip, "a photo of $ that red", words, {2: attention_by_hand(model, features)}
        )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def attention_by_hand(model: Mapping, features: ImageFeatures) -> Callable[[Tensor], Tensor]:
    """Gated cross-attention and MLP with the tensors of layer 2, two heads."""
    kept = {name.removeprefix("image."): value for name, value in model.state_dict().items()}
    own = {name.removeprefix("injection.2."): value for name, value in kept.items()}
    assert features.patches is not None
    patches = features.patches @ kept["project.weight"].T + kept["project.bias"]

    def norm(values: Tensor, name: str) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * own[f"{name}.weight"] + own[f"{name}.bias"]

    def inject(hidden: Tensor) -> Tensor:
        weights, biases = own["attn.in_proj_weight"].chunk(3), own["attn.in_proj_bias"].chunk(3)
        sides = norm(hidden, "ln_1"), norm(patches, "ln_1_kv"), norm(patches, "ln_1_kv")
        q, k, v = (
            (side @ weight.T + bias).unflatten(-1, (2, -1)).transpose(1, 2)
            for side, weight, bias in zip(sides, weights, biases, strict=True)
        )
        looked = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        looked = looked.transpose(1, 2).flatten(2) @ own["attn.out_proj.weight"].T + own["attn.out_proj.bias"]
        hidden = hidden + own["ls_1.gamma"] * looked
        inner = norm(hidden, "ln_2") @ own["mlp.c_fc.weight"].T + own["mlp.c_fc.bias"]
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        return hidden + own["ls_2.gamma"] * (inner @ own["mlp.c_proj.weight"].T + own["mlp.c_proj.bias"])

    return inject


def test_a_reference_that_cannot_be_read_leaves_the_text_alone(clip: OpenClipSpace) -> None:
    model, features = opened(Mapping(clip, MappingOptions())), pictures(clip, ["a", "b"])
    features.vectors[0] = 0
    got = model.encode_queries(features, ["red", "blue"])
    torch.testing.assert_close(got[:1], TextTower(clip).encode(["red"]))


@pytest.mark.parametrize(
    ("depth", "options", "layers"),
    [
        (12, MappingOptions(), [4, 8, 12]),
        (24, MappingOptions(), [8, 16, 24]),
        (3, MappingOptions(), [1, 2, 3]),
        (2, MappingOptions(), [1, 2]),
        (1, MappingOptions(), [1]),
        (12, MappingOptions(injection_layers=[9, 3, 6]), [3, 6, 9]),
        (12, MappingOptions(visual_injection=False), []),
        (12, MappingOptions(visual_injection=False, injection_layers=[3]), []),
    ],
)
def test_the_injection_is_spread_over_the_tower(
    depth: int, options: MappingOptions, layers: list[int]
) -> None:
    assert injected_layers(options, depth) == layers


def test_a_layer_that_the_tower_lacks_is_refused_in_words(clip: OpenClipSpace) -> None:
    with pytest.raises(SystemModelError, match="the text tower has 3 blocks"):
        Mapping(clip, MappingOptions(injection_layers=[4]))


def test_a_vision_tower_without_patch_tokens_is_refused_in_words() -> None:
    encoder = random_encoder()
    del encoder.model.visual.output_tokens
    with pytest.raises(SystemModelError, match="gives no patch tokens"):
        Mapping(encoder, MappingOptions())


@pytest.mark.parametrize("kind", ["soft", "one-hot", "off"])
def test_the_loss_is_that_of_an_independent_computation(clip: OpenClipSpace, kind: str) -> None:
    options = {"soft": {}, "one-hot": {"alignment": "one-hot"}, "off": {"alignment_weight": 0}}[kind]
    settings = {"alignment_weight": 0.3, "temperature": 0.2, "caption_temperature": 0.1, **options}
    model = opened(Mapping(clip, MappingOptions.model_validate(settings)))
    batch = captioned(clip, ["a", "b", "c", "d", "e"], CAPTIONS)
    images = batch.images
    with torch.no_grad():
        sentences = model.encode_queries(images, [""] * 5)
        captions = TextTower(clip).encode([CAPTIONS[row] for row in (0, 1, 2, 4)])
    others = [[column for column in range(5) if column != row] for row in range(5)]
    expected = nce_by_hand(sentences, images.vectors, range(5), others, 0.2) / 2
    expected += nce_by_hand(images.vectors, sentences, range(5), others, 0.2) / 2
    rows = sentences[[0, 1, 2, 4]]
    if kind == "one-hot":
        expected += 0.3 * nce_by_hand(rows, captions, range(4), [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]], 0.2)
    if kind == "soft":
        wanted, got = (
            np.exp((x @ captions.T).double().numpy() / t) for x, t in ((captions, 0.1), (rows, 0.2))
        )
        wanted, got = wanted / wanted.sum(1, keepdims=True), got / got.sum(1, keepdims=True)
        expected += 0.3 * float((wanted * np.log(wanted / got)).sum(1).mean())
    np.testing.assert_allclose(model.loss(batch).item(), expected, rtol=1e-4)


def test_images_without_captions_are_learned_from_without_alignment(clip: OpenClipSpace) -> None:
    model = Mapping(clip, MappingOptions())
    bare = Mapping(clip, MappingOptions(alignment_weight=0))
    captions = ["", "", "a red dress"]
    got, expected = (each.loss(captioned(clip, "abc", captions)) for each in (model, bare))
    assert torch.equal(got, expected)


def test_gates_and_token_learner_get_gradients_and_the_encoder_none(clip: OpenClipSpace) -> None:
    model = Mapping(clip, MappingOptions(tokens=2))
    model.loss(captioned(clip, "abcde", CAPTIONS)).backward()
    grads = {name: value.grad for name, value in model.trained().items()}
    gates = [name for name in grads if name.endswith("gamma")]
    assert len(gates) == 2 * 3
    for name in [*gates, "image.word.weight", "image.pooler.query", "image.pooler.attn.out_proj.weight"]:
        gradient = grads[name]
        assert gradient is not None and bool(gradient.any()), name
    assert all(weight.grad is None for weight in clip.model.parameters())


def test_the_stored_tensors_give_the_same_vectors_in_another_model(clip: OpenClipSpace) -> None:
    torch.manual_seed(5)
    model = opened(Mapping(clip, MappingOptions(tokens=2)))
    features = pictures(clip, ["a", "b"])
    vectors = model.encode_queries(features, ["red", ""])
    torch.manual_seed(6)
    again = opened(Mapping(clip, MappingOptions(tokens=2)))
    assert torch.equal(again.encode_queries(features, ["red", ""]), vectors)
    other = Mapping(clip, MappingOptions(tokens=2, seed=1)).eval()
    assert not torch.equal(opened(other).encode_queries(features, ["red", ""]), vectors)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.encode_queries(features, ["red", ""]), vectors)


def test_the_loss_falls_on_the_miniatures_clip_and_the_gates_open() -> None:
    encoder = miniature()
    model = Mapping(encoder, MappingOptions(temperature=0.05))
    batch = captioned(encoder, names("i", 16), [f"{text} dress" for text in names("", 16)])
    losses = losses_of(model, batch, steps=6, rate=0.003)
    assert losses[-1] < losses[0] - 0.1
    assert all(bool(value.any()) for name, value in model.trained().items() if name.endswith("gamma"))
    assert unit(model.encode_queries(batch.images, ["red"] * 16)).shape == (16, encoder.dimension)
