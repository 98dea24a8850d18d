"""Digests of code that settings name: the module of an object, and the modules of one's own that it imports.

Nothing is imported or run: files are found as Python finds them, read, and searched for imports. Of one's own
is what lies in the folder that holds the object's module or its top-level package, found in the same entry of
Python's path; of an installed package, that package alone. SETR's own modules have their code's number.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.hashing import fingerprint_bytes

if TYPE_CHECKING:
    import ast

_LOG = logging.getLogger(__name__)
_NUMBERED = frozenset({"setr_lib", "setr_assets"})
"""Packages whose code has a number."""
_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Names of folders that hold the packages of many people."""

Code = dict[str, str]
"""Digest of each module's file by the module's name, or a mark where there is none."""


@dataclass(frozen=True)
class _Module:
    file: Path | None
    locations: tuple[str, ...]
    """Where its submodules are looked for; empty for a module that is not a package."""

    @property
    def home(self) -> Path | None:
        """The folder that holds a top-level module or package."""
        if self.locations:
            return Path(self.locations[0]).resolve().parent
        return None if self.file is None else self.file.resolve().parent


class OwnCode:
    """Digests of modules that settings name; every file is read once.

    Args:
        folder: Where a module may lie besides Python's path: the folder of ``setr.toml``.
    """

    def __init__(self, folder: Path) -> None:
        self._path = [*sys.path, str(folder.resolve())]
        self._modules: dict[str, _Module | None] = {}
        self._read: dict[str, tuple[str, tuple[str, ...]]] = {}
        importlib.invalidate_caches()  # a file may be as old as the listing of its folder

    def of_module(self, name: str) -> Code:
        """The code of a module, with what it imports.

        Args:
            name: The module, e.g. ``my_methods``.

        Returns:
            Digests by module, sorted; a mark for a module that is not there, or cannot be read.
        """
        home = self._home(name)
        if home is None or self._found(name) is None:
            return {name: "not found"}
        alone = {name.partition(".")[0]} if _is_shared(home) else None
        code: Code = {}
        todo = [name]
        while todo:
            module = todo.pop()
            top = module.partition(".")[0]
            if module in code or top in _NUMBERED or (alone is not None and top not in alone):
                continue
            if self._found(module) is None or self._home(module) != home:
                continue
            code[module], imported = self._contents(module)
            todo += [*imported, *_packages_of(module)]
        return dict(sorted(code.items()))

    def of_entry_point(self, point: EntryPoint) -> list[str | Code]:
        """The code behind an entry point.

        Args:
            point: The entry point.

        Returns:
            Name and version of the distribution; and where it is not among the installed packages, as one
            that is installed in place (editable) is not, the code of its module.
        """
        dist = point.dist
        installed = "" if dist is None else f"{dist.name} {dist.version}"
        home = self._home(point.module)
        return [installed] if home is None or _is_shared(home) else [installed, self.of_module(point.module)]

    def _home(self, module: str) -> Path | None:
        found = self._found(module.partition(".")[0])
        return None if found is None else found.home

    def _found(self, name: str) -> _Module | None:
        if name not in self._modules:
            parent, _, last = name.rpartition(".")
            package = self._found(parent) if parent else None
            if parent:
                spec = (
                    PathFinder.find_spec(last, package.locations) if package and package.locations else None
                )
            else:
                spec = PathFinder.find_spec(name, self._path) or _found_otherwise(name)
            self._modules[name] = None if spec is None else _module(spec)
        return self._modules[name]

    def _contents(self, name: str) -> tuple[str, tuple[str, ...]]:
        if name not in self._read:
            self._read[name] = self._looked_into(name)
        return self._read[name]

    def _looked_into(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Digest of a module's file, and the names that it may import."""
        import ast

        found = self._found(name)
        if found is None or found.file is None:
            return "no file", ()
        try:
            content = found.file.read_bytes()
        except OSError as error:
            _tell(found.file, f"it cannot be read ({error.strerror or error})")
            return f"unreadable: {type(error).__name__}", ()
        digest = fingerprint_bytes(content)
        if found.file.suffix != ".py":
            return digest, ()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(content)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
            _tell(found.file, f"it is not Python ({where})")
            return digest, ()
        return digest, tuple(_imports(tree, name if found.locations else name.rpartition(".")[0]))


def _tell(file: Path, what: str) -> None:
    _LOG.warning("%s: %s, so what it imports is not seen when it changes; mend the file", file, what)


def _is_shared(home: Path) -> bool:
    import sysconfig

    return home.name in _INSTALLED or home == Path(sysconfig.get_path("stdlib")).resolve()


def _packages_of(module: str) -> Iterator[str]:
    """The packages around a module: Python runs them first."""
    while module := module.rpartition(".")[0]:
        yield module


def _module(spec: ModuleSpec) -> _Module:
    is_file = spec.has_location and spec.origin is not None
    locations = tuple(spec.submodule_search_locations or ())
    return _Module(Path(str(spec.origin)) if is_file else None, locations)


def _found_otherwise(name: str) -> ModuleSpec | None:
    """A top-level module that only another finder knows, as those of packages installed in place."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if finder is not PathFinder and find is not None and (spec := find(name, None)) is not None:
            return spec
    return None


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Every module that code may import, wherever in the file; some of the names are no modules.

    Args:
        tree: The code.
        package: The package that relative imports start from.
    """
    import ast

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that a ``from`` names; empty where it leads out of the package."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept) if kept and package else ""
