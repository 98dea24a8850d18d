"""Named objects of one kind: retrieval methods, re-rankers, benchmarks, embedding spaces and generated texts.

A name is looked for among the built-in objects, those registered in this process, and entry points of
installed packages; a name with a colon is a path, ``package.module:NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.plugins import PluginError, load_object

if TYPE_CHECKING:
    from setr_lib.settings import Settings

T = TypeVar("T")


def modules_of(package: ModuleType) -> list[str]:
    """The names of a package's modules, sorted; none is imported.

    Args:
        package: The package.

    Returns:
        The names, without the package's.
    """
    return sorted(module.name for module in iter_modules(package.__path__))


class Catalogue(Generic[T]):
    """The objects of one kind by name.

    Args:
        what: What an object is called in messages, e.g. ``"retrieval method"``.
        groups: Entry-point groups; the first is the one to use, the others are earlier names of it.
        check: Turns what was found (an object, or a class to be called without arguments) into an object of
            the kind; raises ``error`` where that is impossible. Its second argument says where the object was
            found.
        error: The exception for names that are not known.
        built_in: Gives the objects that come with the package, when first asked for.
        built_in_called: Gives the one of a name without loading the others, or None where it cannot tell. By
            default all are loaded.
    """

    def __init__(
        self,
        what: str,
        groups: tuple[str, ...],
        check: Callable[[Any, str], T],
        error: type[SetrError],
        built_in: Callable[[], dict[str, T]],
        built_in_called: Callable[[str], T | None] | None = None,
    ) -> None:
        self.what, self.groups = what, groups
        self._check, self._error, self._load_built_in = check, error, built_in
        self._built_in_called = built_in_called or (lambda name: built_in().get(name))
        self._own: dict[str, T] = {}

    def register(self, name: str, candidate: Any) -> T:
        """Make an object known by its name in this process; a name that is known already is replaced.

        Args:
            name: The name to be found by.
            candidate: The object, or a class to be called without arguments.

        Returns:
            The object.

        Raises:
            SetrError: The candidate is not an object of this kind.
        """
        self._own[name] = made = self._check(candidate, name)
        return made

    def names(self) -> list[str]:
        """Every name that :meth:`get` knows, sorted; paths aside."""
        points = [point.name for group in self.groups for point in entry_points(group=group)]
        return sorted({*self._load_built_in(), *self._own, *points})

    def get(self, name: str, settings: Settings | None = None, also: Iterable[str] = ()) -> T:
        """The object called ``name``, or at ``package.module:NAME``.

        Args:
            name: A name of :meth:`names`, or a path with a colon.
            settings: Those that name it: they say where its module may lie, and whether they may name code at
                all.
            also: Further names that the message lists where there is no such name.

        Returns:
            The object.

        Raises:
            SetrError: There is no such name, or the object cannot be loaded, or is not of this kind.
        """
        if name in self._own:
            return self._own[name]
        if ":" in name:
            return self._loaded(lambda: load_object(name, settings), name)
        if (found := self._built_in_called(name)) is not None:
            return found
        if (point := self._installed(name)) is not None:
            return self._loaded(point.load, f"entry point {point.value!r}")
        if name in (built_in := self._load_built_in()):
            return built_in[name]
        known = sorted({*self.names(), *also})
        near = did_you_mean(name, known) or "."
        raise self._error(
            f"there is no {self.what} {name!r}; known: {', '.join(known)}{near} One in a file of yours is "
            f"named by its path, package.module:NAME; an installed one is an entry point of "
            f"{self.groups[0]!r}"
        )

    def entry_point(self, name: str) -> EntryPoint | None:
        """The entry point of an installed package that :meth:`get` loads for a name; it is not loaded here.

        Args:
            name: The name.

        Returns:
            The entry point; None for a path, and for what is registered or built in.
        """
        if ":" in name or name in self._own or self._built_in_called(name) is not None:
            return None
        return self._installed(name)

    def _installed(self, name: str) -> EntryPoint | None:
        points = (point for group in self.groups for point in entry_points(group=group))
        return next((point for point in points if point.name == name), None)

    def _loaded(self, load: Callable[[], Any], where: str) -> T:
        try:
            found = load()
        except PluginError as error:
            raise self._error(f"{self.what} {error}") from error
        except SetrError:
            raise
        except Exception as error:  # someone else's module may raise anything when it is imported
            reason = f"{type(error).__name__}: {error}"
            raise self._error(f"the {self.what} at {where} cannot be loaded: {reason}") from error
        return self._check(found, where)
