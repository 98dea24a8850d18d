"""Stage II of "From Mapping to Composing": exactness at the start, adapters, negatives and the queue."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.models.composing import Composing
from setr_lib.systems.models.mapping import Mapping
from setr_lib.systems.models.system_model import SystemModelError
from setr_lib.systems.models.target_queue import TargetQueue, keys_of
from setr_lib.systems.models.text_tower import Prompt, TextTower
from setr_lib.systems.options import ComposingOptions, MappingOptions
from tests.systems.batches import TEXTS, draw, losses_of, names, nce_by_hand, pictures, triplets
from tests.systems.encoders import SIGLIP, miniature, random_encoder
from tests.systems.text_by_hand import encode_by_hand

ENCODERS = {
    "miniature": miniature,
    "CLIP": random_encoder,
    "of SigLIP": lambda: random_encoder("CustomTextCLIP", clean="canonicalize", **SIGLIP),
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> OpenClipSpace:
    return ENCODERS[request.param]()


@pytest.fixture(scope="module")
def clip() -> OpenClipSpace:
    return random_encoder()


def stage_one(encoder: OpenClipSpace, **options: Any) -> Mapping:
    """A mapping with open gates, as after a training."""
    model = Mapping(encoder, MappingOptions(seed=3, **options)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("gamma"):
                value.copy_(0.5 * draw(value.shape, len(name)))
    return model


def composing(encoder: OpenClipSpace, **options: Any) -> Composing:
    return Composing(encoder, ComposingOptions(**options), stage_one(encoder).state_dict()).eval()


@pytest.mark.parametrize("adapter", ["bottleneck", "lora"])
@pytest.mark.parametrize("shape", [{}, {"tokens": 3, "injection_layers": [2]}, {"visual_injection": False}])
def test_before_the_training_it_is_the_mapping_exactly(
    encoder: OpenClipSpace, adapter: Any, shape: dict[str, Any]
) -> None:
    # Frozen, as it is in the other: torch multiplies trainable weights in another order, 1e-7 apart.
    mapping = stage_one(encoder, **shape).requires_grad_(False)
    features = pictures(encoder, names("i", len(TEXTS)))
    model = Composing(encoder, ComposingOptions(adapter=adapter, **shape), mapping.state_dict()).eval()
    with torch.no_grad():
        expected = mapping.encode_queries(features, TEXTS)
        assert torch.equal(model.encode_queries(features, TEXTS), expected)


@pytest.mark.parametrize("adapter", ["bottleneck", "lora"])
def test_every_adapter_learns_and_everything_else_stays(encoder: OpenClipSpace, adapter: Any) -> None:
    model = composing(encoder, adapter=adapter, adapter_width=8, lora_rank=2, temperature=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clip_before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    batch = triplets(encoder, names("r", 16), names("t", 16))
    losses = losses_of(model, batch, steps=4, rate=0.01)
    assert losses[-1] < losses[0] - 0.05
    after, trained = model.state_dict(), set(model.trained())
    assert trained and all(name.startswith(("adapters.", "lora.")) for name in trained)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == (name not in trained), name
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, clip_before[name]), name


@pytest.mark.parametrize("adapter", ["bottleneck", "lora"])
def test_the_stored_tensors_alone_give_the_same_vectors_in_another_model(
    clip: OpenClipSpace, adapter: Any
) -> None:
    model = composing(clip, adapter=adapter)
    losses_of(model, triplets(clip, names("r", 4), names("t", 4)), steps=2, rate=0.01)
    other = Composing(clip, ComposingOptions(adapter=adapter, seed=99)).eval()
    features = pictures(clip, names("i", len(TEXTS)))
    assert not torch.equal(other.encode_queries(features, TEXTS), model.encode_queries(features, TEXTS))
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.encode_queries(features, TEXTS), model.encode_queries(features, TEXTS))


@pytest.mark.parametrize("adapter", ["bottleneck", "lora"])
def test_the_start_is_a_function_of_the_seed_alone(clip: OpenClipSpace, adapter: Any) -> None:
    torch.manual_seed(1)
    first = composing(clip, adapter=adapter).state_dict()
    torch.manual_seed(2)
    again, other = composing(clip, adapter=adapter), composing(clip, adapter=adapter, seed=2)
    assert all(torch.equal(value, first[name]) for name, value in again.state_dict().items())
    drawn = [name for name in other.trained() if "lora_A" in name or name.endswith("1.weight")]
    assert drawn and not any(torch.equal(other.state_dict()[name], first[name]) for name in drawn)


def test_the_bottlenecks_stand_behind_the_injection_of_their_block(clip: OpenClipSpace) -> None:
    model = composing(clip, adapter_width=8)
    with torch.no_grad():
        for value in model.trained().values():
            value.copy_(draw(value.shape, value.numel()))
        features = pictures(clip, ["a", "b"])
        hooks = dict(model.image.hooks(features))
        after = {layer: behind(hooks[layer - 1], model, layer - 1) for layer in (1, 2, 3)}
        expected = encode_by_hand(clip, "a photo of $ that red", model.image.words(features), after)
        got = model.encode_queries(features, ["red", "red"])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def behind(injection: Callable[[Tensor], Tensor], model: Composing, layer: int) -> Callable[[Tensor], Tensor]:
    """The injection, then ``h + up(GELU(down(LN(h))))`` with the tensors of a layer's bottleneck."""
    own = {name: model.state_dict()[f"adapters.{layer}.{name}"] for name in BOTTLENECK}

    def add(hidden: Tensor) -> Tensor:
        hidden = injection(hidden)
        centred = hidden - hidden.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        normed = normed * own["0.weight"] + own["0.bias"]
        inner = normed @ own["1.weight"].T + own["1.bias"]
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        return hidden + inner @ own["3.weight"].T + own["3.bias"]

    return add


