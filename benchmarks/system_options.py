"""The tables of options in ``docs/systems.md``, made from the classes of ``setr_lib/systems/options.py``.

``python -m benchmarks.system_options`` writes them into the page, between its marks.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from textwrap import dedent
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from setr_lib.systems.options import SystemOptions
from setr_lib.systems.recipe import RECIPES

PAGE = Path(__file__).parents[1] / "docs" / "systems.md"
_MARKED = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page_with_tables(text: str) -> str:
    """A page with its tables made anew.

    Args:
        text: The page; a table stands between ``<!-- options: NAME -->`` (a system, or ``all``) and
            ``<!-- end -->``.

    Returns:
        The page.
    """
    return _MARKED.sub(lambda found: f"{found[1]}{options_table(found[2])}{found[3]}", text)


def options_table(system: str) -> str:
    """The options of a system as a table in Markdown.

    Args:
        system: Its name; ``all`` for what all systems have.

    Returns:
        The table: of a system only what it has besides these, or with another default; of one whose options
        extend another system's, only what it has besides that one's.
    """
    kind = SystemOptions if system == "all" else RECIPES[system].options
    shared = {} if system == "all" else _extended(kind).model_fields
    words = _docstrings(kind)
    rows = [
        f"| `{name}` | {_shown(field.default)} | {_allowed(field)} | {words[name]} |"
        for name, field in kind.model_fields.items()
        if name not in shared or shared[name].default != field.default
    ]
    return "\n".join(["| option | default | may be | what it is |", "| --- | --- | --- | --- |", *rows, ""])


def _extended(kind: type[SystemOptions]) -> type[SystemOptions]:
    """The options that a system's extend: another system's, or those that all have."""
    others = [recipe.options for recipe in RECIPES.values()]
    return next((base for base in kind.__mro__[1:] if base in others), SystemOptions)


def _docstrings(kind: type[SystemOptions]) -> dict[str, str]:
    """What is written below each option, the nearest class's words first."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, SystemOptions):
            continue
        (tree,) = ast.parse(dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                text = " ".join(str(after.value.value).split()).removesuffix(".")  # pyright: ignore
                found[field.target.id] = text.replace("``", "`")
    return found


def _shown(value: object) -> str:
    if value is None or value is PydanticUndefined:  # made by a factory: an empty list
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"{value:,}" if isinstance(value, int) else f"{value}"


def _allowed(field: FieldInfo) -> str:
    """The values that an option may have: a kind, names, or bounds."""
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f'`"{name}"`' for name in get_args(kind))
    metadata = list(field.metadata)
    if get_origin(kind) in (Union, UnionType):  # a number, or none
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    if hasattr(kind, "__metadata__"):
        metadata += [bound for part in kind.__metadata__ for bound in getattr(part, "metadata", ())]
    if kind is bool:
        return "true, false"
    if kind is str:
        return "a name"
    if get_origin(kind) is list:
        return "a list of layers"
    names = ("ge", "gt", "le", "lt")
    bounds = {name: getattr(part, name) for part in metadata for name in names if hasattr(part, name)}
    least = f"{bounds['ge']:,}" if "ge" in bounds else f"above {bounds['gt']:,}"
    most = f"{bounds['le']:,}" if "le" in bounds else f"below {bounds['lt']:,}"
    return f"{least} to {most}"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
