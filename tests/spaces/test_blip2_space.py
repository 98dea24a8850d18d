"""BLIP-2's retrieval model as an embedding space: its own features of images and texts, one vector each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setr_lib.settings import load_settings
from setr_lib.spaces.blip2_space import Blip2Space, load_space
from setr_lib.spaces.space import SpaceError, make_space
from tests.tiny_blip2 import DIMENSION, PATCHES, QUERY_TOKENS, SIDE, WORDS, rename_weight, write_tiny_blip2

TEXTS = ["a red dress", "the blue shirt with shorter sleeves and no belt", "longer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_blip2(tmp_path_factory.mktemp("models") / "tiny blip2")


@pytest.fixture(scope="module")
def space(folder: Path) -> Blip2Space:
    return load_space(model=str(folder), device="cpu")


@pytest.fixture(scope="module")
def outputs(folder: Path) -> Any:
    """What transformers' own model and processors give of the pictures and texts."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForImageTextRetrieval

    model = Blip2ForImageTextRetrieval.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(images=pictures(), return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(
            pixel_values=pixels["pixel_values"],
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )


def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]


def test_an_images_vector_is_the_mean_of_the_models_own(space: Blip2Space, outputs: Any) -> None:
    tokens = outputs.image_embeds.numpy()
    assert tokens.shape == (3, QUERY_TOKENS, DIMENSION)
    mean = tokens.mean(axis=1)
    found = space.embed_images(pictures())
    assert found.dtype == np.float32 and found.shape == (3, space.dimension)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)
    one = space.embed_preprocessed([space.preprocess(pictures()[2])], batch_size=1)
    np.testing.assert_allclose(one[0], found[2], atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3  # the pictures count


def test_texts_and_patch_tokens_are_the_models_own(space: Blip2Space, outputs: Any) -> None:
    np.testing.assert_allclose(space.embed_texts(TEXTS), outputs.text_embeds.numpy(), atol=1e-5)
    patches = space.embed_patches(pictures())
    assert patches.shape == (3, PATCHES, 24) and space.embeds_patches and space.embeds_texts
    expected = outputs.vision_model_output.last_hidden_state.numpy()
    np.testing.assert_allclose(patches, expected, atol=1e-5)


def test_pictures_of_any_mode_are_read_and_nothing_gives_nothing(space: Blip2Space) -> None:
    images = [Image.new(mode, (20, 30)) for mode in ("L", "RGBA", "P", "CMYK")]
    assert np.isfinite(space.embed_images(images)).all()
    assert space.preprocess(images[0]).shape == (3, SIDE, SIDE)
    assert space.embed_images([]).shape == (0, DIMENSION) == space.embed_texts([]).shape


def test_texts_that_are_too_long_are_counted_and_truncated(space: Blip2Space) -> None:
    room = space.tokenizer.context_length - 2
    fits, longer = " ".join(["red"] * room), " ".join(["red"] * (room + 1))
    assert space.count_truncated(["", "red", fits, longer]) == 1 and space.count_truncated([]) == 0
    np.testing.assert_allclose(*space.embed_texts([fits, longer]), atol=1e-6)


def test_tokens_that_a_processor_added_are_unknown_words(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, Blip2Processor, BlipImageProcessor

    copied = write_tiny_blip2(tmp_path / "tiny blip2")
    images = BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    Blip2Processor(
        images, AutoTokenizer.from_pretrained(folder), num_query_tokens=QUERY_TOKENS
    ).save_pretrained(copied)
    space = load_space(model=str(copied), device="cpu")
    ids = space.tokenizer(["a <image> dress"])[0, :5].tolist()
    assert len(space.tokenizer.tokenizer) == space.tokenizer.vocab_size + 1
    assert ids == [2, 5 + WORDS.index("a"), 1, 5 + WORDS.index("dress"), 3]


def test_identity_follows_the_weights_not_the_folder(space: Blip2Space, tmp_path: Path) -> None:
    same = load_space(model=str(write_tiny_blip2(tmp_path / "a" / "tiny blip2")), device="cpu")
    other = load_space(model=str(write_tiny_blip2(tmp_path / "b" / "tiny blip2", seed=1)), device="cpu")
    heads = write_tiny_blip2(tmp_path / "c" / "tiny blip2", num_attention_heads=4)
    assert same.id == space.id and same.id.startswith("tiny blip2@")
    assert len({space.id, other.id, load_space(model=str(heads), device="cpu").id}) == 3
    assert same.preprocessing_id == space.preprocessing_id


def test_a_weight_without_a_place_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = write_tiny_blip2(tmp_path / "renamed")
    rename_weight(folder, "text_projection.weight", "text_proj.weight")
    with pytest.raises(SpaceError, match=r"does not: text_projection\.weight; .*does not: text_proj\.weight"):
        load_space(model=str(folder), device="cpu")


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"no BLIP-2 for image-text retrieval loads from there"):
        load_space(model=str(tmp_path), device="cpu")
    folder = write_tiny_blip2(tmp_path / "captions", use_qformer_text_input=False)
    with pytest.raises(SpaceError, match=r"its Q-Former reads no texts"):
        load_space(model=str(folder), device="cpu")


def test_settings_name_it_by_its_kind(tmp_path: Path, space: Blip2Space) -> None:
    write_tiny_blip2(tmp_path / "models" / "tiny blip2")
    config = tmp_path / "setr.toml"
    config.write_text(
        '[models]\ndevice = "cpu"\n[spaces.blip2]\nkind = "blip2"\noptions = {model = "models/tiny blip2"}\n',
        encoding="utf-8",
    )
    assert make_space("blip2", load_settings(config)).id == space.id
