"""The Q-Former over reference image and text: exact without text, the same however a batch is padded, and
BLIP-2's own where it starts from BLIP-2.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.nn.functional import normalize

from setr_lib.settings import EncoderSettings
from setr_lib.spaces import blip2_space
from setr_lib.spaces.blip2_space import Blip2Space
from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.systems.features import ImageFeatures, TripletBatch
from setr_lib.systems.models.blip2_weights import from_blip2
from setr_lib.systems.models.qformer import QFormer
from setr_lib.systems.models.system_model import SystemModelError
from setr_lib.systems.models.text_tokens import TextTokens
from setr_lib.systems.options import QFormerOptions
from setr_lib.systems.recipe import RECIPES
from tests.tiny_blip2 import DIMENSION, PATCHES, write_tiny_blip2
from tests.tiny_encoder import TINY_CLIP, write_tiny_clip

MINIATURE = "local-dir:setr_lib/miniature/weights/clip"
SMALL: dict[str, Any] = {"hidden_size": 32, "heads": 4, "query_tokens": 6, "dimension": 24, "text_length": 16}
TEXTS = ["a red dress", "make it blue!", "the same shirt with longer sleeves and no belt", "shorter ! !"]


def load(name: str) -> OpenClipSpace:
    return OpenClipSpace.load(EncoderSettings(name=name), "cpu")


@pytest.fixture(scope="module")
def miniature() -> OpenClipSpace:
    return load(MINIATURE)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> OpenClipSpace:
    return load(write_tiny_clip(tmp_path_factory.mktemp("models") / "clip"))


@pytest.fixture(scope="module", params=["its own tokenizer", "a tokenizer of transformers"])
def encoder(request: pytest.FixtureRequest, clip: OpenClipSpace, miniature: OpenClipSpace) -> OpenClipSpace:
    return clip if request.param == "its own tokenizer" else miniature


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> Blip2Space:
    folder = write_tiny_blip2(tmp_path_factory.mktemp("models") / "tiny blip2")
    return blip2_space.load_space(model=str(folder), device="cpu")


def noise(count: int, patches: int, width: int, dimension: int = 16, seed: int = 0) -> ImageFeatures:
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, dimension, generator=random)
    return ImageFeatures(normalize(vectors, dim=1), torch.randn(count, patches, width, generator=random))


def features(encoder: OpenClipSpace | Blip2Space, count: int = 4) -> ImageFeatures:
    """What the encoder gives of some pictures of noise."""
    values = np.random.default_rng(0).integers(0, 256, (count, 40, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(value) for value in values]
    return ImageFeatures(
        torch.from_numpy(encoder.embed_images(images)), torch.from_numpy(encoder.embed_patches(images))
    )


def make(encoder: OpenClipSpace | Blip2Space, **options: Any) -> QFormer:
    return QFormer(encoder, QFormerOptions(**{**SMALL, **options}))


def close(left: torch.Tensor, right: torch.Tensor, within: float) -> bool:
    return bool((left - right).abs().max() <= within)


@torch.no_grad()
def test_a_query_without_text_is_the_images_own_vector_and_retrieves_it(encoder: OpenClipSpace) -> None:
    model, images = make(encoder), features(encoder)
    gallery = model.encode_images(images)
    assert gallery.shape == (4, 24) and close(gallery.norm(dim=1), torch.ones(4), 1e-6)
    for texts in (["", " ", "", "\n"], ["", TEXTS[2], "  ", ""]):
        queries = model.encode_queries(images, texts)
        wordless = [row for row, text in enumerate(texts) if not text.strip()]
        assert close(queries[wordless], gallery[wordless], 1e-6)
        assert (queries @ gallery.T)[wordless].argmax(dim=1).tolist() == wordless


@torch.no_grad()
def test_queries_and_images_have_a_projection_each_where_it_is_not_shared(clip: OpenClipSpace) -> None:
    model, images = make(clip, shared_projection=False), features(clip)
    before = model.encode_images(images)
    assert close(model.encode_queries(images, [""] * 4), before, 1e-6)  # they start as one
    assert model.query_projection is not None
    model.query_projection.weight.neg_()
    assert torch.equal(model.encode_images(images), before)
    assert not close(model.encode_queries(images, [""] * 4), before, 1e-2)


@torch.no_grad()
def test_vectors_do_not_depend_on_the_longest_text_of_the_batch(encoder: OpenClipSpace) -> None:
    model, images = make(encoder), features(encoder)
    together = model.encode_queries(images, TEXTS)
    assert images.patches is not None
    for row, text in enumerate(TEXTS):
        one = ImageFeatures(images.vectors[row, None], images.patches[row, None])
        assert close(model.encode_queries(one, [text])[0], together[row], 1e-5)
    assert not close(together, model.encode_images(images), 1e-2)  # the text counts


@torch.no_grad()
def test_text_and_image_both_count(clip: OpenClipSpace) -> None:
    model, images = make(clip), features(clip, 2)
    first, second = model.encode_queries(images, [TEXTS[0]] * 2)
    other = model.encode_queries(images, [TEXTS[1]] * 2)[0]
    assert not close(first, second, 1e-3) and not close(first, other, 1e-3)


def test_clips_tokens_are_all_of_a_texts_own(clip: OpenClipSpace) -> None:
    tokens = TextTokens(clip.tokenizer, 16)
    ids, is_text = tokens([*TEXTS, " ".join(["dress"] * 40), ""])
    words = [len(clip.tokenizer.encode(text)) + 2 for text in TEXTS]  # and those that begin and end it
    assert is_text.sum(dim=1).tolist() == [*words, 16, 0]
    assert ids.shape == is_text.shape == (6, 16) and tokens.vocab_size == 49408 and tokens.padding_id == 0
    exclamation = int(clip.tokenizer.encode("!")[0])
    assert bool(is_text[1][ids[1] == exclamation].all())
    assert tokens(TEXTS[:2])[0].shape[1] == max(words[:2])


def test_tokens_of_transformers_are_those_of_its_attention_mask(miniature: OpenClipSpace) -> None:
    _, is_text = TextTokens(miniature.tokenizer, 16)(TEXTS)
    expected = miniature.tokenizer.tokenizer(TEXTS, padding=True)["attention_mask"]
    assert is_text.long().tolist() == expected


def test_a_vocabulary_has_the_tokens_that_were_added(blip2: Blip2Space, miniature: OpenClipSpace) -> None:
    assert TextTokens(miniature.tokenizer, 8).vocab_size == len(miniature.tokenizer.tokenizer)
    assert TextTokens(blip2.tokenizer, 8).vocab_size == blip2.model.embeddings.word_embeddings.num_embeddings


@pytest.mark.parametrize("vocabulary_of_text", [True, False])
def test_any_open_clip_model_with_patch_tokens_will_do(tmp_path: Path, vocabulary_of_text: bool) -> None:
    folder = tmp_path / "clip"
    write_tiny_clip(folder, **({"custom_text": True} if vocabulary_of_text else {}))
    model = make(load(f"local-dir:{folder}"))
    assert model.encode_queries(noise(2, 4, 32), TEXTS[:2]).shape == (2, 24)


def test_a_tower_without_patch_tokens_is_refused(tmp_path: Path, clip: OpenClipSpace) -> None:
    import open_clip

    residual: Any = {**TINY_CLIP["vision_cfg"], "layers": [1, 1, 1, 1], "width": 8, "image_size": 64}
    model: Any = open_clip.CLIP(embed_dim=16, vision_cfg=residual, text_cfg=TINY_CLIP["text_cfg"])
    model.visual.preprocess_cfg = {"size": 64}
    space = OpenClipSpace(model, None, clip.tokenizer, "resnet", torch.device("cpu"))
    with pytest.raises(SystemModelError, match=r"reads patch tokens, and the encoder resnet@.* gives none"):
        make(space)
    with pytest.raises(SystemModelError, match="was given images without them"):
        make(clip).encode_images(ImageFeatures(torch.ones(1, 16)))


def transformers_tokenizer(folder: Path, **options: Any) -> Any:
    """A tokenizer of transformers, as open_clip loads it."""
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "a", "red", "dress"]
    raw = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **{**names, **options}).save_pretrained(folder)
    return open_clip.tokenizer.HFTokenizer(str(folder), context_length=8)


def test_a_text_may_be_padded_with_the_token_that_ends_it(tmp_path: Path) -> None:
    tokens = TextTokens(transformers_tokenizer(tmp_path, pad_token="</s>"), 8)  # noqa: S106
    ids, is_text = tokens(["a red dress", "dress"])
    assert tokens.padding_id == 1
    assert ids.tolist() == [[3, 4, 5], [5, 1, 1]] and is_text.sum(dim=1).tolist() == [3, 1]


def test_padding_before_a_text_is_refused(tmp_path: Path) -> None:
    assert TextTokens(transformers_tokenizer(tmp_path / "right"), 8).padding_id == 0
    with pytest.raises(SystemModelError, match="does not pad texts at their end"):
        TextTokens(transformers_tokenizer(tmp_path / "left", padding_side="left"), 8)


def test_of_a_reference_that_cannot_be_read_the_text_alone_counts(clip: OpenClipSpace) -> None:
    model, images = make(clip), noise(3, 4, 32)
    images.vectors[1] = 0
    assert images.patches is not None
    damaged = images.patches.clone()
    damaged[1] = torch.nan
    texts = [TEXTS[0], TEXTS[0], ""]
    found = model.encode_queries(ImageFeatures(images.vectors, damaged), texts)
    assert close(found.norm(dim=1), torch.ones(3), 1e-6)
    assert torch.equal(found, model.encode_queries(images, texts))  # whatever stands for its patches
    blank = ImageFeatures(torch.zeros(2, 16), torch.zeros(2, 4, 32))
    same, other = model.encode_queries(blank, [TEXTS[0], TEXTS[2]])
    assert close(same, found[1], 1e-5) and not close(other, same, 1e-3)
    assert bool(model.encode_queries(blank, ["", ""]).isfinite().all())
    found[1].sum().backward()
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)


@torch.no_grad()
def test_an_image_that_cannot_be_read_has_a_zero_row(clip: OpenClipSpace) -> None:
    model, images = make(clip), noise(3, 4, 32)
    images.vectors[1] = 0
    assert model.encode_images(images).norm(dim=1).tolist() == pytest.approx([1, 0, 1])
    assert model.encode_images(noise(0, 4, 32)).shape == (0, 24)


def batch(target_ids: list[str], targets: ImageFeatures | None = None) -> TripletBatch:
    count = len(target_ids)
    words = [f"make it {word}" for word in ("red", "blue", "short", "long", "a shirt", "a dress")]
    return TripletBatch(
        references=noise(count, 4, 32, seed=1),
        texts=[words[row % len(words)] for row in range(count)],
        targets=targets or noise(count, 4, 32, seed=2),
        reference_ids=[f"r{row}" for row in range(count)],
        target_ids=target_ids,
    )


@pytest.mark.parametrize("learned", [True, False])
def test_the_loss_is_info_nce_and_equal_targets_are_no_negatives(clip: OpenClipSpace, learned: bool) -> None:
    model = make(clip, temperature=0.2, learned_temperature=learned)
    triplets = batch(["p", "q", "p", "s"])
    with torch.no_grad():
        queries = model.encode_queries(triplets.references, triplets.texts).double().numpy()
        targets = model.encode_images(triplets.targets).double().numpy()
    losses = []
    for row, negatives in enumerate(([1, 3], [0, 2, 3], [1, 3], [0, 1, 2])):
        own = math.exp(queries[row] @ targets[row] / 0.2)
        others = sum(math.exp(queries[row] @ targets[column] / 0.2) for column in negatives)
        losses.append(-math.log(own / (own + others)))
    assert model.loss(triplets).item() == pytest.approx(sum(losses) / 4, abs=1e-5)


def test_training_lowers_the_loss_and_leaves_the_encoder(clip: OpenClipSpace) -> None:
    model, triplets = make(clip), batch([f"t{row}" for row in range(12)])
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    trained = model.trained()
    optimiser = torch.optim.AdamW(trained.values(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model.loss(triplets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert set(trained) == set(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())
    assert all(value.grad is not None for value in trained.values())


def test_a_learned_temperature_is_trained_and_bounded(clip: OpenClipSpace) -> None:
    model = make(clip)
    model.loss(batch(["p", "q", "s"])).backward()
    assert model.log_temperature.grad is not None and model.log_temperature.grad.abs() > 0
    assert model.log_temperature.exp().item() == pytest.approx(0.07)
    model.log_temperature.data.fill_(-50.0)
    assert isinstance(model.temperature, torch.Tensor)
    assert model.temperature.item() == pytest.approx(0.01)
    assert "log_temperature" not in make(clip, learned_temperature=False).state_dict()


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_stored_gives_the_same_vectors(clip: OpenClipSpace, tmp_path: Path, shared: bool) -> None:
    from safetensors.torch import load_file, save_file

    model, images = make(clip, shared_projection=shared), noise(4, 4, 32)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    save_file(model.state_dict(), tmp_path / "stored.safetensors")
    again = make(clip, shared_projection=shared)
    again.load_state_dict(load_file(tmp_path / "stored.safetensors"), strict=True)
    assert torch.equal(again.encode_images(images), model.encode_images(images))
    assert torch.equal(again.encode_queries(images, TEXTS), model.encode_queries(images, TEXTS))
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_initial_weights_follow_the_seed_alone(clip: OpenClipSpace) -> None:
    torch.manual_seed(1)
    first = make(clip).state_dict()
    expected = torch.rand(1)
    torch.manual_seed(1)
    torch.rand(5)
    second = make(clip).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), expected)  # and leave the state of torch as it was
    assert not torch.equal(first["query_tokens"], make(clip, seed=14).state_dict()["query_tokens"])


@torch.no_grad()
def test_query_tokens_are_not_all_the_same(clip: OpenClipSpace) -> None:
    model, images = make(clip), noise(1, 4, 32)
    assert images.patches is not None
    hidden = model.qformer(
        input_ids=None, query_embeds=model.query_tokens, encoder_hidden_states=images.patches
    ).last_hidden_state[0]
    assert torch.pdist(hidden).min() > 1e-2
    assert model.query_tokens.std().item() == pytest.approx(0.02, rel=0.3)


def blip2_query(space: Blip2Space, patches: torch.Tensor, text: str) -> torch.Tensor:
    """BLIP-2's own modules over an image and a text together, as its image-text matching reads them."""
    model, ids = space.model, space.tokenizer.tokenizer([text], return_tensors="pt")["input_ids"]
    queries = model.query_tokens
    hidden = model.qformer(
        query_embeds=model.embeddings(input_ids=ids, query_embeds=queries),
        query_length=queries.shape[1],
        encoder_hidden_states=patches[None],
    ).last_hidden_state[:, : queries.shape[1]]
    return normalize(normalize(model.vision_projection(hidden), dim=-1).mean(dim=1), dim=-1)[0]


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_from_blip2_it_starts_with_its_image_and_joint_features(blip2: Blip2Space, shared: bool) -> None:
    model, images = make(blip2, start_from=blip2.name, shared_projection=shared), features(blip2)
    assert model.dimension == DIMENSION and images.patches is not None
    assert images.patches.shape[1] == PATCHES
    # tests/spaces/test_blip2_space.py compares these vectors with transformers' own outputs
    assert close(model.encode_images(images), images.vectors, 1e-5)
    texts = ["a red dress", "the blue shirt with shorter sleeves and no belt", "longer", "no belt"]
    found = model.encode_queries(images, texts)
    for row, text in enumerate(texts):
        assert close(found[row], blip2_query(blip2, images.patches[row], text), 1e-5)


