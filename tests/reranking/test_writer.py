"""Modification texts by a language model: asked once per pair of captions, and taken only when they are one
short line.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.content_cache import ContentCache
from setr_lib.reranking import writer
from tests.reranking import judge_worlds as worlds

CAPTIONS = [("a red cube", "a blue cube"), ("a red cube", "a red vase"), ("a red cube", "a blue cube")]


@pytest.mark.parametrize("kind", ["llava", "qwen3_vl"])
def test_a_real_model_is_asked_once_per_pair_of_captions(kind: str, tmp_path: Path) -> None:
    model = worlds.load_tiny_judge(tmp_path / "judge", kind).model
    cache = ContentCache(tmp_path / "cache.sqlite", writer.CACHE_KIND)
    told: list[tuple[int, int]] = []
    texts = writer.model_writer(model, cache, lambda done, total, what: told.append((done, total)))(CAPTIONS)
    assert len(texts) == 3
    assert texts[0] == texts[2]
    assert told == [(2, 2)]
    assert writer.model_writer(model, cache, lambda *_: pytest.fail("asked again"))(CAPTIONS) == texts


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (' "Make the cube blue."\n', "Make the cube blue"),
        ("Sure!\nMake it blue", ""),
        ("", ""),
        ("blue " * 31, ""),
    ],
)
def test_only_one_short_line_is_a_modification_text(answer: str, text: str) -> None:
    assert writer._tidy(answer) == text
