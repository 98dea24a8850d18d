"""A registered retrieval system and strangers: a bad cell is its row's short error, the other rows have the
vectors that they have alone; through MLflow's own door, too.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from encoders import miniature
from PIL import Image
from small_lessons import lesson_of, small_data

import setr_lib
from setr_lib.pixels import as_picture_file
from setr_lib.registry import system_serving
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.request_cells import RequestCells, RequestLimits
from setr_lib.registry.system_bundle import encoder_reference, example_frame, write_system_bundle
from setr_lib.registry.system_model import signature
from setr_lib.registry.system_serving import CONFIG_KEYS, QueryScorer
from setr_lib.systems.bundle import SystemRecord
from setr_lib.systems.held_out import encoded_images, encoded_queries
from setr_lib.systems.training import train_system
from tests.registry import hostile_cells as hostile

WEIGHTS = f"local-dir:{Path(setr_lib.__file__).parent / 'miniature' / 'weights' / 'clip'}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundle of a ``prompt_tuned`` that was trained for a step."""
    folder = tmp_path_factory.mktemp("system")
    data, encoder = small_data(folder / "pictures"), miniature()
    lesson = lesson_of("prompt_tuned", data, steps=1)
    result = train_system(lesson, folder / "training")
    held_out, features = data.held_out, lesson.features
    references, texts = held_out["reference_id"].to_list(), held_out["modification"].to_list()
    record = SystemRecord(
        system="prompt_tuned",
        options=lesson.model.options.model_dump(mode="json"),
        encoder_id=encoder.id,
        preprocessing_id=encoder.preprocessing_id,
        run=lesson.run,
    )
    examples = example_frame(
        [Path(as_picture_file(features.paths[image]).path).read_bytes() for image in references],
        texts,
        encoded_queries(lesson.model, features, references, texts),
        encoded_images(lesson.model, features, references),
    )
    reference = encoder_reference(encoder, "open_clip", {"name": WEIGHTS, "pretrained": None}, WEIGHTS)
    return write_system_bundle(folder / "bundle", record, result, reference, examples, held_out)


@pytest.fixture(scope="module")
def scorer(made: dict[str, Path]) -> QueryScorer:
    artifacts = {name: str(path) for name, path in made.items()}
    found = QueryScorer.load(artifacts, {"device": "cpu", "max_image_bytes": hostile.MEGABYTE})
    found.model.encoder.batch_size = 3
    return found


def row(reference: Any = hostile.GOOD, text: Any = "make it red") -> dict[str, Any]:
    return {"reference": reference, "modification": text}


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = {name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]}
    return pd.DataFrame(columns).set_index(pd.Index([f"r{n}" for n in range(len(rows))]))


