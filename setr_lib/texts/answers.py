"""What the multimodal LLM's answers must be: one pydantic model per kind of text, which takes a good answer
and refuses others.

Nothing is guessed: what does not fit is refused with a reason, and the raw answer stays in the cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from setr_lib.errors import SetrError

LISTS = ("keep", "add", "remove", "drop")

_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(
    r"^[ \t]*```(?:json)?[ \t]*\n(.*?)\n[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
AnyAnswer = TypeVar("AnyAnswer", bound="Answer")


class AnswerError(SetrError):
    """A model's answer is not of the kind that was asked for; the message says what is wrong with it."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("holds something that is not a text")
    text = " ".join(value.split())
    try:
        text.encode()  # JSON can spell half a surrogate pair, which no table or encoder takes
    except UnicodeEncodeError:
        raise ValueError("holds a broken character") from None
    return text


def _some_text(value: Any) -> str:
    if not (text := _text(value)):
        raise ValueError("is empty")
    return text


def _phrases(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError("is not a list")
    return tuple(text for text in map(_text, value) if text)


Text = Annotated[str, BeforeValidator(_some_text)]
"""A text with its white space collapsed; an empty one is refused."""
AnyText = Annotated[str, BeforeValidator(_text)]
"""A text with its white space collapsed, which may be empty."""
Phrases = Annotated[tuple[str, ...], BeforeValidator(_phrases)]
"""A list of texts, white space collapsed, empty ones left out."""


class Answer(BaseModel):
    """The fields of a good answer. The fields of a subclass become columns of the table of its texts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_answer(cls: type[AnyAnswer], answer: str) -> AnyAnswer:
        """Read what the model wrote: by default one JSON object, bare or as the one fenced block, with
        exactly the fields.

        Args:
            answer: The model's answer, special tokens removed.

        Returns:
            The checked fields.

        Raises:
            AnswerError: Prose around a bare object, a key missing, repeated or unknown, a wrong type, an
                empty text.
        """
        return cls.of(_load(_body(answer)))

    @classmethod
    def of(cls: type[AnyAnswer], fields: Mapping[str, Any]) -> AnyAnswer:
        """The answer with given fields, checked by the same rules.

        Args:
            fields: Field name -> value, e.g. of a parsed JSON object.

        Returns:
            The checked fields.

        Raises:
            AnswerError: A key is missing or unknown, a type is wrong, a text is empty.
        """
        missing = [key for key in cls.model_fields if key not in fields]
        unknown = [key for key in fields if key not in cls.model_fields]
        if missing or unknown:
            raise AnswerError(f"keys missing {missing}, unknown {unknown}")
        try:
            return cls(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise AnswerError(f"{where} {first['msg'].removeprefix('Value error, ')}") from None


class Caption(Answer):
    """A sentence that describes an image."""

    caption: str

    @classmethod
    def from_answer(cls, answer: str) -> Caption:
        """The whole answer as one line.

        Args:
            answer: The model's answer, special tokens removed.

        Returns:
            The caption.

        Raises:
            AnswerError: The answer is empty.
        """
        caption = " ".join(answer.split())
        if not caption:
            raise AnswerError("the model's answer was empty")
        return cls(caption=caption)


class Composition(Answer):
    """What of the reference a query keeps, adds, removes and drops, and the caption of the wanted image,
    which stage 1 encodes.
    """

    keep: Phrases
    add: Phrases
    remove: Phrases
    drop: Phrases
    target_caption: Text


def without_thinking(answer: str) -> str:
    """What the model wrote after a block ``<think>...</think>`` at the beginning.

    Args:
        answer: The model's answer, special tokens removed.

    Returns:
        The rest, stripped; the whole answer where there is no such block.
    """
    return _THINKING.sub("", answer).strip()


def _body(answer: str) -> str:
    text = without_thinking(answer)
    fenced = _FENCE.findall(text)
    if len(fenced) > 1:
        raise AnswerError(f"{len(fenced)} fenced blocks instead of one")
    return fenced[0] if fenced else text


def _load(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise AnswerError(f"not one JSON object ({reason})") from None
    if not isinstance(value, dict):
        raise AnswerError(f"a JSON {type(value).__name__} instead of an object")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key is repeated")
    return dict(pairs)
