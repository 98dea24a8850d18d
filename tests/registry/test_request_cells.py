"""The registered re-ranker and strangers: a bad cell is its row's short error, through MLflow's own door,
too.
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from setr_lib.registry import request_cells
from setr_lib.registry.bundle import base_reference, write_bundle
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.image_roots import ImageRoots, NoPictureError
from setr_lib.registry.request_cells import LIMITS, CellError, RequestCells, RequestLimits
from setr_lib.registry.serving import PairScorer
from setr_lib.reranking.training import train_adapter
from setr_lib.settings import JudgeSettings
from tests.registry import hostile_cells as hostile
from tests.registry.hostile_cells import Cell
from tests.reranking import judge_worlds as worlds

LIMIT = {"max_image_bytes": hostile.MEGABYTE}
THIN = hostile.encoded(Image.new("RGB", (2100, 10), (200, 30, 30)))


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files may be named, and what lies beside it."""
    folder = tmp_path_factory.mktemp("served")
    root = folder / "root"
    (root / "folder").mkdir(parents=True)
    (root / "picture.png").write_bytes(hostile.GOOD)
    (root / "folder" / "picture.png").write_bytes(hostile.GOOD)
    (root / "text.png").write_text("no picture")
    (root / "large.png").write_bytes(hostile.GOOD + bytes(2 * hostile.MEGABYTE))
    (folder / "secret.png").write_bytes(hostile.GOOD)
    (root / "loop").symlink_to("loop2")
    (root / "loop2").symlink_to("loop")
    (root / "inside.png").symlink_to("folder/../picture.png")
    (root / "absolute.png").symlink_to(root / "folder" / "picture.png")
    (root / "linked").symlink_to("folder")
    (root / "out.png").symlink_to("../secret.png")
    (root / "outside").symlink_to(folder)
    (root / "zero").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe")
    return root


class Trained:
    """A trained adapter of a tiny Qwen, which refuses thin pictures."""

    def __init__(self, folder: Path) -> None:
        self.judge = worlds.load_tiny_judge(folder / "judge", "qwen2_5_vl")
        self.result = train_adapter(
            self.judge,
            worlds.pairs(groups=12, held_out=4),
            worlds.pictures(),
            worlds.settings(epochs=1.0),
            folder / "run",
        )
        self.reference = base_reference(
            self.judge.model, JudgeSettings(name=str(folder / "judge")), str(folder / "judge")
        )
        self.bundle = write_bundle(
            folder / "bundle", self.result, self.reference, self.judge.template, worlds.pictures()
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def scorer(trained: Trained, roots: Path) -> PairScorer:
    artifacts = {name: str(path) for name, path in trained.bundle.items()}
    return PairScorer.load(artifacts, {"image_roots": [str(roots)], "device": "cpu", **LIMIT})


def row(reference: Any = hostile.GOOD, text: Any = "make it red", candidate: Any = None) -> dict[str, Any]:
    candidate = hostile.tiny_picture(3) if candidate is None else candidate
    return {"reference": reference, "modification": text, "candidate": candidate}


def frame_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = {name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]}
    return pd.DataFrame(columns).set_index(pd.Index([f"r{n}" for n in range(len(rows))]))


def check(error: str, column: str, cell: Cell, roots: Path) -> None:
    assert error.startswith(f"{column}: ") and cell.words in error, error
    assert len(error) <= 200 and "\n" not in error
    for part in (str(roots), roots.parent.name, "Errno", "Traceback", "0x7f"):
        assert part not in error


