"""A registered retrieval system as it serves: queries in, vectors out; what is wrong is told by column and
row.
"""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from encoders import miniature
from small_lessons import lesson_of, small_data
from tiny_encoder import write_tiny_clip

import setr_lib
from setr_lib.pixels import as_picture_file
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.system_bundle import (
    ENCODER,
    ENCODER_VARIABLE,
    SYSTEM,
    SystemBundle,
    encoder_reference,
    example_frame,
    held_out_of,
    write_system_bundle,
)
from setr_lib.registry.system_serving import QueryScorer
from setr_lib.systems.bundle import SystemRecord, read_system, write_system
from setr_lib.systems.held_out import encoded_images, encoded_queries
from setr_lib.systems.training import train_system

WEIGHTS = Path(setr_lib.__file__).parent / "miniature" / "weights" / "clip"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundle of a trained ``mapping``, which reads patch tokens."""
    folder = tmp_path_factory.mktemp("bundle")
    data, encoder = small_data(folder / "pictures"), miniature()
    lesson = lesson_of("mapping", data, steps=2)
    result = train_system(lesson, folder / "training")
    name = f"local-dir:{WEIGHTS}"
    record = SystemRecord(
        system="mapping",
        options=lesson.model.options.model_dump(mode="json"),
        encoder_id=encoder.id,
        preprocessing_id=encoder.preprocessing_id,
        run=lesson.run,
    )
    held_out, features = data.held_out, lesson.features
    references, texts = held_out["reference_id"].to_list(), held_out["modification"].to_list()
    examples = example_frame(
        [Path(as_picture_file(features.paths[image]).path).read_bytes() for image in references],
        texts,
        encoded_queries(lesson.model, features, references, texts),
        encoded_images(lesson.model, features, references),
    )
    reference = encoder_reference(encoder, "open_clip", {"name": name, "pretrained": None}, name)
    return write_system_bundle(folder / "made", record, result, reference, examples, held_out)


@pytest.fixture(scope="module")
def scorer(made: dict[str, Path]) -> QueryScorer:
    return QueryScorer.load({name: str(path) for name, path in made.items()}, {"device": "cpu"})


@pytest.fixture
def bundle(made: dict[str, Path], tmp_path: Path) -> SystemBundle:
    """A copy that may be damaged."""
    return SystemBundle(*(shutil.copytree(made[part], tmp_path / part) for part in (SYSTEM, ENCODER)))


def queries(scorer: QueryScorer) -> pd.DataFrame:
    examples = scorer.bundle.examples
    columns = {name: examples[name].to_list() for name in ("reference", "modification")}
    return pd.DataFrame(columns, index=[f"q{n}" for n in range(examples.height)])


def test_a_query_has_the_vector_of_training_under_its_own_index(scorer: QueryScorer) -> None:
    frame = queries(scorer)
    answer = scorer.predict(frame.iloc[::-1])
    assert list(answer.index) == list(frame.index[::-1]) and list(answer.columns) == ["vector", "error"]
    assert set(answer["error"]) == {None}
    expected = np.array(scorer.bundle.examples["query_vector"].to_list())[::-1]
    np.testing.assert_allclose(np.array(answer["vector"].to_list()), expected, atol=1e-5)
    assert len(scorer.predict(frame.iloc[:0])) == 0


def test_requests_at_the_same_time_do_not_change_one_another(
    scorer: QueryScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's server calls ``predict`` from several threads, and pseudo-words are put into one encoder."""
    requests = [queries(scorer).iloc[:3], queries(scorer).iloc[3:]]
    alone = [scorer.predict(request)["vector"].to_list() for request in requests]
    tower = scorer.model.encoder.model
    encode = tower.encode_text

    def slowly(*given: Any, **options: Any) -> Any:
        time.sleep(0.1)  # the other thread begins meanwhile
        return encode(*given, **options)

    monkeypatch.setattr(tower, "encode_text", slowly)
    with ThreadPoolExecutor(2) as pool:
        together = [*pool.map(lambda request: scorer.predict(request)["vector"].to_list(), requests)]
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-6)


def test_a_missing_column_and_an_unknown_key_are_named(scorer: QueryScorer, made: dict[str, Path]) -> None:
    with pytest.raises(RegistryError, match=r"columns \['modification'\] are missing: a row has refer"):
        scorer.predict(queries(scorer).drop(columns=["modification"]))
    with pytest.raises(RegistryError, match=r"model_config: \['encodr'\] unknown; the keys are encoder, d"):
        QueryScorer.load({name: str(path) for name, path in made.items()}, {"encodr": "x"})


