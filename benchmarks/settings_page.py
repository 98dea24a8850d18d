"""The sections and keys in ``docs/settings.md``, made from ``setr_lib/settings`` and from what the package's
parts say of their options.

``python -m benchmarks.settings_page`` writes them into the page, between its marks; a test compares them.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from benchmarks.pages import with_section
from benchmarks.settings_examples import EXAMPLES
from benchmarks.system_options import options_table
from setr_lib import methods as package
from setr_lib import settings as public
from setr_lib.catalogue import modules_of
from setr_lib.methods.method import Method, as_method
from setr_lib.methods.options import Option
from setr_lib.settings import Section, Settings
from setr_lib.settings.names import DELIMITER, NOT_KEYS, PREFIX
from setr_lib.spaces import blip2_space, open_clip_space, sentence_space
from setr_lib.systems.recipe import RECIPES

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
SECTION = "keys"
"""What the page calls the part that is made here."""
ORDER = ("storage", "datasets", "images", "training", "models", "spaces", "coarse", "methods", "systems")
"""The sections in the order in which a person writes them; what is not named here comes behind."""
SPACES = {
    "open_clip": open_clip_space.load_space,
    "sentence_transformers": sentence_space.load_space,
    "blip2": blip2_space.load_space,
}
"""What makes the embedding spaces that come with the package, by kind."""
_NOT_OPTIONS = ("device", "sizes_file")
"""Arguments of these that settings do not give."""


def every_section() -> str:
    """All sections with their keys, in Markdown."""
    names = [*ORDER, *(name for name in Settings.model_fields if name not in (*ORDER, *NOT_KEYS))]
    return "\n\n".join(part.strip() for name in names for part in _sections_of(name))


def keys(model: type[BaseModel] = Settings, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key, as a path: ``("models", "encoder", "name")``; in a table of several sections the section's
    name is ``NAME``.

    Args:
        model: The section.
        before: The path to it.
    """
    for name, field in model.model_fields.items():
        path = (*before, name)
        if name in NOT_KEYS:
            continue
        section, is_named = _section_in(field)
        if section is not None:
            yield from keys(section, (*path, "NAME") if is_named else path)
        if section is None or _is_short(path):
            yield path


def example_of(path: tuple[str, ...], default: Any) -> Any:
    """What the page shows as a value of a key.

    Args:
        path: The key.
        default: Its default.

    Returns:
        The example that ``settings_examples.py`` has, else the default.

    Raises:
        LookupError: There is neither.
    """
    if (name := ".".join(path)) in EXAMPLES:
        return EXAMPLES[name]
    if default in (None, PydanticUndefined, [], {}):
        raise LookupError(f"{name} has no default: give an example in benchmarks/settings_examples.py")
    return default


def as_toml(value: Any) -> str:
    """A value as TOML has it.

    Args:
        value: A text, number, truth value, path, or a list or table of these.
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name} = {as_toml(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else json.dumps(str(value))


def variable_of(path: tuple[str, ...]) -> str:
    """The environment variable of a key.

    Args:
        path: The key.
    """
    return PREFIX + DELIMITER.join(path).upper()


def as_variable(value: Any) -> str:
    """A value as it stands behind the ``=`` of a variable in a shell.

    Args:
        value: As for :func:`as_toml`.
    """
    if isinstance(value, Mapping | list | tuple):
        text = json.dumps(value)
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[\w@%+=:,./~-]+", text) else f"'{text}'"


def built_in_options() -> dict[Method, tuple[Option, ...]]:
    """The options that built-in retrieval methods declare, less those of methods without any."""
    modules = (import_module(f"{package.__name__}.{name}") for name in modules_of(package))
    methods = [as_method(each, "METHODS") for module in modules for each in getattr(module, "METHODS", ())]
    return {m: m.options for m in sorted(methods, key=lambda method: method.name) if m.options}


# --------------------------------------------------------------------------------------------- the sections


def _sections_of(name: str) -> Iterator[str]:
    if name == "methods":
        yield _methods()
    elif name == "systems":
        yield _systems()
    else:
        section, is_named = _section_in(Settings.model_fields[name])
        assert section is not None, name
        yield from _section(section, (name, "NAME") if is_named else (name,))
    if name == "spaces":
        yield _spaces()


def _section(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[str]:
    """A section's heading, words and keys; then the sections in it."""
    rows, inner = [], []
    words, kinds = docstrings(model), get_type_hints(model, include_extras=True)
    for name, field in model.model_fields.items():
        key = (*path, name)
        section, _ = _section_in(field)
        if section is not None:
            inner.append((section, key))
        if section is None or _is_short(key):
            rows.append(_key(key, field, kinds[name], words.get(name, "")))
    title = f"## `[{'.'.join(path)}]`"
    about = _plain((model.__doc__ or "").strip())
    if rows:
        yield "\n\n".join([title, about, *rows])
    for section, key in inner:
        yield from _section(section, key)


