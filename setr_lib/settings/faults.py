"""One fault of pydantic's in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOUNDS = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
_WORDS = {
    "missing": "it has to be given",
    "path_type": "write a path, in quotes",
    "string_type": "write a text, in quotes",
    "list_type": 'write a list, e.g. ["one", "another"]',
    "tuple_type": 'write a list, e.g. ["one", "another"]',
    "dict_type": "write a section, or a table { key = value }",
    "model_type": "write a section, or a table { key = value }",
    "model_attributes_type": "write a section, or a table { key = value }",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "float_parsing": "write a number",
    "finite_number": "write a finite number",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
}
_KINDS = {
    "datasets": 'what the data set is, e.g. kind = "folder" for pictures of your own',
    "spaces": 'what makes the vectors, e.g. kind = "open_clip"',
}


def fault_in_words(error: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """What is wrong with a key, and its value.

    Args:
        error: One of pydantic's errors.
        path: The key, ``("models", "device")``.

    Returns:
        The words, without the key.
    """
    kind, value = error["type"], error["input"]
    message = _message(error, path)
    if kind not in ("value_error", "missing") and isinstance(value, str | int | float):
        message += f" (it is {value!r})"
    return message


def _message(error: Mapping[str, Any], path: tuple[str, ...]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing" and path[-1] == "kind" and path[0] in _KINDS:
        return f"it has to be given: {_KINDS[path[0]]}"
    if kind in ("list_type", "tuple_type") and isinstance(error["input"], str):
        return f'write a list: ["{error["input"]}"]'
    if kind in ("literal_error", "enum"):
        return f"write {context['expected']}"
    if kind in _BOUNDS:
        return f"it has to be {_BOUNDS[kind].format(**context)}"
    return _WORDS.get(kind) or error["msg"].removeprefix("Value error, ")