def test_the_round_trip_passes_for_what_was_trained(scorer: QueryScorer) -> None:
    problems, cosines = scorer.round_trip(scorer.predict)
    assert problems == [] and cosines == pytest.approx([1.0] * len(cosines), abs=1e-5) and cosines


def test_the_round_trip_notices_a_changed_weight(bundle: SystemBundle) -> None:
    stored = read_system(bundle.system)
    tensors = stored.tensors()
    name = "image.word.weight"
    write_system(bundle.system, stored.record, tensors | {name: tensors[name] * 1.5})
    changed = QueryScorer(bundle, bundle.load(device="cpu"))
    (problem,), _ = changed.round_trip(changed.predict)
    assert problem.startswith("query vectors differ from those of training by up to")


def test_the_round_trip_notices_what_predict_or_images_give_otherwise(
    scorer: QueryScorer, bundle: SystemBundle
) -> None:
    problems, _ = scorer.round_trip(lambda frame: scorer.predict(frame).iloc[1:])
    assert problems == ["predict gave columns ['vector', 'error'] and 5 rows"]
    problems, _ = scorer.round_trip(
        lambda frame: scorer.predict(frame).assign(vector=[[0.5, 0.5]] * len(frame))
    )
    assert "query vectors are (6, 2), those of training (6, " in problems[0]
    problems, _ = scorer.round_trip(
        lambda frame: scorer.predict(frame).assign(vector=[[float("nan")] * 96] * len(frame))
    )
    assert "query vectors differ" in problems[0], "a vector of NaN is no vector of training"
    examples = bundle.examples
    turned = examples.with_columns(pl.col("image_vector").list.reverse())
    turned.write_parquet(bundle.encoder / "examples.parquet")
    problems, _ = QueryScorer(bundle, scorer.model).round_trip(scorer.predict)
    assert [problem.split(" by ")[0] for problem in problems] == [
        "image vectors differ from those of training"
    ]


def test_another_encoder_is_refused_wherever_it_is_named(
    bundle: SystemBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_clip(tmp_path / "other")
    words = rf"was trained on the encoder {miniature().id}, but .*other holds .*; name the right one with S"
    with pytest.raises(RegistryError, match=words):
        bundle.load(str(tmp_path / "other"), "cpu")
    monkeypatch.setenv(ENCODER_VARIABLE, str(tmp_path / "other"))
    with pytest.raises(RegistryError, match=words):
        bundle.load(device="cpu")
    assert bundle.load(str(WEIGHTS), "cpu").encoder.id == miniature().id, "model_config comes first"
    monkeypatch.setenv(ENCODER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(RegistryError, match=r"SETR_ENCODER = .*nowhere.*: there is no such folder"):
        bundle.load(device="cpu")


def test_an_encoder_that_moved_is_found_below_the_package_or_asked_for(bundle: SystemBundle) -> None:
    path = bundle.encoder / "encoder.json"
    values = json.loads(path.read_text())
    assert values["relative"] == "setr_lib/miniature/weights/clip"
    path.write_text(json.dumps(values | {"path": "/gone"}))
    assert bundle.load(device="cpu").encoder.id == miniature().id
    path.write_text(json.dumps(values | {"path": "/gone", "relative": None}))
    with pytest.raises(RegistryError, match=r"is not in /gone; say where it is with SETR_ENCODER=FOLDER"):
        bundle.load(device="cpu")


def test_a_bundle_names_no_code_to_run(bundle: SystemBundle) -> None:
    path = bundle.encoder / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "my_module:Space"}))
    with pytest.raises(RegistryError, match=r"'my_module:Space'; a bundle may name .*open_clip"):
        bundle.load(device="cpu")


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("encoder/encoder.json", lambda bundle: bundle.reference),
        ("encoder/examples.parquet", lambda bundle: bundle.examples),
        ("system/held_out.parquet", lambda bundle: held_out_of(bundle.system)),
    ],
)
@pytest.mark.parametrize("is_gone", [True, False])
def test_what_is_damaged_is_told_in_words(bundle: SystemBundle, file: str, read: Any, is_gone: bool) -> None:
    path = bundle.system.parent / file
    path.unlink() if is_gone else path.write_bytes(b"{ damaged")
    with pytest.raises(RegistryError) as refused:
        read(bundle)
    fault = "is missing" if is_gone else "is cut or overwritten"
    assert str(refused.value).startswith(f"{path}: {fault}: run `setr repair registry`")


def test_held_out_triplets_and_their_ranks_are_in_the_bundle(bundle: SystemBundle, made: Any) -> None:
    found = held_out_of(bundle.system)
    assert found.columns == ["split", "reference_id", "modification", "target_id", "rank"]
    assert found.height == 6 and found["rank"].min() == 1
    assert torch.tensor(found["rank"].to_list()).max() <= 5, "five images besides the reference"
