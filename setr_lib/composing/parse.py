"""Strict reading of the JSON that the multimodal LLM writes for a query. Nothing is guessed: what does not fit is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from setr_lib.errors import SetrError

LISTS = ("keep", "add", "remove", "drop")
CAPTION = "target_caption"

_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(
    r"^[ \t]*```(?:json)?[ \t]*\n(.*?)\n[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE
)


class CompositionError(SetrError):
    """A model's answer is not a composition; the message says what is wrong with it."""


@dataclass(frozen=True)
class Composition:
    """What of the reference stays, comes, goes, and is not talked about; and the sentence that stage 1 encodes."""

    keep: tuple[str, ...]
    add: tuple[str, ...]
    remove: tuple[str, ...]
    drop: tuple[str, ...]
    target_caption: str


def parse_composition(answer: str) -> Composition:
    """The composition that ``answer`` is: one JSON object with exactly the five keys, bare or as the one fenced block.

    White space inside phrases is collapsed, empty phrases are left out. Raises ``CompositionError`` for anything else:
    prose around a bare object, a key missing, repeated or unknown, a wrong type, an empty target caption.
    """
    return composition_of(_load(_body(answer)))


def composition_of(fields: Mapping[str, Any]) -> Composition:
    """The composition of a JSON object that is parsed already, by the same rules. Raises ``CompositionError``."""
    missing = [key for key in (*LISTS, CAPTION) if key not in fields]
    unknown = [key for key in fields if key not in (*LISTS, CAPTION)]
    if missing or unknown:
        raise CompositionError(f"keys missing {missing}, unknown {unknown}")
    phrases = {key: _phrases(key, fields[key]) for key in LISTS}
    caption = _text(CAPTION, fields[CAPTION])
    if not caption:
        raise CompositionError(f"{CAPTION} is empty")
    return Composition(target_caption=caption, **phrases)


def _body(answer: str) -> str:
    text = _THINKING.sub("", answer).strip()
    fenced = _FENCE.findall(text)
    if len(fenced) > 1:
        raise CompositionError(f"{len(fenced)} fenced blocks instead of one")
    return fenced[0] if fenced else text


def _load(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise CompositionError(f"not one JSON object ({reason})") from None
    if not isinstance(value, dict):
        raise CompositionError(f"a JSON {type(value).__name__} instead of an object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key is repeated")
    return dict(pairs)


def _phrases(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise CompositionError(f"{key} is no list")
    return tuple(text for text in (_text(key, item) for item in value) if text)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise CompositionError(f"{key} holds something that is no text")
    text = " ".join(value.split())
    try:
        text.encode()  # JSON can spell half a surrogate pair, which no table or encoder takes
    except UnicodeEncodeError:
        raise CompositionError(f"{key} holds a broken character") from None
    return text
