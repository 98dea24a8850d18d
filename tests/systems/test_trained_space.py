"""Embedding spaces of trained retrieval systems: found by kind, opened with a version, and their vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from setr_lib.commands.setup_checks import configured
from setr_lib.hashing import fingerprint_file
from setr_lib.methods.references import ReferencePictures
from setr_lib.settings import EncoderSettings, ModelSettings, Settings, SpaceSettings
from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.spaces.space import SpaceError, make_space, space_kinds, trained_by
from setr_lib.spaces.vector_store import GalleryStore
from setr_lib.systems.bundle import SystemRecord, write_system
from setr_lib.systems.features import ImageFeatures
from setr_lib.systems.models.qformer import QFormer
from setr_lib.systems.models.retrieval_dpo_fused import RetrievalDpoFused
from setr_lib.systems.models.system_model import SystemModel
from setr_lib.systems.options import QFormerOptions, RetrievalDpoFusedOptions
from setr_lib.systems.recipe import RECIPES
from setr_lib.systems.trained_space import FusedSpace, QformerSpace, SystemSpace
from setr_lib.systems.training import stored_tensors
from setr_lib.weights import Weights
from tests.tiny_encoder import write_tiny_clip

KIND = "retrieval_dpo_fused"
TEXTS = ["is red", "shorter", "with a belt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("models")
    write_tiny_clip(path / "one")
    write_tiny_clip(path / "other", seed=3)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenClipSpace:
    return OpenClipSpace.load(EncoderSettings(name=f"local-dir:{folder / 'one'}"), "cpu")


@pytest.fixture(scope="module")
def model(encoder: OpenClipSpace) -> RetrievalDpoFused:
    """As after some training: no tensor is at its start."""
    made = RetrievalDpoFused(encoder, RetrievalDpoFusedOptions(rank=2))
    source = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in made.trained().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source)
    return made


def weights_of(model: SystemModel[Any], folder: Path, system: str = KIND) -> Weights:
    """A version's bundle, as a training writes it."""
    encoder, options = model.encoder, model.options.model_dump(mode="json")
    record = SystemRecord(
        system=system,
        options=options,
        encoder_id=encoder.id,
        preprocessing_id=encoder.preprocessing_id,
        run="0" * 32,
    )
    write_system(folder / "system", record, stored_tensors(model))
    return Weights("setr-fused", "3", "zero-shot", {"system": folder / "system"}, "cpu", run="1f0c9a22dd")


def settings_of(folder: Path, **options: Any) -> Settings:
    models = ModelSettings(device="cpu", encoder=EncoderSettings(name="local-dir:one", batch_size=2))
    spaces = {"mended": SpaceSettings(kind=KIND, options=options)}
    return Settings(models=models, base_dir=folder, spaces=spaces)