def _key(path: tuple[str, ...], field: FieldInfo, kind: Any, words: str) -> str:
    """A key: its name and default, what it may be, what it is, an example in both forms."""
    assert words, f"{'.'.join(path)} has no docstring: say below it what it is, in plain words"
    default = field.get_default(call_default_factory=True)
    example = example_of(path, default)
    if _is_short(path):
        told = "optional; an address, or a section of its own"
    elif default is PydanticUndefined:
        told = f"required; {allowed(kind, field)}"
    else:
        told = f"{_default(default)}; {allowed(kind, field)}"
    anchor = "-".join(path).replace("NAME-", "")
    assigned = as_variable({"url": example} if _is_short(path) else example)
    shown = f"`{path[-1]} = {as_toml(example)}`<br>`{variable_of(path)}={assigned}`"
    return f'<a id="{anchor}"></a>\n**`{path[-1]}`** ({told})<br>\n{_ended(_plain(words))}<br>\n{shown}'


def _spaces() -> str:
    parts = ["### Options of the kinds that come with the package"]
    for kind, make in SPACES.items():
        told = _arguments(make)
        rows = [
            f"| `{name}` | {_cell(parameter.default)} | {_ended(told[name])} |"
            for name, parameter in inspect.signature(make).parameters.items()
            if name not in _NOT_OPTIONS
        ]
        parts.append(_table(f'`kind = "{kind}"`', ("option", "default", "what it is"), rows))
    parts.append(
        '`kind = "qformer"` and `kind = "retrieval_dpo_fused"`: the options of their encoder, which is one '
        "of the kinds above, and `kind` itself (`open_clip` by default); without any, the encoder is that of "
        "`[systems.NAME] encoder`."
    )
    parts.append(
        "```toml\n"
        '[spaces.sentences]\nkind = "sentence_transformers"\n'
        '[spaces.sentences.options]\nmodel = "sentence-transformers/all-MiniLM-L6-v2"\n'
        "```"
    )
    return "\n\n".join(parts)


def _methods() -> str:
    users: dict[tuple[str, ...], list[str]] = {}
    for method, options in built_in_options().items():
        for option in options:
            told = (f"`{option.name}`", _cell(option.default), option.allowed, option.meaning)
            users.setdefault(told, []).append(method.name)
        for file in method.files:
            told = (f"`{file.option}`", "required" if file.required else "optional", "a file", file.holds)
            users.setdefault(told, []).append(method.name)
    rows = [
        f"| {', '.join(f'`{each}`' for each in who)} | {' | '.join(told)} |" for told, who in users.items()
    ]
    words = docstrings(Settings)["methods"]
    head = ("method", "option", "default", "may be", "what it is")
    example = (
        '```toml\n[methods.sdr_cir]\nanchor = 0.1   # SETR_METHODS=\'{"sdr_cir": {"anchor": 0.1}}\'\n```'
    )
    note = (
        "What each method computes, and whose the defaults are: [methods.md](methods.md). `soft` and "
        "`soft_intersection` take the options of the method that they filter, too."
    )
    return "\n\n".join(["## `[methods.NAME]`", _ended(_plain(words)), _table("", head, rows), note, example])


def _systems() -> str:
    parts = [
        "## `[systems.NAME]`",
        _ended(_plain(docstrings(Settings)["systems"])),
        "What each system is: [systems.md](systems.md). All have these options:",
        options_table("all").strip(),
    ]
    for name in RECIPES:
        parts += [f"`[systems.{name}]`, besides these or with another default:", options_table(name).strip()]
    parts.append('```toml\n[systems.prompt_tuned]\ntriplets = "cirr"\nsteps = 400\n```')
    return "\n\n".join(parts)