def test_bad_rows_have_their_error_and_good_rows_their_vectors(
    scorer: QueryScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [row(hostile.tiny_picture(n), text) for n, text in enumerate(["red", "", "blue", "a", "b"])]
    expected = scorer.predict(frame_of(good))
    assert list(expected.columns) == ["vector", "error"]
    assert set(expected["error"]) == {None}
    refused = hostile.tiny_picture(9, (90, 30))
    prepare = scorer.model.encoder.preprocess

    def refuses(image: Any) -> Any:
        if image.size == (90, 30):
            raise ValueError(f"no such size\nin {__file__}")
        return prepare(image)

    monkeypatch.setattr(scorer.model.encoder, "preprocess", refuses)
    named = hostile.Cell("a name", "picture.png", "no files are read by name here")
    long = hostile.Cell("a long name", "a" * hostile.MEGABYTE, "no files are read by name here")
    bad = [
        *(("reference", cell, row(cell.value)) for cell in (*hostile.PICTURES, named, long)),
        *(("modification", cell, row(text=cell.value)) for cell in hostile.TEXTS),
        (
            "reference",
            hostile.Cell("refused", refused, "the preprocessing of the encoder refuses"),
            row(refused),
        ),
    ]
    rows, places = [*(found for _, _, found in bad)], []
    for number, found in enumerate(good):
        places.append(len(rows) * number // len(good) + number)
        rows.insert(places[-1], found)
    answer = scorer.predict(frame_of(rows))
    assert answer["vector"].iloc[places].to_list() == expected["vector"].to_list()
    assert set(answer["error"].iloc[places]) == {None}
    wrong = answer.drop(index=answer.index[places])
    assert set(wrong["vector"]) == {None}
    for (column, cell, _), error in zip(bad, wrong["error"], strict=True):
        assert error.startswith(f"{column}: ") and cell.words in error and len(error) <= 200, error
        assert "\n" not in error and str(Path(__file__).parent) not in error
    assert list(scorer.predict(frame_of(good[:1]).loc[["r0", "r0"]]).index) == ["r0", "r0"]
    few = QueryScorer(scorer.bundle, scorer.model, RequestCells(RequestLimits(max_rows=2)))
    with pytest.raises(RegistryError, match=r"3 rows, more than the 2"):
        few.predict(frame_of([row(None)] * 3))


def test_a_text_that_the_model_refuses_is_its_rows_error(
    scorer: QueryScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = scorer.model.encode_queries

    def refuses(features: Any, texts: list[str]) -> Any:
        if "refused" in texts:
            raise IndexError("token 99 is out of bounds")
        return encode(features, texts)

    good = [row(text="red"), row(text="blue")]
    expected = scorer.predict(frame_of(good))
    monkeypatch.setattr(scorer.model, "encode_queries", refuses)
    answer = scorer.predict(frame_of([good[0], row(text="refused"), good[1]]))
    assert answer["vector"].iloc[[0, 2]].to_list() == expected["vector"].to_list()
    assert "token 99 is out of bounds" in answer["error"].iloc[1] and answer["vector"].iloc[1] is None

    def fails(*_: Any) -> Any:
        raise RuntimeError("weights overflow")

    monkeypatch.setattr(scorer.model, "encode_queries", fails)
    with pytest.raises(RuntimeError, match="weights overflow"):
        scorer.predict(frame_of(good))


def test_through_mlflow_nulls_and_base64_are_rows_of_their_own(made: dict[str, Path], tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.pyfunc.scoring_server import invocations

    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=str(Path(system_serving.__file__).with_name("pyfunc_system.py")),
        artifacts={name: str(path) for name, path in made.items()},
        signature=signature(),
        pip_requirements=["mlflow"],
        model_config=dict.fromkeys(CONFIG_KEYS),
    )
    config = {"device": "cpu", "max_rows": 10}
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config=config)
    scorer: QueryScorer = model.unwrap_python_model().scorer
    assert scorer.round_trip(model.predict)[0] == [], "as the gate before registration calls it"
    answer = model.predict(frame_of([row(), row(None), row(text=float("nan")), row(b"")]))
    assert [error is None for error in answer["error"]] == [True, False, False, False]
    assert answer["vector"].iloc[1] is None
    with pytest.raises(Exception, match="11 rows, more than the 10"):
        model.predict(frame_of([row()] * 11))
    good = base64.encodebytes(hostile.GOOD).decode()
    sent = [row(good), row(""), row(good, None)]  # MLflow takes a picture's column for base64
    given = invocations(
        json.dumps({"dataframe_records": sent}), "application/json", model, model.metadata.get_input_schema()
    )
    first, *wrong = json.loads(given.response)["predictions"]
    np.testing.assert_allclose(first["vector"], answer["vector"].iloc[0], atol=1e-6)
    assert first["error"] is None and all(line["vector"] is None and line["error"] for line in wrong)


def test_a_requests_picture_is_read_as_those_of_the_training_were(
    made: dict[str, Path], scorer: QueryScorer, tmp_path: Path
) -> None:
    system = tmp_path / "system"
    shutil.copytree(made["system"], system)
    record = json.loads((system / "system.json").read_text())
    (system / "system.json").write_text(json.dumps(record | {"pixels": "upright,#ffffff"}))
    on_white = QueryScorer.load({**{name: str(path) for name, path in made.items()}, "system": str(system)})
    transparent = hostile.encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    black, white = (hostile.encoded(Image.new("RGB", (20, 20), c)) for c in ((0, 0, 0), (255, 255, 255)))
    rows = frame_of([row(each) for each in (transparent, black, white)])
    hidden, shown = scorer.predict(rows)["vector"].tolist(), on_white.predict(rows)["vector"].tolist()
    assert hidden[0] == pytest.approx(hidden[1], abs=1e-6) and hidden[0] != pytest.approx(hidden[2], abs=1e-3)
    assert shown[0] == pytest.approx(shown[2], abs=1e-6)