BOTTLENECK = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]


def test_a_reference_that_cannot_be_read_leaves_the_encoders_text_alone(clip: OpenClipSpace) -> None:
    model, features = composing(clip, adapter="lora"), pictures(clip, ["a", "b"])
    losses_of(model, triplets(clip, names("r", 4), names("t", 4)), steps=1, rate=0.01)
    features.vectors[0] = 0
    got = model.encode_queries(features, ["red", "blue"])
    torch.testing.assert_close(got[:1], TextTower(clip).encode(["red"]))


# In the second step: t0 comes again (it is in the queue, too), r4 of query 1 is the target of query 2, query
# 3 has its reference as target, and t7 is a target twice.
STEPS = [
    (["r0", "r1", "r2"], ["t0", "t1", "t1"]),
    (["r3", "r4", "r5", "t9", "r6"], ["t0", "t7", "r4", "t9", "t7"]),
]


@pytest.mark.parametrize("hardest", [2, 100])
@pytest.mark.parametrize("reference", [True, False])
def test_the_loss_is_that_of_an_independent_computation(
    clip: OpenClipSpace, hardest: int, reference: bool
) -> None:
    model = composing(clip, hardest=hardest, queue=8, reference_negative=reference, temperature=0.2)
    first, second = (triplets(clip, *step) for step in STEPS)
    second.references.vectors[4] = 0  # cannot be read
    queries = model.encode_queries(second.references, second.texts)
    model.loss(first)
    images = ["t0", "t7", "r4", "t9", "t1", "r3", "r5"]
    vectors = pictures(clip, images).vectors
    cosines = (queries @ vectors.T).detach().numpy()
    own, allowed = [0, 1, 2, 3, 1], []
    for row, (mine, target) in enumerate(zip(second.reference_ids, second.target_ids, strict=True)):
        known = [c for c in range(5) if images[c] != target and not (reference and images[c] == mine)]
        nearest = sorted(known, key=lambda column, row=row: -cosines[row, column])[:hardest]
        allowed.append(nearest + ([images.index(mine)] if reference and row < 3 else []))
    expected = nce_by_hand(queries, vectors, own, allowed, 0.2)
    np.testing.assert_allclose(model.loss(second).item(), expected, rtol=1e-4)


def test_without_hard_negatives_it_is_info_nce_over_the_batch(clip: OpenClipSpace) -> None:
    model = composing(clip, hard_negatives=False, temperature=0.2, hardest=1)
    first, second = (triplets(clip, *step) for step in STEPS)
    model.loss(second)
    queries = model.encode_queries(first.references, first.texts)
    expected = nce_by_hand(queries, first.targets.vectors, range(3), [[1, 2], [0], [0]], 0.2)
    np.testing.assert_allclose(model.loss(first).item(), expected, rtol=1e-4)
    assert model.training_state() == {}


