"""What is stored of a trained retrieval system: a round trip of each, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import miniature, random_encoder
from small_lessons import TINY, features_of, lesson_of, small_data

from setr_lib.systems.bundle import (
    RECORD,
    WEIGHTS,
    SystemBundleError,
    SystemRecord,
    check_encoder,
    load_system,
    read_system,
    write_system,
)
from setr_lib.systems.data import Features, SystemData
from setr_lib.systems.held_out import encoded_images, encoded_queries
from setr_lib.systems.models.system_model import SystemModel
from setr_lib.systems.recipe import RECIPES
from setr_lib.systems.training import stored_tensors, train_system


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SystemData:
    return small_data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def features(data: SystemData) -> Features:
    return features_of(data)


def vectors(model: SystemModel[Any], data: SystemData, features: Features) -> list[torch.Tensor]:
    """Vectors of held-out queries, without a text too, and of the gallery."""
    held_out = data.held_out
    references, texts = held_out["reference_id"].to_list(), held_out["modification"].to_list()
    return [
        torch.from_numpy(encoded_queries(model, features, references, texts)),
        torch.from_numpy(encoded_queries(model, features, references, [""] * len(texts))),
        torch.from_numpy(encoded_images(model, features, data.gallery)),
    ]


def record_of(name: str, **changes: Any) -> SystemRecord:
    encoder = miniature()
    options = RECIPES[name].options(**TINY[name]).model_dump(mode="json")
    values = {
        "system": name,
        "options": options,
        "encoder_id": encoder.id,
        "preprocessing_id": encoder.preprocessing_id,
        "run": "r",
    }
    return SystemRecord.model_validate(values | changes)


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_stored_is_all_that_another_process_needs(
    name: str, data: SystemData, features: Features, tmp_path: Path
) -> None:
    """Tensors and settings alone give the vectors again, also of a system that builds on another's."""
    lesson = lesson_of(name, data, steps=2)
    before = vectors(lesson.model, data, features)
    result = train_system(lesson, tmp_path / "training")
    trained = vectors(lesson.model, data, features)
    assert not all(torch.equal(*pair) for pair in zip(before, trained, strict=True)), "nothing was learned"
    write_system(
        tmp_path / "system",
        record_of(name, options=lesson.model.options.model_dump(mode="json")),
        stored_tensors(lesson.model),
    )
    torch.rand(7)  # the state of torch's generator does not matter
    loaded = load_system(tmp_path / "system", miniature())
    assert not loaded.training
    again = vectors(loaded, data, features)
    for mine, theirs in zip(trained, again, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)
    assert len(result.ranks) == data.held_out.height and result.gallery == 6


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_leaves_the_encoder_as_it_was(name: str, data: SystemData, tmp_path: Path) -> None:
    """The encoder is shared: other methods of the process use it; and what is below a system is frozen."""
    encoder = miniature().model
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    lesson = lesson_of(name, data, steps=2)
    trained = {*lesson.model.trained()}
    kept = {key: value.clone() for key, value in lesson.model.state_dict().items() if key not in trained}
    train_system(lesson, tmp_path)
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert all(parameter.grad is None for parameter in encoder.parameters())
    stored = lesson.model.state_dict()
    assert [key for key in kept if not torch.equal(kept[key], stored[key])] == []
    if RECIPES[name].builds_on:
        assert kept, "the system below is in the bundle"


@pytest.fixture
def stored(tmp_path: Path, data: SystemData) -> Path:
    model = lesson_of("prompt_tuned", data).model
    write_system(tmp_path / "system", record_of("prompt_tuned"), stored_tensors(model))
    return tmp_path / "system"


def test_another_encoder_is_refused(stored: Path) -> None:
    """Also one whose tensors would fit, and one that prepares pictures otherwise."""
    with pytest.raises(SystemBundleError, match=r"prompt_tuned was trained on .*the encoder here is tiny"):
        load_system(stored, random_encoder())
    encoder = miniature()
    for other in ({"encoder_id": "another"}, {"preprocessing_id": "another"}):
        record = record_of("prompt_tuned", **other)
        with pytest.raises(SystemBundleError, match=r"^it was trained on .*another.*\[systems\.prompt_"):
            check_encoder("it", record, encoder)
        write_system(stored, record, read_system(stored).tensors())
        with pytest.raises(SystemBundleError, match="name that one"):
            load_system(stored, encoder)


def test_a_system_that_is_not_known_is_refused(stored: Path) -> None:
    write_system(stored, record_of("prompt_tuned", system="magic"), read_system(stored).tensors())
    with pytest.raises(SystemBundleError, match="'magic', which this version of SETR does not know; known: "):
        load_system(stored, miniature())


def damaged_record(folder: Path) -> None:
    (folder / RECORD).write_text("{")


def no_record(folder: Path) -> None:
    (folder / RECORD).unlink()


def other_options(folder: Path) -> None:
    values = json.loads((folder / RECORD).read_text())
    values["options"] |= {"context_vectors": 99, "colour": "red"}
    (folder / RECORD).write_text(json.dumps(values))


def damaged_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\x00" * 40)


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def other_weights(folder: Path) -> None:
    write_system(folder, record_of("prompt_tuned"), {"contexts": torch.zeros(4, 4)})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damaged_record, r"system\.json: is cut or overwritten: run `setr repair registry`"),
        (no_record, r"system\.json: is missing: run `setr repair registry`"),
        (
            other_options,
            r"system\.json: settings .* \(context_vectors: .*16; colour: .*\): train ",
        ),
        (damaged_weights, r"weights\.safetensors: is cut or overwritten: run `setr repair registry`"),
        (no_weights, r"weights\.safetensors: is missing: run `setr repair registry`"),
        (
            other_weights,
            r"its tensors are not those of prompt_tuned \(.*Missing key.*Unexpected.*contexts",
        ),
    ],
)
def test_what_is_damaged_is_told_in_words(stored: Path, damage: Any, words: str) -> None:
    damage(stored)
    with pytest.raises(SystemBundleError, match=words) as refused:
        load_system(stored, miniature())
    assert str(stored) in str(refused.value)
