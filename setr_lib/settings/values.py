"""What a single setting may be: checked texts, paths, numbers, and the base class of every section."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from setr_lib.errors import SetrError
from setr_lib.near_names import near_name
from setr_lib.paths import expanded
from setr_lib.pixel_rules import NO_BACKGROUND
from setr_lib.settings.names import LOCAL_FOLDER

_FILE_STORES = ("sqlite:///", "file:///", "file:")
"""What comes before the path in the address of an MLflow store on this machine."""
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class SettingsError(SetrError):
    """``setr.toml`` or a ``SETR_...`` variable cannot be read; the message names the file and the key."""


def local_path(value: object) -> object:
    """A path on this machine, ``~`` and environment variables expanded.

    Raises:
        ValueError: It is a URL, or a variable is not set.
    """
    if not isinstance(value, str | Path):
        return value
    if URL.match(str(value)):
        raise ValueError("a folder or file of this machine is needed, not a URL: write its path")
    return Path(expanded(str(value)))


def path_or_name(value: object) -> object:
    """A name, or a path on this machine with ``~`` and environment variables expanded.

    Raises:
        ValueError: A variable is not set.
    """
    if not isinstance(value, str) or value.startswith(("http://", "https://")):
        return value
    before = next((start for start in (LOCAL_FOLDER, *_FILE_STORES) if value.startswith(start)), "")
    return before + expanded(value.removeprefix(before))


PathOrName = Annotated[str, BeforeValidator(path_or_name)]
LocalPath = Annotated[Path, BeforeValidator(local_path)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that NumPy, PyTorch and Python all take."""


def _named(pattern: str, words: str) -> Any:
    """A text that matches ``pattern`` as a whole; ``words`` tell a person what it may be."""
    compiled = re.compile(pattern)

    def check(name: str) -> str:
        if not compiled.fullmatch(name):
            raise ValueError(f"{name!r} will not do: {words}")
        return name

    return AfterValidator(check)


_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"
_PLAIN_WORDS = "letters, digits, '.', '-' and '_' only, a letter or digit first, 100 at most"
StoredName = Annotated[str, _named(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", f"use {_PLAIN_WORDS}")]
"""A name that becomes a folder, an MLflow name and part of an MLflow query."""
MethodName = Annotated[
    str,
    _named(
        rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        f"write a method's name ({_PLAIN_WORDS}) or package.module:NAME",
    ),
]
SpaceKind = Annotated[
    str,
    _named(
        rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,99}}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        f"write 'open_clip', 'sentence_transformers', the name of an installed kind of embedding space "
        f"({_PLAIN_WORDS}) or package.module:NAME",
    ),
]
RerankerName = Annotated[
    str,
    _named(
        rf"[A-Za-z0-9][A-Za-z0-9_. -]{{0,99}}|{_IDENTIFIER}(\.{_IDENTIFIER})*:{_IDENTIFIER}",
        f"write a re-ranker's name ({_PLAIN_WORDS}; spaces, too) or package.module:NAME",
    ),
]
ModuleName = Annotated[
    str, _named(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}", "write the name of a layer, e.g. 'q_proj'")
]
_DEVICES = "cpu|cuda|mps|xpu|hpu|npu|mlu|mtia|xla"
DeviceName = Annotated[
    str,
    _named(rf"auto|({_DEVICES})(:[0-9]{{1,4}})?", "write 'auto' or a torch device such as 'cpu' or 'cuda:1'"),
]
_STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks", "databricks-uc")


def _store_address(address: str) -> str:
    scheme = address.partition(":")[0].partition("+")[0]
    if ":" in address and scheme not in _STORES:
        raise ValueError(f"{address!r} is not a store that MLflow knows: begin with {', '.join(_STORES)}")
    if ":" not in address and scheme not in _STORES:
        raise ValueError(
            f"{address!r} does not say which kind of store: write sqlite:///{address} for a database file, "
            "or a server's address, http://..."
        )
    return address


StoreAddress = Annotated[str, BeforeValidator(path_or_name), AfterValidator(_store_address)]
"""The address of an MLflow store."""


_COLOUR = "#[0-9A-Fa-f]{6}"
Background = Annotated[
    str,
    _named(
        f"{_COLOUR}|{NO_BACKGROUND}",
        f"write a colour as '#rrggbb', e.g. '#ffffff' for white, or '{NO_BACKGROUND}' to drop transparency",
    ),
]
"""What is behind transparent pixels."""


class Section(BaseModel):
    """A section of ``setr.toml``: unknown keys are refused, so a typing error never passes silently."""

    # Built on first use: importing the code location stays fast.
    model_config = ConfigDict(extra="forbid", validate_default=True, defer_build=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what no key can mean: empty texts, control characters, repetitions, a truth value for a
        number.
        """
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            return value  # looks at its own keys
        for text in _texts(value):
            if not text.strip():
                raise ValueError("an empty text means nothing: leave the key out, or name something")
            if _CONTROL.search(text):
                raise ValueError(f"{text!r} holds a control character: remove it")
            if not isinstance(value, Mapping) and _is_too_long(text):
                raise ValueError(f"{text[:40]!r}... is too long for a path or a name: shorten it")
        if isinstance(value, list):
            twice = sorted({str(item) for item in value if value.count(item) > 1})
            if twice:
                raise ValueError(f"named twice: {', '.join(twice)}")
        if isinstance(value, bool) and kind not in (bool, bool | None):
            raise ValueError("true and false are no answer here: write a number or a text")
        return value


def _is_too_long(text: str) -> bool:
    """Whether no file system takes ``text`` as a path."""
    return len(text) > 4096 or any(len(part.encode()) > 255 for part in text.split("/"))


def _texts(value: object) -> Iterator[str]:
    """``value``'s own text, or those in a list or a table."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _texts(name)
            yield from _texts(item)


def endpoint_address(url: str) -> str:
    """The address of a server that pictures may be sent to.

    Raises:
        ValueError: It is none; the message does not repeat it, for it may hold a key.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("not an address: write e.g. http://127.0.0.1:8000/v1") from None
    if parts.scheme not in ("http", "https") or not host or any(character.isspace() for character in url):
        raise ValueError("not an address: write e.g. http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "write the address alone, without a name, password, query or fragment; a key is put into an "
            "environment variable that key_variable names"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(
            "plain http sends pictures and key readably: use https, or http on this machine alone "
            "(127.0.0.1, ::1 or localhost; a tunnel by ssh -L is there, too)"
        )
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def nearest(name: str, known: list[str]) -> str:
    """What may have been meant by a name that is not known, as the end of a sentence.

    Args:
        name: The name.
        known: The known ones.
    """
    near = near_name(name, known)
    return f"; did you mean {near}?" if near else f"; there is {', '.join(known)}"