def test_a_batch_of_one_target_has_a_loss(clip: OpenClipSpace) -> None:
    batch = triplets(clip, ["r0", "t0"], ["t0", "t0"])
    with_reference = composing(clip, temperature=1.0)
    alone = composing(clip, temperature=1.0, reference_negative=False)
    assert with_reference.loss(batch).item() > 0
    assert alone.loss(batch).item() == 0
    with_reference.loss(batch).backward()
    assert all(bool(value.grad.isfinite().all()) for value in with_reference.trained().values())  # pyright: ignore


def test_the_training_state_is_all_that_a_resumed_training_needs(clip: OpenClipSpace) -> None:
    first, second = (triplets(clip, *step) for step in STEPS)
    whole, resumed = composing(clip, temperature=0.2), composing(clip, temperature=0.2)
    without = whole.loss(second).item()
    whole = composing(clip, temperature=0.2)
    whole.loss(first)
    for name, tensor in whole.training_state().items():
        resumed.training_state()[name].copy_(tensor)
    assert not set(whole.training_state()) & set(whole.state_dict())
    expected = whole.loss(second).item()
    assert resumed.loss(second).item() == expected != without
    for name, tensor in whole.training_state().items():
        assert torch.equal(resumed.training_state()[name], tensor)


def test_the_queue_holds_the_last_distinct_targets() -> None:
    queue = TargetQueue(4, 2)
    rows = {name: torch.tensor([float(number), 1.0]) for number, name in enumerate("abcdef")}
    for step, expected in (("ab", "ab"), ("cca", "cab"), ("def", "defc")):
        queue.push(torch.stack([rows[name] for name in step]), list(step))
        held = int(queue.filled.sum())
        assert torch.equal(queue.vectors[:held], torch.stack([rows[name] for name in expected]))
        assert torch.equal(queue.keys[:held], keys_of(expected, queue.keys.device))


def test_a_mapping_of_other_pseudo_words_is_refused_in_words(clip: OpenClipSpace) -> None:
    base = stage_one(clip, tokens=2).state_dict()
    with pytest.raises(SystemModelError, match=r"tokens, visual_injection .* of \[systems.mapping\]"):
        Composing(clip, ComposingOptions(), base)


def test_lora_reaches_an_attention_that_is_not_torchs() -> None:
    encoder = random_encoder("CustomTextCLIP", qk_norm=True)
    model = composing(encoder, adapter="lora", lora_rank=2)
    model.loss(triplets(encoder, ["a", "b"], ["c", "d"])).backward()
    updates = {name: value.grad for name, value in model.trained().items() if "lora_B" in name}
    assert len(updates) == 3 * 3
    assert all(gradient is not None and bool(gradient.any()) for gradient in updates.values())


def test_lora_computes_with_the_weight_and_its_update_and_leaves_the_weight(clip: OpenClipSpace) -> None:
    """Against a text tower whose weights are ``W + alpha / rank * B A``."""
    model = composing(clip, adapter="lora", lora_rank=2, lora_alpha=6)
    with torch.no_grad():
        for value in model.trained().values():
            value.copy_(0.3 * draw(value.shape, value.numel()))
    by_hand = copy.deepcopy(clip.model)
    for name, up in model.trained().items():
        if "lora_B" not in name:
            continue
        path = name.removeprefix("lora.").split("/lora_B")[0].replace("/", ".")
        part = by_hand.transformer.resblocks.get_submodule(path)
        weight = part.in_proj_weight if path.endswith("attn") else part.weight
        down = model.trained()[name.replace("lora_B", "lora_A")]
        weight.data += 3 * up.detach() @ down.detach()
    features = pictures(clip, names("i", 4))
    hooks, words = model.image.hooks(features), model.image.words(features)
    prompts = [Prompt("a photo of", f"that {text}") for text in TEXTS[:4]]
    expected = TextTower(clip, by_hand).encode_with(prompts, words, hooks)
    with torch.inference_mode():
        first = model.encode_queries(features, TEXTS[:4])
    for _ in range(20):
        model.encode_queries(features, TEXTS[:4])
    with torch.inference_mode():
        assert torch.equal(model.encode_queries(features, TEXTS[:4]), first)
    torch.testing.assert_close(model.encode_queries(features, TEXTS[:4]), expected, atol=1e-5, rtol=0)
