"""The CLIP encoder on a tiny model from a local folder: vectors, identity, truncation, errors."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setr_lib.settings import EncoderSettings, ModelSettings, Settings
from setr_lib.spaces.open_clip_space import EncoderError, OpenClipSpace
from tests.tiny_encoder import TINY_CLIP, write_tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("models") / "tiny clip"
    write_tiny_clip(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenClipSpace:
    return OpenClipSpace.load(EncoderSettings(name=f"local-dir:{folder}"), "cpu")


def pictures(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


def test_vectors_are_float32_unit_and_in_order(encoder: OpenClipSpace) -> None:
    images = pictures(5)
    whole, single = encoder.embed_images(images), encoder.embed_images(images[3:4])
    assert whole.dtype == np.float32 and whole.shape == (5, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(whole[3], single[0], atol=1e-6)
    np.testing.assert_allclose(encoder.embed_images(images, batch_size=2), whole, atol=1e-6)
    np.testing.assert_allclose(
        encoder.embed_preprocessed([encoder.preprocess(image) for image in images]), whole, atol=1e-6
    )
    assert encoder.embed_images([]).shape == (0, encoder.dimension)


def test_texts_are_encoded_as_open_clip_does(encoder: OpenClipSpace, folder: Path) -> None:
    import open_clip
    import torch

    model = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a red dress", "a blue one"])
    with torch.inference_mode():
        expected = model.encode_text(tokens, normalize=True).numpy()  # pyright: ignore[reportCallIssue]
    np.testing.assert_allclose(encoder.embed_texts(["a red dress", "a blue one"]), expected, atol=1e-6)


def test_grey_and_transparent_pictures_are_fine(encoder: OpenClipSpace) -> None:
    images = [Image.new(mode, (20, 30)) for mode in ("L", "RGBA", "P", "CMYK")]
    assert np.isfinite(encoder.embed_images(images)).all()


def test_truncated_texts_are_counted(encoder: OpenClipSpace) -> None:
    room = TINY_CLIP["text_cfg"]["context_length"] - 2  # start and end tokens
    texts = ["", "a red dress", " ".join(["dress"] * room), " ".join(["dress"] * (room + 1))]
    assert encoder.count_truncated(texts) == 1
    assert encoder.count_truncated([]) == 0


def test_identity_follows_weights_and_architecture_not_the_folder(
    encoder: OpenClipSpace, folder: Path, tmp_path: Path
) -> None:
    def identity(where: str, **changes: object) -> str:
        name = write_tiny_clip(tmp_path / where / folder.name, **changes)  # pyright: ignore[reportArgumentType]
        return OpenClipSpace.load(EncoderSettings(name=name), "cpu").id

    text = TINY_CLIP["text_cfg"]
    assert identity("same") == encoder.id
    assert str(folder.parent) not in encoder.id
    assert identity("weights", seed=1) != encoder.id
    assert identity("heads", text_cfg={**text, "heads": 1}) != encoder.id  # the same weights fit both


def test_settings_name_the_folder_from_their_own(folder: Path, encoder: OpenClipSpace) -> None:
    models = ModelSettings(device="cpu", encoder=EncoderSettings(name=f"local-dir:{folder.name}"))
    assert OpenClipSpace.from_settings(Settings(models=models, base_dir=folder.parent)).id == encoder.id


def test_random_weights_are_the_same_everywhere_and_announced(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    settings = EncoderSettings(name="ViT-S-32-alt")
    first = OpenClipSpace.load(settings, "cpu")
    torch.rand(3)  # the state of the generator must not matter
    assert OpenClipSpace.load(settings, "cpu").id == first.id
    assert "they are random" in caplog.text


@pytest.mark.parametrize(
    ("name", "pretrained", "says"),
    [("ViT-Nonsense", "openai", "ViT-Nonsense"), ("ViT-B-32", "no-such-tag", "no-such-tag")],
)
def test_unknown_names_are_explained(name: str, pretrained: str, says: str) -> None:
    with pytest.raises(EncoderError, match=says):
        OpenClipSpace.load(EncoderSettings(name=name, pretrained=pretrained), "cpu")


def test_a_folder_without_weights_or_configuration_is_explained(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(EncoderError, match=r"no open_clip_config\.json"):
        OpenClipSpace.load(EncoderSettings(name=f"local-dir:{tmp_path}"), "cpu")
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(EncoderError, match="safetensors"):
        OpenClipSpace.load(EncoderSettings(name=f"local-dir:{tmp_path}"), "cpu")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(EncoderError, match="could not load"):
        OpenClipSpace.load(EncoderSettings(name=f"local-dir:{tmp_path}"), "cpu")


def test_loading_leaves_logging_as_it_was(folder: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    OpenClipSpace.load(EncoderSettings(name=f"local-dir:{folder}"), "cpu")
    assert (root.level, list(root.handlers)) == before


def test_a_size_that_is_found_serves_the_next_run_and_moves_no_vector(tmp_path: Path, folder: Path) -> None:
    encoder = EncoderSettings(name=f"local-dir:{folder}", batch_size="auto")
    settings = Settings(base_dir=tmp_path, models=ModelSettings(device="cpu", encoder=encoder))
    space = OpenClipSpace.from_settings(settings)
    pixels = [space.preprocess(image) for image in pictures(40)]
    expected = space.embed_preprocessed(pixels, batch_size=8)
    found = expected[:0]
    for _ in range(12):
        found = space.embed_preprocessed(pixels * 4)
    np.testing.assert_allclose(found, np.concatenate([expected] * 4), atol=1e-6)
    assert settings.batch_sizes.is_file()
    again = OpenClipSpace.from_settings(settings)
    assert (again.id, again.batch_size) == (space.id, space.batch_size)
    assert again.batch_size in (16, 32, 64, 128)