def test_a_start_from_another_model_is_refused(blip2: Blip2Space, clip: OpenClipSpace) -> None:
    with pytest.raises(SystemModelError, match=r"starts from the BLIP-2 'tiny blip2'.*encoder is .*clip@"):
        make(clip, start_from="tiny blip2")
    with pytest.raises(SystemModelError, match=r"'Salesforce/blip2-itm-vit-g'.*encoder is tiny blip2@"):
        make(blip2, start_from="Salesforce/blip2-itm-vit-g")
    with pytest.raises(SystemModelError, match=r"text_length, 41, is more than the 40 tokens"):
        make(blip2, start_from=blip2.name, text_length=41)
    assert make(blip2).dimension == 24  # over BLIP-2's vision tower, but not from its Q-Former


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        (
            "embeddings.word_embeddings.weight",
            r"missing: qformer\.embeddings\.word_embeddings\.weight; .*: other",
        ),
        (
            "qformer.encoder.layer.0.output.dense.bias",
            r"missing: qformer\.encoder\.layer\.0\.output\.dense\.bias;",
        ),
        ("query_tokens", r"missing: query_tokens; without a place here: other"),
    ],
)
def test_a_key_without_a_place_is_refused_by_its_name(blip2: Blip2Space, renamed: str, message: str) -> None:
    stored = dict(blip2.model.state_dict())
    wanted = [name for name in make(blip2, start_from=blip2.name).state_dict() if name != "log_temperature"]
    assert set(from_blip2(stored, wanted)) == set(wanted)
    stored["other"] = stored.pop(renamed)
    with pytest.raises(SystemModelError, match=message):
        from_blip2(stored, wanted)


def test_a_deeper_checkpoint_is_refused(blip2: Blip2Space) -> None:
    stored = {"qformer.encoder.layer.0.a": torch.ones(1), "qformer.encoder.layer.7.a": torch.ones(1)}
    with pytest.raises(SystemModelError, match=r"without a place here: qformer\.encoder\.layer\.7\.a"):
        from_blip2(stored, ["qformer.encoder.layer.0.a"])


def test_the_recipe_names_it(clip: OpenClipSpace) -> None:
    recipe = RECIPES["qformer"]
    assert recipe.load() is QFormer and recipe.options is QFormerOptions
    assert recipe.own_space and recipe.learns_from == "triplets"
    with pytest.raises(ValidationError, match="hidden_size, 30, cannot be shared out among 4 heads"):
        QFormerOptions(hidden_size=30)
