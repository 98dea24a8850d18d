"""Modules of libraries that are imported with them for a function or class that this command never calls: put
off until it is called after all.

``import lancedb`` builds the classes of a REST client; ``import torchvision`` brings torch's compiler in for
one check (so does transformers, where the multimodal LLM is loaded); transformers' losses, SciPy. While
:func:`waiting_imports` holds, such a module is a placeholder: the names that are known here import the real
module when they are called, subclassed or asked for an attribute; any other name imports it at once. So what
is computed is the same, whatever is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_REST = "lance_namespace_urllib3_client.api"
WAITING = {
    "torch._dynamo.utils": ("is_compile_supported",),
    "scipy.optimize": ("linear_sum_assignment",),
    "timm": (),
    "timm.layers": ("AttentionPool2d", "Mlp", "RotAttentionPool2d", "to_2tuple"),
    f"{_REST}.branch_api": ("BranchApi",),
    f"{_REST}.data_api": ("DataApi",),
    f"{_REST}.index_api": ("IndexApi",),
    f"{_REST}.materialized_view_api": ("MaterializedViewApi",),
    f"{_REST}.metadata_api": ("MetadataApi",),
    f"{_REST}.namespace_api": ("NamespaceApi",),
    f"{_REST}.table_api": ("TableApi",),
    f"{_REST}.tag_api": ("TagApi",),
    f"{_REST}.transaction_api": ("TransactionApi",),
}
"""Module to those of its names that others import from it without calling them."""


class _Name:
    """A function or class of a module that is imported when it is used."""

    def __init__(self, module: str, name: str) -> None:
        self._waiting = module, name

    def _real(self) -> Any:
        module, name = self._waiting
        return getattr(_real_module(module), name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._real()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._real())

    def __subclasscheck__(self, value: type) -> bool:
        return issubclass(value, self._real())


class _Placeholder(ModuleType):
    """What stands for a module until one of its other names is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name in WAITING[self.__name__]:
            return _Name(self.__name__, name)
        # What the import system and others ask of any module; a package's path, of one whose part is wanted.
        is_asked_of_all = name.startswith("__") and name.endswith("__")
        if is_asked_of_all and (name != "__path__" or self.__spec__ is None):
            raise AttributeError(name)
        return getattr(_real_module(self.__name__), name)


def _real_module(name: str) -> ModuleType:
    """The module itself; its library is imported without placeholders."""
    library = name.partition(".")[0]
    _remove(other for other in WAITING if other.partition(".")[0] == library)
    return import_module(name)


def _remove(names: Iterable[str]) -> None:
    for name in names:
        if isinstance(sys.modules.get(name), _Placeholder):
            del sys.modules[name]


@contextmanager
def waiting_imports() -> Iterator[None]:
    """Put off the imports of :data:`WAITING` for the duration of the block; those of modules that are there
    already are as they are.
    """
    for name in WAITING:
        # A part of a package is not looked for: that would import the package.
        if name in sys.modules:
            continue
        spec = None if "." in name else find_spec(name)
        if "." in name or spec is not None:
            sys.modules[name] = _Placeholder(name)
            sys.modules[name].__spec__ = spec
    try:
        yield
    finally:
        _remove(WAITING)
