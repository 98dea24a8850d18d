"""SETR as a library: from folders of pictures to ranked results, without Dagster and MLflow, in threads."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import setr_lib
from setr_lib import Retriever, SearchResult, SetrError, Settings
from setr_lib.methods.inputs import MethodInputs
from setr_lib.methods.method import CATALOGUE, VectorMethod, register
from setr_lib.methods.similarity import similarity
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.held_gallery import HeldGallery
from setr_lib.pipeline.reranking import WantedReranker, wanted_reranker
from setr_lib.reranking.reranker import JudgedQuery
from setr_lib.settings import load_settings
from tests.tiny_encoder import write_tiny_clip
from tests.tiny_judges import tiny_picture, write_tiny_judge

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "docs" / "examples" / "search_folders.py"
SETTINGS = """
[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"

[models.judge]
name = "judge"
max_new_tokens = 4

[reranking]
top_k = 6
"""
BLOCKED = """
import runpy, sys

for name in ("dagster", "mlflow", "setr_assets"):
    sys.modules[name] = None  # Python's own way: importing it fails, looking for it finds nothing
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``setr.toml``, a gallery of eight pictures, two references and tiny models."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("gallery", "references"):
        (folder / name).mkdir()
    for number in range(8):
        (folder / "gallery" / f"{number}.png").write_bytes(tiny_picture(number))
    for number in (3, 11):
        (folder / "references" / f"{number}.png").write_bytes(tiny_picture(number))
    (folder / "setr.toml").write_text(SETTINGS, encoding="utf-8")
    write_tiny_clip(folder / "clip")
    write_tiny_judge("llava", folder / "judge")
    return folder


@pytest.fixture(scope="module")
def settings(project: Path) -> Iterator[Settings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETR_STORAGE__ROOT", "var-in-process")
        yield load_settings(project / "setr.toml")


@pytest.fixture(scope="module")
def retriever(project: Path, settings: Settings) -> Retriever:
    return Retriever.from_folder(project / "gallery", settings)


def ranked(found: SearchResult) -> list[tuple[str, float]]:
    return [(hit.image_id, hit.score) for hit in found]


def test_the_example_ranks_two_folders_without_dagster_and_mlflow(project: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OMP_NUM_THREADS") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(EXAMPLE), "gallery", "references", "the same, but red"],
        cwd=project,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(name, rank) for name, rank, _, _ in lines] == [
        (name, str(rank)) for name in ("11.png", "3.png") for rank in range(1, 6)
    ]
    assert "3.png" not in [image for name, _, image, _ in lines if name == "3.png"]
    assert not list(project.glob("**/*.db"))


def test_the_example_is_as_short_as_it_is_said_to_be() -> None:
    body = EXAMPLE.read_text(encoding="utf-8").split('"""')[2:]
    code = [line for line in "".join(body[::2]).splitlines() if line.strip()]
    assert len([line for line in code if "import" not in line and "main" not in line]) < 10


def test_what_the_package_offers_is_there() -> None:
    for name in setr_lib.__all__:
        assert getattr(setr_lib, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = setr_lib.Nothing


def test_a_file_its_bytes_and_the_opened_image_are_one_query(project: Path, retriever: Retriever) -> None:
    file = project / "references" / "11.png"
    answers = [
        retriever.search(image, "make it red", k=4)
        for image in (file, str(file), file.read_bytes(), Image.open(io.BytesIO(file.read_bytes())))
    ]
    assert len({tuple(ranked(found)) for found in answers[:3]}) == 1
    assert [image for image, _ in ranked(answers[3])] == [image for image, _ in ranked(answers[0])]
    assert (answers[0].method, answers[0].reranker) == ("intersection", "base judge")
    assert all(hit.judge_score is not None for hit in answers[0])
    assert answers[0].target_caption


def test_stage_1_alone_loads_no_multimodal_model(project: Path, settings: Settings) -> None:
    elsewhere = settings.model_copy(deep=True)
    elsewhere.models.judge.name = "no/such-model"
    retriever = Retriever.from_folder(project / "gallery", elsewhere)
    found = retriever.search(project / "references" / "11.png", "red", k=8, method="sum", reranker=None)
    assert found.reranker is None and found.target_caption is None and len(found.hits) == 8
    assert [hit.score for hit in found] == sorted((hit.coarse_score for hit in found), reverse=True)


class ByName:
    """A re-ranker without a model: the larger number in a file's name first."""

    name, id = "by name", "1"

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        return [
            np.array([float(Path(str(picture.source)).stem) for picture in query.candidates])
            for query in queries
        ]


@pytest.mark.parametrize(
    ("rerankers", "wanted", "found"),
    [
        (["base judge", "adapter"], "best", "base judge"),
        ([f"{__name__}:ByName"], "best", "by name"),
        (["adapter", f"{__name__}:ByName", "base judge"], "best", "by name"),
        (["adapter"], "best", None),
        ([], "best", None),
        (["base judge"], "none", None),
        (["base judge"], "coarse", None),
        ([f"{__name__}:ByName"], "base judge", "base judge"),
    ],
)
def test_the_best_re_ranker_is_one_of_those_that_settings_name(
    project: Path, settings: Settings, rerankers: list[str], wanted: str, found: str | None
) -> None:
    chosen = settings.model_copy(deep=True)
    chosen.reranking.rerankers = rerankers
    retriever = Retriever.from_folder(project / "gallery", chosen)
    # What is not re-ranked may be longer than what a re-ranker is given.
    k = 3 if found else 8
    result = retriever.search(tiny_picture(11), "red", k=k, method="sum", reranker=wanted)
    assert (result.reranker, len(result.hits)) == (found, k)
    assert all((hit.judge_score is None) == (found is None) for hit in result)


def test_the_adapter_is_best_where_it_is_named_and_promoted(
    project: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PipelineContext, "champion_version", lambda _, model=None: "4")
    for rerankers, best in (
        (["base judge", "adapter"], WantedReranker("adapter", "4")),
        (["base judge"], WantedReranker("base judge")),
    ):
        chosen = settings.model_copy(deep=True)
        chosen.reranking.rerankers = rerankers
        assert wanted_reranker(PipelineContext(chosen), "best") == best


def test_the_reference_and_its_copies_are_no_answers(
    project: Path, settings: Settings, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"{number}.png").write_bytes(tiny_picture(number))
    (tmp_path / "copy of 3.png").write_bytes(tiny_picture(3))
    retriever = Retriever.from_folder(tmp_path, settings)
    found = retriever.search(tmp_path / "3.png", "make it red", k=3, method="image", reranker=None)
    assert sorted(hit.image_id for hit in found) == ["1.png", "2.png"]
    assert [hit.rank for hit in found] == [1, 2]


def test_a_folder_is_embedded_once_and_only_what_is_new_after_that(
    settings: Settings, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []

    def listen(done: int, total: int, what: str) -> None:
        if "embedded" in what:
            told.append((done, total))

    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(tiny_picture(number))
    Retriever.from_folder(tmp_path, settings, listen)
    assert told[-1] == (3, 3)
    told.clear()
    (tmp_path / "3.png").write_bytes(tiny_picture(30))
    retriever = Retriever.from_folder(tmp_path, settings, listen)
    assert told[-1] == (1, 1)
    found = retriever.search(tiny_picture(99), "red", k=10, method="sum", reranker=None)
    assert len(found.hits) == 4


class Opposite(VectorMethod):
    """A vector method that scores in another way: the farthest image first."""

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return -similarity(self.query_vectors(inputs), inputs.gallery.vectors)


def away_from_the_mean(inputs: MethodInputs) -> np.ndarray:
    return inputs.queries.reference_vectors - inputs.gallery.center


@pytest.fixture(scope="module")
def crowd(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Retriever]]:
    """Two retrievers, with vectors held and not, over two galleries with copies and a broken file."""
    folder = tmp_path_factory.mktemp("crowd")
    for number in range(16):
        (folder / f"{number:02d}.png").write_bytes(tiny_picture(number))
    for copy in ("a copy's copy.png", "copy.png", "zz.png"):
        (folder / copy).write_bytes(tiny_picture(3))
    for number, picture in ((20, 21), (22, 21), (23, 21), (24, 25), (26, 25)):
        (folder / f"{number}.png").write_bytes(tiny_picture(picture))
    (folder / "broken.png").write_bytes(b"no picture")
    listed = Retriever.from_folder(folder, settings).gallery
    few = ["broken.png", "03.png", "copy.png", "04.png", "24.png", "26.png"]
    names = [["all", "few"] if image in few else ["all", "many"] for image in listed.images["image_id"]]
    images = listed.images.with_columns(galleries=pl.Series(names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CATALOGUE, "_own", {})
        register(VectorMethod("away_from_the_mean", away_from_the_mean))
        register(Opposite("opposite", lambda inputs: inputs.queries.reference_vectors))
        yield [
            Retriever(
                HeldGallery(listed.context, listed.evaluation_set, images, is_folder=True, hold_vectors=held)
            )
            for held in (True, False)
        ]


METHODS_SEARCHED = ("image", "text", "sum", "union_text", "product", "away_from_the_mean", "opposite")


@pytest.mark.parametrize("gallery", [None, "few", "many"])
@pytest.mark.parametrize("method", METHODS_SEARCHED)
def test_answers_are_the_same_whether_vectors_are_held_or_not(
    crowd: list[Retriever], method: str, gallery: str | None
) -> None:
    held, unheld = crowd
    whole = {"method": method, "gallery": gallery, "reranker": None}
    references = [tiny_picture(number) for number in (3, 21, 99)]  # with copies in the gallery, and without
    expected = [held.search(image, "make it red", k=k, **whole) for image in references for k in (4, 40)]
    answers = [unheld.search(image, "make it red", k=k, **whole) for image in references for k in (4, 40)]
    assert all(found.hits for found in answers)
    for found, wanted in zip(answers, expected, strict=True):
        assert [hit.image_id for hit in found] == [hit.image_id for hit in wanted]
        assert found.coarse.equals(wanted.coarse) and found.coarse.schema == wanted.coarse.schema
        assert (found.target_caption, found.method) == (wanted.target_caption, wanted.method)
        assert "broken.png" not in found.coarse["image_id"]


def test_a_gallery_of_nothing_but_the_reference_has_no_answer(settings: Settings, tmp_path: Path) -> None:
    for name in ("1.png", "copy.png"):
        (tmp_path / name).write_bytes(tiny_picture(1))
    for hold_vectors in (True, False):
        retriever = Retriever.from_folder(tmp_path, settings, hold_vectors=hold_vectors)
        found = retriever.search(tmp_path / "1.png", "make it red", k=3, method="sum", reranker=None)
        assert found.hits == [] and found.coarse.is_empty()


def test_a_retriever_that_holds_no_vectors_re_ranks_the_same(project: Path, retriever: Retriever) -> None:
    unheld = Retriever.from_folder(project / "gallery", retriever.context.settings, hold_vectors=False)
    image = project / "references" / "3.png"
    found, wanted = (searching.search(image, "make it red", k=5) for searching in (unheld, retriever))
    assert [hit.image_id for hit in found] == [hit.image_id for hit in wanted]
    assert [hit.judge_score for hit in found] == [hit.judge_score for hit in wanted]


def test_threads_get_the_answers_that_one_thread_gets(project: Path, retriever: Retriever) -> None:
    texts = ["make it red", "is blue", "with a large circle", "is striped"] * 2
    image = (project / "references" / "11.png").read_bytes()
    alone = [ranked(retriever.search(image, text, k=5)) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: ranked(retriever.search(image, text, k=5)), texts))
    for found, wanted in zip(together, alone, strict=True):
        assert [name for name, _ in found] == [name for name, _ in wanted]
        np.testing.assert_allclose(
            [score for _, score in found], [score for _, score in wanted], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("image", "text", "options", "words"),
    [
        (tiny_picture(1), "  ", {}, "text is empty"),
        (tiny_picture(1), None, {}, "modification text is None: say what"),
        (tiny_picture(1), ["red"], {}, r"modification text is \['red'\]: say what"),
        *(
            (tiny_picture(1), "red", {"k": k}, rf"k = {k!r}: .*a whole number from 1")
            for k in (0, -3, 2.5, True, None, "3")
        ),
        (12, "red", {"k": 3}, "reference image is 12: give a file"),
        (None, "red", {"k": 3}, "reference image is None: give a file"),
        (
            "~nobody-of-this-name/1.png",
            "red",
            {"k": 3},
            "this-name/1.png: Could not determine home",
        ),
        ("", "red", {"k": 3}, "reference image is"),
        (b"no picture", "red", {"k": 3}, "reference image is broken"),
        ("nowhere.png", "red", {"k": 3}, "nowhere.png: the reference image is missing"),
        (tiny_picture(1), "red", {"k": 7}, "only the first 6 are re-ranked"),
        (tiny_picture(1), "red", {"k": 3, "method": "captions_text"}, "ranks captions"),
        (tiny_picture(1), "red", {"k": 3, "method": "nobody"}, "there is no retrieval method 'nobody'"),
        (
            tiny_picture(1),
            "red",
            {"gallery": "dress", "method": "sum", "reranker": None},
            "no gallery 'dress'",
        ),
    ],
)
def test_what_cannot_be_searched_is_said(
    retriever: Retriever, image: object, text: object, options: dict[str, object], words: str
) -> None:
    with pytest.raises(SetrError, match=words):
        retriever.search(image, text, **options)  # pyright: ignore[reportArgumentType]


def test_bytes_may_be_mutable_and_k_of_numpy(retriever: Retriever) -> None:
    picture = tiny_picture(1)
    found = retriever.search(bytearray(picture), "red", k=np.int64(3), method="sum", reranker=None)  # pyright: ignore[reportArgumentType]
    assert ranked(found) == ranked(retriever.search(picture, "red", k=3, method="sum", reranker=None))


def test_a_picture_that_pillow_cannot_decode_is_said(retriever: Retriever) -> None:
    cut = io.BytesIO(tiny_picture(1)[:60])
    with pytest.raises(SetrError, match="reference image cannot be read"):
        retriever.search(Image.open(cut), "red", k=3)


def test_a_folder_without_images_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SetrError, match="there is no such folder"):
        Retriever.from_folder(tmp_path / "none", settings)
    with pytest.raises(SetrError, match="~nobody-of-this-name/x: Could not determine home"):
        Retriever.from_folder("~nobody-of-this-name/x", settings)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(SetrError, match="none of its 1 files can be read"):
        Retriever.from_folder(tmp_path, settings)
