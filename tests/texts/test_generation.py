"""Captions and compositions: one call per unique input, failures visible, and nothing lost to a SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.content_cache import ContentCache
from setr_lib.hashing import fingerprint_file
from setr_lib.models.multimodal import MultimodalModel, RenderedPrompt, Request
from setr_lib.settings import JudgeSettings
from setr_lib.tables import CAPTIONS, COMPOSITIONS, GALLERY, QUERIES
from setr_lib.texts.answers import Answer, Phrases, Text
from setr_lib.texts.generation import CACHE_KIND, Generator, compose_queries, describe_images, generate
from setr_lib.texts.kind import TextKind, TextKindError
from setr_lib.texts.prompts import PromptError, PromptSet, load_prompts
from tests.tiny_judges import tiny_picture, write_tiny_judge

IMAGES = 6

REPOSITORY = Path(__file__).parents[2]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def gallery_frame(folder: Path) -> pl.DataFrame:
    rows = []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        path.write_bytes(tiny_picture(number % 5))  # the last is a copy of the first
        rows.append(
            {
                "image_id": f"i{number}",
                "path": str(path),
                "galleries": ["all"],
                "status": "ok",
                "detail": "",
                "fingerprint": fingerprint_file(path),
            }
        )
    rows.append({"image_id": "gone", "path": "gone.png", "status": "missing", "detail": "no such file"})
    return pl.DataFrame(rows, schema=GALLERY)


def queries_frame(texts: dict[str, tuple[str, str]]) -> pl.DataFrame:
    rows = [
        {"query_id": name, "reference_id": reference, "modification": text, "captions": [text]}
        for name, (reference, text) in texts.items()
    ]
    return pl.DataFrame(rows, schema=QUERIES)


@pytest.fixture
def model(tmp_path: Path) -> MultimodalModel:
    folder = write_tiny_judge("llava", tmp_path / "judge")
    settings = JudgeSettings(name=str(folder), batch_size=2, max_new_tokens=4)
    return MultimodalModel.load(settings, device="cpu")


@pytest.fixture
def prompts() -> PromptSet:
    return load_prompts("miniature")


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache.sqlite", CACHE_KIND)


def count_answers(model: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> list[RenderedPrompt]:
    """The prompts that the model answers from now on."""
    asked: list[RenderedPrompt] = []
    answers = model.answers

    def counted(requests: list[Request]) -> Iterator[tuple[int, str]]:
        for place, answer in answers(requests):
            asked.append(requests[place][0])
            yield place, answer

    monkeypatch.setattr(model, "answers", counted)
    return asked


def answer_by(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch, answer: Callable[[RenderedPrompt], str]
) -> list[Request]:
    """Have the model answer as a function says; what it is asked."""
    asked: list[Request] = []

    def answers(requests: list[Request]) -> Iterator[tuple[int, str]]:
        asked.extend(requests)
        return enumerate(answer(prompt) for prompt, _ in requests)

    monkeypatch.setattr(model, "answers", answers)
    return asked


def test_captions(
    model: MultimodalModel,
    prompts: PromptSet,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery, asked = gallery_frame(tmp_path), count_answers(model, monkeypatch)
    seen: list[tuple[int, int]] = []
    made = describe_images(
        model, prompts, gallery, cache, lambda done, total, what: seen.append((done, total))
    )
    assert made.schema == CAPTIONS
    assert made["image_id"].to_list() == gallery["image_id"].to_list()
    captions = dict(made.select("image_id", "caption").iter_rows())
    assert captions["i5"] == captions["i0"] != ""
    gone = made.row(by_predicate=pl.col("image_id") == "gone", named=True)
    assert gone["status"] == "failed" and "no such file" in gone["detail"]
    assert len(asked) == 5, "five different pictures"
    assert seen[-1] == (5, 5)
    assert describe_images(model, prompts, gallery, cache).equals(made)
    assert len(asked) == 5, "the second run asks the model nothing"


def test_a_picture_that_breaks_between_stages_fails_alone(
    model: MultimodalModel, prompts: PromptSet, cache: ContentCache, tmp_path: Path
) -> None:
    gallery = gallery_frame(tmp_path)
    (tmp_path / "1.png").write_bytes(b"broken")
    made = describe_images(model, prompts, gallery, cache)
    failed = made.filter(pl.col("status") == "failed")
    assert failed["image_id"].to_list() == ["i1", "gone"]
    assert "1.png" in failed["detail"][0]


def test_compositions_and_fallbacks(
    model: MultimodalModel,
    prompts: PromptSet,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = {
        "keep": ["circle"],
        "add": ["red"],
        "remove": [],
        "drop": ["x"],
        "target_caption": "A red  circle",
    }
    queries = queries_frame(
        {
            "good": ("i0", "make it red"),
            "bad": ("i1", "make it blue"),
            "twin": ("i5", "make it red"),
            "gone": ("gone", "red"),
            "unknown": ("?", "red"),
        }
    )
    asked = answer_by(
        model,
        monkeypatch,
        lambda prompt: json.dumps(good) if "make it red" in str(prompt) else '{"keep": [',
    )
    made = compose_queries(model, prompts, queries, gallery_frame(tmp_path), cache, "cirr")
    assert made.schema == COMPOSITIONS
    assert made["query_id"].to_list() == queries["query_id"].to_list()
    assert len(asked) == 2, "a query of the same picture and text costs nothing"
    assert made["status"].to_list() == ["ok", "fallback", "ok", "fallback", "fallback"]
    assert made["target_caption"].to_list() == ["A red circle", "make it blue", "A red circle", "red", "red"]
    assert made["keep"].to_list() == [["circle"], [], ["circle"], [], []]
    assert '{"keep": [' in made["detail"][1] and "gone" in made["detail"][3]


def test_the_cache_knows_the_text_the_prompt_and_the_data_set(
    model: MultimodalModel,
    prompts: PromptSet,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery, asked = gallery_frame(tmp_path), count_answers(model, monkeypatch)
    queries = queries_frame({"q": ("i0", "make it red")})
    other = tmp_path / "prompts"
    other.mkdir()
    (other / "compose.jinja").write_text("<reference>{{ modification }} : compose")
    for prompt_set, frame in (
        (prompts, queries),
        (prompts, queries_frame({"q": ("i0", "make it blue")})),
        (load_prompts(str(other)), queries),
        (prompts, queries_frame({"q": ("i1", "make it red")})),
        (prompts, queries.with_columns(query_id=pl.lit("renamed"))),
    ):
        compose_queries(model, prompt_set, frame, gallery, cache)
    assert len(asked) == 4, "the renamed query is the first again"


def run(folder: Path, last: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both tables of the world in ``folder``; SIGKILLs itself at answer ``last``, before that is stored."""
    settings = JudgeSettings(name=str(folder / "judge"), batch_size=4, max_new_tokens=4)
    model = MultimodalModel.load(settings, device="cpu")
    answers, log = model.answers, folder / "log"

    def logged(requests: list[Request]) -> Iterator[tuple[int, str]]:
        for found in answers(requests):
            with log.open("a") as file:
                file.write("answer\n")
            if len(log.read_text().split()) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            yield found

    model.answers = logged  # pyright: ignore[reportAttributeAccessIssue]
    cache = ContentCache(folder / "cache.sqlite", CACHE_KIND)
    prompts, gallery = load_prompts("miniature"), pl.read_parquet(folder / "gallery.parquet")
    queries = pl.read_parquet(folder / "queries.parquet")
    captions = describe_images(model, prompts, gallery, cache)
    return captions, compose_queries(model, prompts, queries, gallery, cache)