def test_bad_rows_have_their_error_and_good_rows_score_as_alone(scorer: PairScorer, roots: Path) -> None:
    good = [row(), row(text="blue"), row("picture.png"), row(reference=hostile.tiny_picture(5))]
    expected = scorer.predict(frame_of(good))
    assert list(expected.columns) == ["score", "p_yes", "error"]
    assert set(expected["error"]) == {None}
    np.testing.assert_allclose(expected["p_yes"], 1 / (1 + np.exp(-expected["score"])), atol=1e-6)
    bad = [
        *(("reference", cell, row(reference=cell.value)) for cell in (*hostile.PICTURES, *hostile.NAMES)),
        *(("modification", cell, row(text=cell.value)) for cell in (*hostile.TEXTS, *hostile.EMPTY)),
        ("candidate", Cell("thin", THIN, "the model's processor refuses"), row(candidate=THIN)),
        ("reference", Cell("thin", THIN, "the model's processor refuses"), row(reference=THIN)),
        ("candidate", Cell("pixels", b"x", "no readable picture"), row(candidate=b"x")),
    ]
    rows, places = [*(found for _, _, found in bad)], []
    for number, found in enumerate(good):
        places.append(len(rows) * number // len(good) + number)
        rows.insert(places[-1], found)
    answer = scorer.predict(frame_of(rows))
    assert list(answer.index) == [f"r{n}" for n in range(len(rows))]
    for name in ("score", "p_yes"):
        np.testing.assert_array_equal(answer[name].iloc[places], expected[name])
    assert set(answer["error"].iloc[places]) == {None}
    wrong = answer.drop(index=answer.index[places])
    assert not wrong[["score", "p_yes"]].notna().to_numpy().any()
    for (column, cell, _), error in zip(bad, wrong["error"], strict=True):
        check(error, column, cell, roots)


def test_what_is_wrong_for_all_rows_refuses_the_request(scorer: PairScorer, trained: Trained) -> None:
    frame = frame_of([row()])
    with pytest.raises(RegistryError, match=r"columns \['candidate'\] are missing"):
        scorer.predict(frame.drop(columns="candidate"))
    with pytest.raises(RegistryError, match=r"columns \['reference'\] are there more than once"):
        scorer.predict(pd.concat([frame, frame[["reference"]]], axis=1))
    artifacts = {name: str(path) for name, path in trained.bundle.items()}
    twice = pd.concat([frame, frame_of([row(None)])])
    assert list(twice.index) == ["r0", "r0"] and len(scorer.predict(twice)) == 2
    few = PairScorer(scorer.bundle, scorer.judge, RequestCells(RequestLimits(max_rows=2)))
    assert len(few.predict(frame_of([row(None)] * 2))) == 2
    with pytest.raises(RegistryError, match=r"3 rows, more than the 2 that are allowed"):
        few.predict(frame_of([row(None)] * 3))
    with pytest.raises(RegistryError, match=r"\['roots'\] unknown"):
        PairScorer.load(artifacts, {"roots": ["/"]})


def test_names_inside_of_the_root_are_read_and_absent_and_forbidden_are_one(roots: Path) -> None:
    given = roots.parent / "given"
    if not given.exists():
        given.symlink_to(roots)
    cells = RequestCells(RequestLimits(), ImageRoots.read([str(given)], {}))
    for name in (
        "picture.png",
        "./folder/picture.png",
        "folder/../picture.png",
        "inside.png",
        "absolute.png",
        "linked/picture.png",
        "linked/../picture.png",
        str(roots / "picture.png"),
        str(given / "folder" / "picture.png"),
        Path("picture.png"),
    ):
        assert cells.content(name) == hostile.GOOD
    messages = set()
    for name in ("absent.png", "../secret.png", str(roots.parent / "secret.png"), "/etc/shadow", "out.png"):
        with pytest.raises(CellError) as refused:
            cells.content(name)
        messages.add(str(refused.value))
    assert messages == {"there is no picture of this name"}


def test_no_names_are_read_by_default_and_roots_come_from_who_loads_the_model(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SETR_IMAGE_ROOTS", raising=False)
    assert ImageRoots.read(None).folders == ()
    for name in ("picture.png", str(roots / "picture.png"), "/etc/passwd", "a" * 5000):
        with pytest.raises(CellError, match="no files are read by name here"):
            RequestCells(RequestLimits(), ImageRoots.read(None)).content(name)
    monkeypatch.setenv("SETR_IMAGE_ROOTS", os.pathsep.join(["/nowhere", str(roots)]))
    assert RequestCells(RequestLimits(), ImageRoots.read(None)).content("picture.png") == hostile.GOOD
    with pytest.raises(RegistryError, match="a folder or a list of folders"):
        ImageRoots.read({"root": "/"})


def test_a_file_that_is_exchanged_while_it_is_opened_is_not_followed_out(
    roots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a name and its opening, the name becomes a link to another folder's file."""
    victim, secret = roots / "folder" / "exchanged.png", roots.parent / "secret.png"
    found = ImageRoots.read([str(roots)], {})
    look = os.stat
    for name, other in (("folder/exchanged.png", secret), ("exchanged/picture.png", roots.parent)):
        victim = roots / Path(name).parts[0] if other.is_dir() else roots / name
        victim.mkdir() if other.is_dir() else victim.write_bytes(hostile.GOOD)

        def exchange(path: Any, *args: Any, victim: Path = victim, other: Path = other, **how: Any) -> Any:
            seen = look(path, *args, **how)
            if path == victim.name:
                victim.rmdir() if victim.is_dir() else victim.unlink()
                victim.symlink_to(other)
            return seen

        with monkeypatch.context() as patch:
            patch.setattr(os, "stat", exchange)
            with pytest.raises(NoPictureError):
                found.contents_of(name, 1 << 20)
        victim.unlink()


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", True, 2.5])
def test_limits_are_whole_numbers_of_the_configuration_or_of_variables(value: Any) -> None:
    for name in LIMITS:
        variable = request_cells.variable_of(name)
        assert getattr(RequestLimits.read({name: None}, {variable: "12"}), name) == 12
        assert getattr(RequestLimits.read({name: 11}, {variable: "12"}), name) == 11
        with pytest.raises(RegistryError, match=f"{name}: a whole number above 0"):
            RequestLimits.read({name: value}, {})
        if isinstance(value, str) and value:
            with pytest.raises(RegistryError, match=f"{variable}: a whole number above 0"):
                RequestLimits.read({}, {variable: value})
    assert RequestLimits.read({}, {}) == RequestLimits()


ANYTHING = st.one_of(
    st.none(),
    st.binary(max_size=60),
    st.text(st.characters(exclude_categories=[]), max_size=60),
    st.floats(),
    st.integers(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([*hostile.PICTURES, *hostile.NAMES, *hostile.TEXTS]).map(lambda cell: cell.value),
    st.binary(max_size=40).map(lambda tail: hostile.GOOD[:-30] + tail),
    st.binary(max_size=40).map(lambda tail: "data:;base64," + base64.b64encode(tail).decode()),
)


@settings(max_examples=150, deadline=None)
@given(ANYTHING)
def test_any_cell_is_read_or_refused_in_words(value: Any) -> None:
    cells = RequestCells(RequestLimits(max_image_bytes=hostile.MEGABYTE), ImageRoots.read(["/usr"], {}))
    for read in (cells.text, lambda cell: cells.picture(cells.content(cell))):
        try:
            read(value)
        except CellError as error:
            words = request_cells.row_error("reference", error)
            assert 0 < len(words) <= 200 and "\n" not in words and "/usr" not in words


@pytest.mark.parametrize(("rules", "seen"), [("", (0, 0, 0)), ("upright,#ffffff", (255, 255, 255))])
def test_a_requests_picture_is_read_as_those_of_the_training_were(
    trained: Trained, tmp_path: Path, rules: str, seen: tuple[int, int, int]
) -> None:
    pictures = {name: replace(picture, pixels=rules) for name, picture in worlds.pictures().items()}
    bundle = write_bundle(
        tmp_path / "bundle", trained.result, trained.reference, trained.judge.template, pictures
    )
    scorer = PairScorer.load({name: str(path) for name, path in bundle.items()})
    transparent = hostile.encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    plain = hostile.encoded(Image.new("RGB", (20, 20), seen))
    scores = scorer.predict(frame_of([row(transparent), row(plain)]))["score"].tolist()
    assert scores[0] == scores[1]
    other = hostile.encoded(Image.new("RGB", (20, 20), (255, 255, 255) if seen[0] == 0 else (0, 0, 0)))
    assert scorer.predict(frame_of([row(other)]))["score"].item() != scores[0]
