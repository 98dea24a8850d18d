"""Retrieval-DPO, as published and mended: its losses by hand, and what of the encoder is trained."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.features import PIXELS, VECTORS, ImageBatch, ImageFeatures, TripletBatch
from setr_lib.systems.models.retrieval_dpo import RetrievalDpo
from setr_lib.systems.models.retrieval_dpo_fused import RetrievalDpoFused
from setr_lib.systems.models.system_model import SystemModelError
from setr_lib.systems.options import RetrievalDpoFusedOptions, RetrievalDpoOptions
from tests.systems.encoders import DIMENSION, SIGLIP, encoder_of, miniature, random_encoder

TEXTS = ["is red", "with a long belt", "shorter, please"]
NEGATIVES = 2


def hugging_face_encoder() -> OpenClipSpace:
    """A tiny CustomTextCLIP whose text tower is a BERT of transformers."""
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    encoder = random_encoder("CustomTextCLIP")
    config: Any = BertConfig(
        vocab_size=49408, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder.model.text = HFTextEncoder("bert", DIMENSION, config, "mean_pooler", "mlp")
    return encoder_of(encoder.model, encoder.tokenizer)


def encoder_of_kind(kind: str) -> OpenClipSpace:
    made: dict[str, Any] = {
        "CLIP": lambda: random_encoder("CLIP"),
        "CustomTextCLIP": lambda: random_encoder("CustomTextCLIP"),
        "SigLIP": lambda: random_encoder("CustomTextCLIP", "canonicalize", **SIGLIP),
        "Hugging Face": hugging_face_encoder,
        "miniature": miniature,
    }
    return made[kind]()


KINDS = ("CLIP", "CustomTextCLIP", "SigLIP", "Hugging Face", "miniature")


def images(encoder: OpenClipSpace, count: int, seed: int) -> ImageFeatures:
    """Random pixels, and the encoder's own vectors of them."""
    size = encoder.model.visual.image_size[0]
    pixels = torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return ImageFeatures(torch.from_numpy(encoder.embed_preprocessed(list(pixels))), pixels=pixels)


def batch(encoder: OpenClipSpace) -> TripletBatch:
    return TripletBatch(
        references=images(encoder, 3, 1),
        texts=TEXTS,
        targets=images(encoder, 3, 2),
        reference_ids=["r0", "r1", "r2"],
        target_ids=["t0", "t1", "t2"],
        negatives=images(encoder, 3 * NEGATIVES, 3),
    )


def moved(model: Any, by: float = 0.05) -> Any:
    """The model with noise on what it trains, so that it is not at its start."""
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter += by * torch.randn(parameter.shape, generator=source)
    return model