def pictures(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_kind_of_space_is_a_system_with_galleries_of_its_own(folder: Path) -> None:
    settings = settings_of(folder)
    assert {"retrieval_dpo_fused", "qformer"} <= set(space_kinds())
    assert trained_by("mended", settings) == KIND == FusedSpace.trained and RECIPES[KIND].own_space
    with pytest.raises(SpaceError, match="trained by 'retrieval_dpo_fused'"):
        make_space("mended", settings)


def test_a_version_gives_the_vectors_of_its_model(
    folder: Path, encoder: OpenClipSpace, model: RetrievalDpoFused, tmp_path: Path
) -> None:
    space = make_space("mended", settings_of(folder), weights_of(model, tmp_path))
    assert space.id == f"setr-fused-v3-1f0c9a22@{encoder.id.split('@')[1]}"
    assert (space.preprocessing_id, space.dimension) == (encoder.preprocessing_id, encoder.dimension)
    assert (space.embeds_texts, space.embeds_queries, space.batch_size) == (True, True, 2)
    with ThreadPoolExecutor(3) as pool:
        prepared = list(pool.map(space.preprocess, pictures(3)))
    pixels = torch.stack(prepared)
    with torch.inference_mode():
        features = ImageFeatures(torch.from_numpy(encoder.embed_preprocessed(prepared)), pixels=pixels)
        images, queries = model.encode_images(features), model.encode_queries(features, TEXTS)
        words = model.encode_texts(TEXTS)
    np.testing.assert_allclose(space.embed_preprocessed(prepared), images, atol=1e-6)
    np.testing.assert_allclose(space.embed_queries(prepared, TEXTS), queries, atol=1e-6)
    np.testing.assert_allclose(space.embed_texts(TEXTS), words, atol=1e-6)
    assert np.abs(images.numpy() - features.vectors.numpy()).max() > 1e-2  # they are not the encoder's
    assert space.embed_images([]).shape == (0, 16) and space.embed_texts([]).shape == (0, 16)
    assert space.count_truncated(["short", "word " * 40]) == 1
    alone = ReferencePictures(space, {}).query_vectors(["gone"] * 3, TEXTS)
    np.testing.assert_allclose(alone, words, atol=1e-6, err_msg="a lost reference leaves the text")


def test_its_galleries_are_tables_of_their_own(
    folder: Path, encoder: OpenClipSpace, model: RetrievalDpoFused, tmp_path: Path
) -> None:
    space = make_space("mended", settings_of(folder), weights_of(model, tmp_path))
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, picture in zip(paths, pictures(3), strict=True):
        picture.save(path)
    gallery = pl.DataFrame(
        {
            "image_id": ["a", "b", "c"],
            "path": list(map(str, paths)),
            "fingerprint": [*map(fingerprint_file, paths)],
        }
    )
    store = GalleryStore(tmp_path / "lancedb")
    tables = [store.table_name("here", each) for each in (space, encoder)]
    assert tables[0] != tables[1] and tables[0].startswith("here--setr-fused-v3-1f0c9a22--")
    assert store.synchronise(tables[0], gallery, space).rows == 3
    ids, vectors = store.read(tables[0])
    assert ids == ["a", "b", "c"]
    expected = space.embed_images([space.preprocess(picture) for picture in pictures(3)])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_another_encoder_or_system_is_refused(folder: Path, model: RetrievalDpoFused, tmp_path: Path) -> None:
    weights = weights_of(model, tmp_path)
    with pytest.raises(SpaceError, match=r"was trained on local-dir:one@\w+ .* local-dir:other@"):
        make_space("mended", settings_of(folder, name="local-dir:other"), weights)
    foreign = weights_of(model, tmp_path / "foreign", system="prompt_tuned")
    with pytest.raises(SpaceError, match="version 3 of setr-fused is of the system 'prompt_tuned'"):
        make_space("mended", settings_of(folder), foreign)
    with pytest.raises(SpaceError, match="is no kind of encoder: write one of open_clip"):
        make_space("mended", settings_of(folder, kind="os:remove", name="local-dir:one"), weights)
    with pytest.raises(SpaceError, match="'sharpness'"):
        make_space("mended", settings_of(folder, name="local-dir:one", sharpness=2), weights)


def test_the_encoder_is_that_of_the_training_unless_options_name_one(folder: Path) -> None:
    of_clip = {
        "kind": "open_clip",
        "name": f"local-dir:{folder / 'one'}",
        "pretrained": None,
        "batch_size": 2,
    }
    assert settings_of(folder).space_options("mended") == of_clip
    assert settings_of(folder, batch_size=7).space_options("mended") == {**of_clip, "batch_size": 7}
    other = f"local-dir:{folder / 'other'}"
    assert settings_of(folder, name="local-dir:other").space_options("mended") == {"name": other}
    spaces = {
        "mended": SpaceSettings(kind=KIND),
        "large": SpaceSettings(kind="open_clip", options={"name": "local-dir:other"}),
        "blip": SpaceSettings(kind="blip2", options={"name": "blip"}),
    }
    for encoder, expected in (
        ("large", {"kind": "open_clip", "name": other}),
        ("blip", {"kind": "blip2", "name": "blip"}),
    ):
        settings = Settings(base_dir=folder, spaces=spaces, systems={KIND: {"encoder": encoder}})
        assert settings.space_options("mended") == expected


def test_a_system_without_a_text_side_has_a_space_without_one() -> None:
    assert QformerSpace.trained == "qformer"
    assert QformerSpace.embed_texts is SystemSpace.embed_texts is not FusedSpace.embed_texts


def test_a_qformer_has_a_space_of_its_own_length(
    folder: Path, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    options = QFormerOptions(layers=1, hidden_size=16, heads=2, query_tokens=4, dimension=8)
    model = QFormer(encoder, options).eval()
    settings = Settings(
        models=ModelSettings(device="cpu", encoder=EncoderSettings(name="local-dir:one")),
        base_dir=folder,
        spaces={"light": SpaceSettings(kind="qformer")},
    )
    space = make_space("light", settings, weights_of(model, tmp_path, "qformer"))
    prepared = [space.preprocess(picture) for picture in pictures(3)]
    with torch.inference_mode():
        features = ImageFeatures(
            torch.from_numpy(encoder.embed_preprocessed(prepared)),
            torch.from_numpy(encoder.embed_patches(prepared)),
        )
        images, queries = model.encode_images(features), model.encode_queries(features, TEXTS)
    assert space.dimension == 8
    np.testing.assert_allclose(space.embed_preprocessed(prepared), images, atol=1e-6)
    np.testing.assert_allclose(space.embed_queries(prepared, TEXTS), queries, atol=1e-6)
    with pytest.raises(SpaceError, match="no text side"):
        space.embed_texts(["red"])
    lost = ImageFeatures(torch.zeros(3, encoder.dimension), features.patches)
    with torch.inference_mode():
        expected = model.encode_queries(lost, TEXTS)
    paths = {f"i{row}": str(tmp_path / f"{row}.png") for row in range(3)}
    for path, picture in zip(paths.values(), pictures(3), strict=True):
        picture.save(path)
    found = ReferencePictures(space, paths).query_vectors(["i0", "gone", "i2"], TEXTS)
    np.testing.assert_allclose(found[[0, 2]], queries[[0, 2]], atol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({}, "warning", "no configured method searches it"),
        ({"name": "local-dir:absent"}, "missing", "absent"),
        ({"name": "local-dir:one", "sharpness": 2}, "broken", "unexpected keyword argument 'sharpness'"),
    ],
)
def test_the_doctor_looks_at_its_encoder_and_options(
    folder: Path, options: dict[str, Any], status: str, says: str
) -> None:
    checks = configured(settings_of(folder, **options), set())
    (check,) = (each for each in checks if each.what == "space mended")
    assert check.status == status and says in f"{check.value} {check.detail}"
