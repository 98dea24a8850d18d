"""The sections ``[systems.NAME]`` of settings, held against what each trained retrieval system takes.

Settings ask this when they are loaded, so nothing here imports torch or opens a file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from setr_lib.settings import BLIP2, DEFAULT_SPACE, OPEN_CLIP
from setr_lib.systems.options import SYNTHESISED, ImageWordsOptions, SystemOptions
from setr_lib.systems.recipe import RECIPES

ENCODER_KINDS = (OPEN_CLIP, BLIP2)
"""The kinds of embedding space that a system may be trained on top of."""
_ALIKE = ("encoder", *sorted({*ImageWordsOptions.model_fields} - {*SystemOptions.model_fields}))
"""What a system and the one that it builds on must have alike."""


def faults_of(
    systems: Mapping[str, Mapping[str, Any]],
    spaces: Mapping[str, str] | None = None,
    datasets: Collection[str] | None = None,
) -> list[str]:
    """What is wrong with the sections.

    Args:
        systems: Each section by the name of its system.
        spaces: The kind of each embedding space of ``[spaces]``; None where these are not known.
        datasets: The data sets of ``[datasets]``; None where these are not known.

    Returns:
        A line for each fault, which begins with the key below ``systems``.
    """
    found = [
        f"{name}{fault}"
        for name, section in systems.items()
        for fault in _faults(name, section, spaces, datasets)
    ]
    return found or [fault for name in systems for fault in _not_alike(name, systems)]


def _faults(
    name: str,
    section: Mapping[str, Any],
    spaces: Mapping[str, str] | None,
    datasets: Collection[str] | None,
) -> Iterator[str]:
    if name not in RECIPES:
        yield f": there is no trained retrieval system of this name{_nearest(name, RECIPES)}"
        return
    try:
        options = RECIPES[name].options.model_validate(section)
    except ValidationError as error:
        for fault in error.errors():
            yield _in_words(fault, RECIPES[name].options)
        return
    if spaces is not None and options.encoder != DEFAULT_SPACE:
        kind = spaces.get(options.encoder)
        if kind is None:
            nearest = _nearest(options.encoder, (DEFAULT_SPACE, *spaces))
            yield f".encoder: there is no embedding space {options.encoder!r}{nearest}"
        elif kind not in ENCODER_KINDS:
            yield (
                f".encoder: {options.encoder!r} is an embedding space of kind {kind!r}; a system is trained "
                f"on top of one of kind {' or '.join(ENCODER_KINDS)}"
            )
    if datasets is not None and options.triplets not in (SYNTHESISED, *datasets):
        known = (SYNTHESISED, *datasets)
        yield (
            f".triplets: {options.triplets!r} is neither {SYNTHESISED!r} nor a data set of [datasets]"
            f"{_nearest(options.triplets, known)}"
        )


def _not_alike(name: str, systems: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """In what a system differs from the one that it builds on and must not."""
    below = RECIPES[name].builds_on
    if below is None:
        return
    mine, its = (RECIPES[each].options.model_validate(systems.get(each, {})) for each in (name, below))
    for key in _ALIKE:
        if (value := getattr(mine, key)) != (other := getattr(its, key)):
            has = f"{below}, which it builds on, has {other!r}"
            yield f"{name}.{key}: {value!r}, but {has}: give both the same"


def _in_words(fault: Any, options: type[SystemOptions]) -> str:
    """One of pydantic's errors: the key, what is wrong, and the value."""
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f".{key}: there is no such key{_nearest(key, options.model_fields)}"
    message, value = fault["msg"].removeprefix("Value error, "), fault["input"]
    if fault["type"] != "value_error" and isinstance(value, str | int | float):
        message += f" (it is {value!r})"
    return f".{key}: {message}" if key else f": {message}"


def _nearest(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"