@pytest.mark.soak
def test_sigkill_repeats_what_was_not_stored_yet(tmp_path: Path) -> None:
    made: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
    calls: dict[str, int] = {}
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        write_tiny_judge("llava", folder / "judge")
        gallery_frame(folder).write_parquet(folder / "gallery.parquet")
        queries = {
            f"q{n}": (f"i{n % IMAGES}", f"make it {'red' if n % 2 else 'blue'} {n}") for n in range(10)
        }
        queries_frame(queries).write_parquet(folder / "queries.parquet")
        if name == "killed":  # all captions are stored by then, and seven compositions of ten
            code = (
                "from pathlib import Path; from tests.texts.test_generation import run; "
                f"run(Path({str(folder)!r}), 5 + 8)"
            )
            child = subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY, env=ONE_THREAD)
            assert child.returncode == -signal.SIGKILL
        made[name] = run(folder)
        calls[name] = len((folder / "log").read_text().split())
    assert made["killed"][0].equals(made["whole"][0]) and made["killed"][1].equals(made["whole"][1])
    assert calls == {"whole": 5 + 10, "killed": 5 + 10 + 1}


def test_a_run_that_is_stopped_keeps_what_it_has_answered(
    model: MultimodalModel,
    prompts: PromptSet,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gallery, answers = gallery_frame(tmp_path), model.answers
    model.batch_size = 8  # two answers are stored at a time

    def stopped(requests: list[Request]) -> Iterator[tuple[int, str]]:
        yield from islice(answers(requests), 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model, "answers", stopped)
        with pytest.raises(KeyboardInterrupt):
            describe_images(model, prompts, gallery, cache)
    asked = count_answers(model, monkeypatch)
    describe_images(model, prompts, gallery, cache)
    assert len(asked) == 5 - 3


class Colour(Answer):
    """The colour that a query asks for."""

    colour: Text
    words: Phrases


def colour_kind(**options: Any) -> TextKind:
    return TextKind(
        "colours",
        task="colour",
        per="query",
        answer=Colour,
        after=("captions",),
        variables=lambda row, texts: {
            "modification": row["modification"],
            "caption": texts["captions"]["caption"],
        },
        **options,
    )


def captions_frame() -> pl.DataFrame:
    rows = [{"image_id": f"i{n}", "caption": f"circle {n}", "status": "ok"} for n in range(IMAGES)]
    return pl.DataFrame(rows, schema=CAPTIONS)


def test_a_kind_of_ones_own_is_asked_checked_and_kept(
    model: MultimodalModel,
    prompts: PromptSet,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    red = json.dumps({"colour": "red", "words": ["a  b", ""]})
    asked = answer_by(model, monkeypatch, lambda prompt: red if "red" in str(prompt.parts[-1]) else "no JSON")
    kind = colour_kind(prompt="<reference>{{ caption }} {{ modification }}")
    queries = queries_frame({"good": ("i0", "red"), "bad": ("i1", "blue"), "gone": ("gone", "red")})
    gallery, generator = gallery_frame(tmp_path), Generator(model, prompts, cache)
    made = generate(kind, generator, queries, gallery, {"captions": captions_frame()})
    assert made.schema == kind.schema and made["query_id"].to_list() == ["good", "bad", "gone"]
    assert made.row(0, named=True)["colour"] == "red" and made["words"].to_list() == [["a b"], [], []]
    assert made["status"].to_list() == ["ok", "failed", "failed"]
    assert "not one JSON object" in made["detail"][1] and "not readable" in made["detail"][2]
    assert [prompt.parts[-1] for prompt, _ in asked] == ["circle 0 red", "circle 1 blue"]
    assert generate(kind, generator, queries, gallery, {"captions": captions_frame()}).equals(made)
    assert len(asked) == 2, "the second time nothing is asked"
    other = captions_frame().with_columns(caption=pl.lit("another"))
    generate(kind, generator, queries[:1], gallery, {"captions": other})
    assert len(asked) == 3, "a text that is made from another is made anew when that changes"


def test_a_text_may_be_asked_without_the_picture(
    model: MultimodalModel,
    prompts: PromptSet,
    cache: ContentCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered, red = model.answers, json.dumps({"colour": "red", "words": []})
    asked: list[Request] = []

    def answers(requests: list[Request]) -> Iterator[tuple[int, str]]:
        asked.extend(requests)
        assert all(isinstance(text, str) for _, text in answered(requests)), "a real model answers"
        return enumerate(red for _ in requests)

    monkeypatch.setattr(model, "answers", answers)
    kind = colour_kind(prompt="{{ caption }}: {{ modification }}", shows_picture=False)
    rows = {"good": "i0", "gone": "gone", "unknown": "?", "failed": "i2"}
    queries = queries_frame({name: (image, "red") for name, image in rows.items()})
    captions = captions_frame().with_columns(
        status=pl.when(pl.col("image_id") == "i2").then(pl.lit("failed")).otherwise("status"),
        image_id=pl.col("image_id").replace({"i1": "gone"}),
    )
    generator = Generator(model, prompts, cache)
    made = generate(kind, generator, queries, gallery_frame(tmp_path), {"captions": captions})
    assert made["status"].to_list() == ["ok", "ok", "failed", "failed"], "no picture need be readable"
    assert made["detail"].to_list()[2:] == ["there is no good text of captions to ask about"] * 2
    assert [(prompt.parts, shown) for prompt, shown in asked] == [
        (("circle 0: red",), {}),
        (("circle 1: red",), {}),
    ]
    shown = colour_kind(prompt="<reference>{{ caption }}", shows_picture=False)
    with pytest.raises(PromptError, match=r"a colour prompt shows no picture, this one \['reference'\]"):
        generate(shown, generator, queries, gallery_frame(tmp_path), {"captions": captions})


def test_what_a_text_is_made_from_may_differ_where_it_is_derived(
    model: MultimodalModel, prompts: PromptSet, cache: ContentCache, tmp_path: Path
) -> None:
    generator, gallery = Generator(model, prompts, cache), gallery_frame(tmp_path)
    queries, other = queries_frame({"a": ("i0", "red")}), pl.DataFrame({"query_id": ["a"], "word": ["w"]})
    kind = colour_kind(derived_from=("words",), derive=lambda row, texts: {"colour": texts["words"]["word"]})
    made = generate(kind, generator, queries, gallery, {"words": other})
    assert made.row(0, named=True)["colour"] == "w" and made["model"].to_list() == ["derived from words"]
    asked = replace(kind, prompt="<reference>{{ caption }}")
    assert (kind.made_from(prompts), asked.made_from(prompts)) == (("words",), ("captions",))
    with pytest.raises(TextKindError, match="'captions', which is not there"):
        generate(asked, generator, queries, gallery, {"words": other})


def test_a_kind_without_a_prompt_is_derived_and_says_so(
    model: MultimodalModel, prompts: PromptSet, cache: ContentCache, tmp_path: Path
) -> None:
    queries, gallery = queries_frame({"a": ("i0", "red"), "b": ("i3", "blue")}), gallery_frame(tmp_path)
    generator, texts = Generator(model, prompts, cache), {"captions": captions_frame()}
    kind = colour_kind(
        derive=lambda row, texts: {"colour": f"{texts['captions']['caption']}, {row['modification']}"}
    )
    made = generate(kind, generator, queries, gallery, texts)
    assert made["colour"].to_list() == ["circle 0, red", "circle 3, blue"]
    assert made["status"].unique().to_list() == ["derived"]
    assert made["model"].unique().to_list() == ["derived from captions"]
    with pytest.raises(TextKindError, match=r"colour\.jinja"):
        generate(colour_kind(), generator, queries, gallery, texts)
    with pytest.raises(TextKindError, match="'captions', which is not there"):
        generate(kind, generator, queries, gallery)