def margins(queries: Any, step: TripletBatch, tau: float) -> np.ndarray:
    """Score of the target less that of each negative, [q, m], in float64."""
    assert step.negatives is not None
    query = np.asarray(queries.detach(), dtype=np.float64)
    target = np.asarray(step.targets.vectors, dtype=np.float64)
    negative = np.asarray(step.negatives.vectors, dtype=np.float64).reshape(len(query), NEGATIVES, -1)
    return np.array(
        [
            [(q @ t - q @ n) / tau for n in of_query]
            for q, t, of_query in zip(query, target, negative, strict=True)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_queries_are_the_encoders_texts(kind: str) -> None:
    encoder = encoder_of_kind(kind)
    model = RetrievalDpo(encoder, RetrievalDpoOptions())
    assert set(map(str, model.trained())) == set(model.state_dict())
    with torch.inference_mode():
        queries = model.encode_queries(images(encoder, 3, 1), TEXTS)
    assert np.array_equal(queries.numpy(), encoder.embed_texts(TEXTS))


def test_token_embeddings_and_text_projection_are_trained_and_nothing_else() -> None:
    models = {kind: RetrievalDpo(encoder_of_kind(kind), RetrievalDpoOptions()) for kind in KINDS}
    names = {kind: list(model.trained()) for kind, model in models.items()}
    assert names["CLIP"] == names["CustomTextCLIP"] == ["token_embedding", "text_projection"]
    assert names["SigLIP"] == ["token_embedding", "text_projection_weight", "text_projection_bias"]
    assert names["Hugging Face"] == [
        "token_embedding",
        "text_projection_0_weight",
        "text_projection_2_weight",
    ]


def test_the_loss_is_that_of_the_formula() -> None:
    encoder, tau, beta = random_encoder(), 0.07, 0.6
    options = RetrievalDpoOptions(negatives=NEGATIVES, temperature=tau, beta=beta)
    model, step = moved(RetrievalDpo(encoder, options)), batch(encoder)
    ours = margins(model.encode_queries(step.references, TEXTS), step, tau)
    frozen = margins(torch.from_numpy(encoder.embed_texts(TEXTS)), step, tau)
    expected = np.mean(np.log1p(np.exp(-beta * (ours - frozen))))
    np.testing.assert_allclose(model.loss(step).item(), expected, rtol=1e-4)
    swapped = np.mean(np.log1p(np.exp(beta * (ours - frozen))))
    assert abs(expected - swapped) > 0.01  # a wrong sign would show


def test_a_step_against_the_gradient_moves_queries_to_the_target_and_off_the_negatives() -> None:
    encoder = random_encoder()
    model = RetrievalDpo(encoder, RetrievalDpoOptions(negatives=NEGATIVES))
    step = batch(encoder)
    before = margins(model.encode_queries(step.references, TEXTS), step, 1.0)
    loss = model.loss(step)
    np.testing.assert_allclose(loss.item(), np.log(2), rtol=1e-4)  # it is where it starts
    loss.backward()
    with torch.no_grad():
        for parameter in model.trained().values():
            assert parameter.grad is not None
            parameter -= 1e-4 * parameter.grad / parameter.grad.norm()
    assert (margins(model.encode_queries(step.references, TEXTS), step, 1.0) - before).mean() > 0
    assert model.loss(step).item() < loss.item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", ["published", "towers"])
def test_training_leaves_the_encoder_as_it_was_and_is_stored_whole(kind: str, make: str) -> None:
    encoder = encoder_of_kind(kind)
    step = batch(encoder)

    def model(seed: int) -> Any:
        if make == "published":
            return RetrievalDpo(encoder, RetrievalDpoOptions(negatives=NEGATIVES, seed=seed))
        return RetrievalDpoFused(encoder, RetrievalDpoFusedOptions(negatives=NEGATIVES, seed=seed))

    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    trained = model(1)
    optimiser, losses = torch.optim.AdamW(trained.trained().values(), lr=1e-2), []
    for _ in range(3):
        loss = trained.train().loss(step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = encoder.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    again = model(2)
    stored = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    again.load_state_dict(stored, strict=True)
    trained.eval()
    again.eval()
    with torch.inference_mode():
        queries = trained.encode_queries(step.references, TEXTS)
        assert torch.equal(queries, again.encode_queries(step.references, TEXTS))
        assert torch.equal(trained.encode_images(step.targets), again.encode_images(step.targets))
    with_gradients = trained.encode_queries(step.references, TEXTS)
    torch.testing.assert_close(with_gradients, queries.clone(), atol=1e-6, rtol=0)
    assert not torch.allclose(queries, model(1).encode_queries(step.references, TEXTS), atol=1e-3)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("listwise", [False, True])
def test_the_mended_losses_are_those_of_their_formulas(fused: bool, listwise: bool) -> None:
    encoder, tau, beta = random_encoder(), 0.07, 0.6
    options = RetrievalDpoFusedOptions(
        negatives=NEGATIVES, temperature=tau, beta=beta, fused=fused, listwise=listwise, towers=False
    )
    model, step = moved(RetrievalDpoFused(encoder, options)), batch(encoder)
    queries = model.encode_queries(step.references, TEXTS)
    ours = margins(queries, step, tau)
    frozen_texts = encoder.embed_texts(TEXTS).astype(np.float64)
    frozen = frozen_texts + np.asarray(step.references.vectors) if fused else frozen_texts
    frozen /= np.linalg.norm(frozen, axis=1, keepdims=True)
    if listwise:
        expected = np.mean(np.log1p(np.exp(-ours).sum(axis=1)))
    else:
        gained = ours - margins(torch.from_numpy(frozen), step, tau)
        expected = np.mean(np.log1p(np.exp(-beta * gained)))
    np.testing.assert_allclose(model.loss(step).item(), expected, rtol=1e-4)
    assert model.reads == {VECTORS} and torch.equal(model.encode_images(step.targets), step.targets.vectors)


def test_with_all_switches_off_it_is_the_published_system() -> None:
    encoder = random_encoder()
    off = RetrievalDpoFusedOptions(
        negatives=NEGATIVES, fused=False, listwise=False, curated=False, towers=False
    )
    mended, step = moved(RetrievalDpoFused(encoder, off)), batch(encoder)
    published = RetrievalDpo(encoder, RetrievalDpoOptions(negatives=NEGATIVES))
    published.load_state_dict(mended.state_dict(), strict=True)
    assert torch.equal(mended.loss(step), published.loss(step))


@pytest.mark.parametrize("kind", KINDS)
def test_lora_on_both_towers_starts_at_the_encoder(kind: str) -> None:
    encoder = encoder_of_kind(kind)
    model = RetrievalDpoFused(encoder, RetrievalDpoFusedOptions())
    pictures = images(encoder, len(TEXTS), 5)
    assert model.reads == {VECTORS, PIXELS} and all(name.startswith("lora.") for name in model.trained())
    assert list(model.trained()) == list(model.state_dict())
    texts = torch.from_numpy(encoder.embed_texts(TEXTS))
    fused = texts + pictures.vectors
    for _ in ("with gradients", "a second call"):
        torch.testing.assert_close(model.encode_images(pictures), pictures.vectors, atol=1e-6, rtol=0)
        queries = model.encode_queries(pictures, TEXTS)
        torch.testing.assert_close(queries, fused / fused.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_lora_changes_q_k_and_v_of_both_towers_by_its_product_and_nothing_else(kind: str) -> None:
    encoder = random_encoder(kind)
    options = RetrievalDpoFusedOptions(rank=3, alpha=6, fused=False)
    model = moved(RetrievalDpoFused(encoder, options))
    plain, stored = copy.deepcopy(encoder.model), model.state_dict()
    paths = {name.removeprefix("lora.").rpartition(".A.")[0] for name in stored if ".A." in name}
    text = "text/transformer" if kind == "CustomTextCLIP" else "transformer"
    blocks = {f"{text}/resblocks/{layer}/attn" for layer in range(3)}
    assert paths == {*blocks, "visual/transformer/resblocks/0/attn"}
    with torch.no_grad():
        for path in paths:
            down, up = stored[f"lora.{path}.A.weight"], stored[f"lora.{path}.B.weight"]
            assert down.shape[0] == 3
            plain.get_submodule(path.replace("/", ".")).in_proj_weight += (6 / 3) * up @ down
    pictures = images(encoder, 2, 6)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(plain.encode_image(pictures.pixels), dim=-1)
        words = torch.nn.functional.normalize(plain.encode_text(encoder.tokenizer(TEXTS)), dim=-1)
        torch.testing.assert_close(model.encode_images(pictures), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(model.encode_queries(pictures, TEXTS), words, atol=1e-6, rtol=0)
    assert not torch.allclose(expected, pictures.vectors, atol=1e-3)


def test_the_start_of_lora_is_the_seeds_alone() -> None:
    encoder = random_encoder()

    def start(seed: int) -> dict[str, torch.Tensor]:
        return RetrievalDpoFused(encoder, RetrievalDpoFusedOptions(seed=seed)).state_dict()

    torch.manual_seed(1)
    first = start(3)
    following = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), following)  # the global state is left alone
    again, other = start(3), start(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], other[name]) == (".B." in name) for name in first)


@pytest.mark.parametrize("towers", [False, True])
def test_an_unreadable_reference_leaves_the_text_alone(towers: bool) -> None:
    encoder = random_encoder()
    model = moved(RetrievalDpoFused(encoder, RetrievalDpoFusedOptions(towers=towers)))
    pictures = images(encoder, 3, 7)
    vectors = pictures.vectors.clone()
    vectors[1] = 0
    broken = ImageFeatures(vectors, pixels=pictures.pixels)
    alone = RetrievalDpoFused(encoder, RetrievalDpoFusedOptions(towers=towers, fused=False))
    alone.load_state_dict(model.state_dict(), strict=True)
    got, words = model.encode_queries(broken, TEXTS), alone.encode_queries(broken, TEXTS)
    torch.testing.assert_close(got[1], words[1])
    assert not torch.allclose(got[0], words[0], atol=1e-2)
    assert not model.encode_images(broken)[1].any()


def test_encoders_without_what_is_trained_are_refused() -> None:
    no_projection = random_encoder("CustomTextCLIP", proj_type="none")
    with pytest.raises(SystemModelError, match="has no text_projection"):
        RetrievalDpo(no_projection, RetrievalDpoOptions())
    no_words = random_encoder("CustomTextCLIP")
    no_words.model.text.token_embedding = None
    with pytest.raises(SystemModelError, match="has no token_embedding"):
        RetrievalDpoFused(no_words, RetrievalDpoFusedOptions(towers=False))
    import open_clip

    text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    resnet = open_clip.CLIP(16, {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8}, text)  # pyright: ignore[reportArgumentType]
    encoder = encoder_of(resnet, open_clip.SimpleTokenizer(context_length=24))
    with pytest.raises(SystemModelError, match=r"LoRA on visual\.attnpool\.\w_proj .* changes nothing"):
        RetrievalDpoFused(encoder, RetrievalDpoFusedOptions())


def test_a_batch_without_what_is_read_is_refused() -> None:
    encoder = random_encoder()
    step = batch(encoder)
    model = RetrievalDpo(encoder, RetrievalDpoOptions(negatives=NEGATIVES + 1))
    with pytest.raises(SystemModelError, match="negatives = 3, and the batch has 6 hard negatives for 3"):
        model.loss(step)
    with pytest.raises(SystemModelError, match="triplets with mined hard negatives"):
        model.loss(ImageBatch(step.targets, step.target_ids, TEXTS))
    with pytest.raises(SystemModelError, match="pixels"):
        RetrievalDpoFused(encoder, RetrievalDpoFusedOptions()).encode_images(
            ImageFeatures(step.targets.vectors)
        )