# --------------------------------------------------------------------------------------------------- words


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What is written below each field of a class.

    Args:
        model: The class.

    Returns:
        Text by field, on one line.
    """
    (tree,) = ast.parse(dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = str(after.value.value)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def allowed(kind: Any, field: FieldInfo | None = None) -> str:
    """What a key may be, in words.

    Args:
        kind: The type as it is written, ``Annotated`` included.
        field: Its bounds stand here, too.

    Returns:
        E.g. ``a whole number, 1 to 10,000,000``.
    """
    if (named := _NAMED.get(_id(kind))) is not None:
        return named
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(allowed(part, field) for part in get_args(kind) if part is not type(None))
    if hasattr(kind, "__metadata__"):
        return _bounded(kind.__origin__, kind.__metadata__, field)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{json.dumps(name)}`" for name in get_args(kind))
    if get_origin(kind) is list:
        return f"a list, each {allowed(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        first, second = get_args(kind)
        return "a table" if second is Any else f"a table: {allowed(second)} for each of {allowed(first)}"
    return _bounded(kind, field.metadata if field else (), None)


def _bounded(kind: Any, metadata: Any, field: FieldInfo | None) -> str:
    every = [*metadata, *(field.metadata if field else ())]
    every += [inner for part in every for inner in getattr(part, "metadata", ())]
    bounds = {n: getattr(part, n) for part in every for n in ("ge", "gt", "le", "lt") if hasattr(part, n)}
    if kind not in (int, float):
        return _PLAIN.get(kind, "a text") if get_origin(kind) is None else allowed(kind)
    least = f"{bounds['ge']:,}" if "ge" in bounds else f"above {bounds['gt']:,}"
    most = f"{bounds['le']:,}" if "le" in bounds else f"below {bounds['lt']:,}"
    return f"{_PLAIN[kind]}, {least} to {most}"


_PLAIN = {int: "a whole number", float: "a number", bool: "`true` or `false`", str: "a text"}


def _id(kind: Any) -> Any:
    """Something to know an annotation by: validators in it compare as the objects that they are."""
    return (kind.__origin__, kind.__metadata__) if hasattr(kind, "__metadata__") else None


_NAMED = {
    _id(public.LocalPath): "a path",
    _id(public.PathOrName): "a name or a path",
    _id(public.MethodName): "a method's name or `package.module:NAME`",
    _id(public.RerankerName): "a re-ranker's name or `package.module:NAME`",
    _id(public.SpaceKind): "a kind or `package.module:NAME`",
    _id(public.ModuleName): "a layer's name",
    _id(public.StoredName): "letters, digits, `.`, `-` and `_`",
    _id(public.DeviceName): "`auto` or a torch device",
    _id(public.StoreAddress): "an address",
    _id(public.Background): "a colour `#rrggbb` or `none`",
}


def _section_in(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field is, and whether it is a table of several, each under a name."""
    kind: Any = field.annotation
    if get_origin(kind) is dict and isinstance(get_args(kind)[1], type):
        inner = get_args(kind)[1]
        return (inner, True) if issubclass(inner, Section) else (None, False)
    return (kind, False) if isinstance(kind, type) and issubclass(kind, Section) else (None, False)


def _is_short(path: tuple[str, ...]) -> bool:
    """Whether a key is a section, or in short one of its keys."""
    return path == ("models", "judge", "endpoint")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    return "optional" if value in (None, [], {}) else f"default `{as_toml(value)}`"


def _cell(value: Any) -> str:
    return _default(value).removeprefix("default ")


def _arguments(function: Any) -> dict[str, str]:
    """What a docstring says of a function's arguments."""
    block = inspect.cleandoc(function.__doc__ or "").split("Args:\n")[1].split("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", block, re.MULTILINE)
    return {name: _plain(text) for name, text in found}


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _ended(text: str) -> str:
    return text if text.endswith((".", ")")) else f"{text}."


def _table(title: str, head: tuple[str, ...], rows: list[str]) -> str:
    table = "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *rows])
    return f"{title}\n\n{table}" if title else table


if __name__ == "__main__":
    PAGE.write_text(
        with_section(PAGE.read_text(encoding="utf-8"), SECTION, every_section()), encoding="utf-8"
    )
