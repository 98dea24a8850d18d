"""What a retrieval method is, and how one is found by its name.

A method of one's own is a class with ``name`` and ``scores`` (see :class:`Method`). It is known by
``register``, by an entry point of the group ``setr.methods``, or by ``package.module:NAME`` instead of a
name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from setr_lib.catalogue import Catalogue, modules_of
from setr_lib.errors import told_as
from setr_lib.methods.needs import (
    CAPTION_VECTORS,
    CAPTIONS,
    COMPOSITIONS,
    IMAGE_CAPTIONS,
    QUERY_VECTORS,
    REFERENCE_PATCHES,
    REFERENCE_PIXELS,
    MethodError,
)
from setr_lib.methods.options import Option
from setr_lib.methods.similarity import similarity, unit
from setr_lib.settings import DEFAULT_SPACE, METHOD_ENTRY_POINTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import MethodInputs, SearchedGallery
    from setr_lib.settings import Settings
    from setr_lib.texts.kind import TextKind
    from setr_lib.weights import Weights

TRAINING_FREE, ZERO_SHOT_TRAINED, SUPERVISED = "training-free", "zero-shot trained", "supervised"
"""What a method has learned from: nothing, data of no benchmark, or a benchmark's own triplets."""
TRAINED_ELSEWHERE = "trained elsewhere, on what its model card says"
"""The label of what models of others do: their training data may well hold triplets of a benchmark's training
split."""
NEEDS = frozenset(
    {
        CAPTIONS,
        COMPOSITIONS,
        IMAGE_CAPTIONS,
        CAPTION_VECTORS,
        QUERY_VECTORS,
        REFERENCE_PIXELS,
        REFERENCE_PATCHES,
    }
)
"""What a method may ask for in ``needs``."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_TAKEN = ("file", "random")
"""The methods of the rows that no method made: a ranking from elsewhere, and the random floor."""


@dataclass(frozen=True)
class OptionFile:
    """An option of a method that names a file of the user's, relative to the folder of ``setr.toml``."""

    option: str
    """The key in ``[methods.NAME]``; ``inputs.options`` has the absolute path."""
    holds: str
    """What the file holds, for messages, e.g. ``"generic subjects, a phrase on each line"``."""
    required: bool = True
    """Whether the method cannot score without it."""


class Method(ABC):
    """A way to score the images of a gallery for composed queries."""

    name: str
    """Its name in settings, tables and reports."""
    space: str = DEFAULT_SPACE
    """The embedding space whose gallery vectors it searches: ``clip``, or the NAME of a section
    ``[spaces.NAME]``. A method with a query encoder of its own names the space that the encoder was trained
    for."""
    needs: frozenset[str] = frozenset()
    """What must be there besides vectors: ``captions`` of the reference images, ``compositions`` of the
    queries (both generated texts), ``image_captions`` (of the gallery's images, searched in place of
    vectors), ``caption_vectors`` (of these captions, in the method's ``space``), ``query_vectors``,
    ``reference_pixels`` or ``reference_patches`` (all three made from the reference pictures)."""
    texts: tuple[TextKind, ...] = ()
    """Kinds of generated text that the method adds; ``inputs.queries.text(kind.name)`` gives them."""
    label: str = TRAINING_FREE
    """What it has learned from, as reports say it."""
    source: str = ""
    """Where it was published; a reconstruction says so."""
    options: tuple[Option, ...] | None = None
    """The keys of ``[methods.NAME]`` that it reads, apart from those of ``files``: settings are held against
    them when methods are loaded. None: it declares nothing, and any key will do."""
    wraps: Method | None = None
    """The method that it wraps and whose options it passes on: the section of that one counts, too, and its
    keys may also stand in this one's."""
    option_keys: Mapping[str, str] = MappingProxyType({})
    """Options that are settings of another section than ``[methods.NAME]``: the key by the option's name,
    e.g. ``{"anchor_share": "coarse.anchor_share"}``."""
    files: tuple[OptionFile, ...] = ()
    """Options that name files; :func:`lacking_files` says which of those that it cannot do without are
    unnamed."""
    trained: str | None = None
    """The trained system whose weights it needs, by name; it is left out while no version is promoted."""
    is_cosine: bool = True
    """Whether its scores are cosines, or as small: only then may a re-ranker's probability be added to
    them.
    """

    def with_weights(self, weights: Weights) -> Method:
        """Load the trained weights. Called once for a version, before the first scores, where ``trained``
        says so.

        Args:
            weights: The version: the folders of its bundle, and the space that the method searches.

        Returns:
            The method that scores: another object for another version, with the same ``name``, ``space``,
            ``needs``, ``texts`` and ``is_cosine``.
        """
        raise MethodError(f"retrieval method {self.name!r} has no with_weights(weights) to load them")

    def with_options(self, options: Mapping[str, Any], find: Callable[[str], Method]) -> Method:
        """The method under settings that change what it is: which method it wraps, so what it needs and
        searches. Options that only change its scores are read in ``scores``. Called whenever settings name
        the method.

        Args:
            options: The keys of ``[methods.NAME]``; empty without that section. They are held against
                ``options`` after this, with those of what it wraps then.
            find: Gives a method by its name or ``package.module:NAME``, under its own options.

        Returns:
            The method to use, with the same ``name``; itself, unless it says otherwise.
        """
        return self

    def statistics(self, gallery: SearchedGallery) -> Any:
        """What the method must know of the whole gallery before it scores: a first pass, made once per
        gallery.

        Args:
            gallery: The images that a group of queries searches.

        Returns:
            Anything; ``scores`` finds it as ``inputs.statistics``.
        """
        return None

    @abstractmethod
    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """Score every image of the gallery for every query of a block.

        Args:
            inputs: A block of queries, and the gallery (or category of it) that they search.

        Returns:
            ``float32[queries, gallery]``, finite, higher is better. A query's row must not depend on the
            other queries of the block: blocks are cut by memory.
        """

    def search_vectors(self, inputs: MethodInputs) -> NDArray[np.float32] | None:
        """One vector for each query, where the method's scores are nothing but inner products with it.

        A gallery is then ranked block by block, and its vectors need not be held in memory.

        Args:
            inputs: As in :meth:`scores`. The gallery is one whose vectors are not held: it has ids and the
                mean vector (``center``, one pass over the store), and raises ``VectorsNotHeldError`` for
                anything else. ``statistics`` is given the same before.

        Returns:
            ``float32[q, d]``, whose inner products with the images' vectors are the scores; 0 where nothing
            is known. None, unless a method says otherwise: it needs the gallery's vectors.
        """
        return None


@dataclass(frozen=True)
class VectorMethod(Method):
    """A method that makes one vector of a query and ranks images by its cosine with theirs."""

    name: str
    query_vectors: Callable[[MethodInputs], NDArray[np.floating]]
    """The queries' vectors ``[q, d]``; normalised here."""
    needs: frozenset[str] = frozenset()
    label: str = TRAINING_FREE
    source: str = ""
    space: str = DEFAULT_SPACE
    option_keys: Mapping[str, str] = field(default_factory=dict, hash=False)
    texts: tuple[TextKind, ...] = ()
    options: tuple[Option, ...] | None = None

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The cosine of each query's vector with each image's."""
        return similarity(unit(self.query_vectors(inputs)), inputs.gallery.vectors)

    def search_vectors(self, inputs: MethodInputs) -> NDArray[np.float32] | None:
        """The unit vectors of the queries; None for a subclass that scores in another way."""
        kind = type(self)
        if kind.scores is not VectorMethod.scores:
            return None
        return unit(self.query_vectors(inputs))


class _Adopted(Method):
    """An object with ``name``, ``needs`` and ``scores`` that does not derive from :class:`Method`."""

    def __init__(self, adopted: Any) -> None:
        self.adopted = adopted
        self.name, self.needs = str(adopted.name), frozenset(getattr(adopted, "needs", ()))
        self.space = str(getattr(adopted, "space", DEFAULT_SPACE))
        self.texts = tuple(getattr(adopted, "texts", ()))
        self.label = str(getattr(adopted, "label", TRAINING_FREE))
        self.source = str(getattr(adopted, "source", ""))
        self.is_cosine = bool(getattr(adopted, "is_cosine", True))
        self.trained = getattr(adopted, "trained", None)
        self.option_keys = dict(getattr(adopted, "option_keys", {}))
        self.files = tuple(getattr(adopted, "files", ()))
        self.options = getattr(adopted, "options", None)
        inner = getattr(adopted, "wraps", None)
        self.wraps = None if inner is None else as_method(inner, f"what {self.name!r} wraps")

    def with_options(self, options: Mapping[str, Any], find: Callable[[str], Method]) -> Method:
        own = getattr(self.adopted, "with_options", None)
        found = self.adopted if own is None else own(options, find)
        return self if found is self.adopted else as_method(found, f"what {self.name!r} gives for options")

    def with_weights(self, weights: Weights) -> Method:
        found = self.adopted.with_weights(weights)
        return self if found is self.adopted else as_method(found, f"what {self.name!r} gives for weights")

    def statistics(self, gallery: SearchedGallery) -> Any:
        own = getattr(self.adopted, "statistics", None)
        return None if own is None else own(gallery)

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        return self.adopted.scores(inputs)


def as_method(candidate: Any, where: str) -> Method:
    """``candidate`` as a method.

    Args:
        candidate: A method, a class of one, or any object with ``name`` and ``scores``.
        where: Where it was found, for the message.

    Returns:
        The method.

    Raises:
        MethodError: It cannot be made, has no plain ``name`` or no ``scores``, needs what there is not, or
            names a trained system and cannot load weights.
    """
    with told_as(MethodError, f"the retrieval method at {where}"):
        made = candidate() if isinstance(candidate, type) else candidate
    if not isinstance(getattr(made, "name", None), str) or not callable(getattr(made, "scores", None)):
        raise MethodError(f"{where} is not a retrieval method: it needs a name and scores(inputs)")
    if not _NAME.fullmatch(made.name) or "--" in made.name or made.name in _TAKEN:
        raise MethodError(
            f"{where}: a retrieval method cannot be called {made.name!r}: use letters, digits, '.', '-' and "
            f"'_', a letter, digit or '_' first, no '--', and none of {', '.join(_TAKEN)}"
        )
    method = made if isinstance(made, Method) else _Adopted(made)
    unknown = set(method.needs) - NEEDS
    if unknown:
        raise MethodError(
            f"retrieval method {method.name!r} needs {sorted(unknown)}; known are {sorted(NEEDS)}"
        )
    _check_declared(method)
    if method.trained is not None and not _loads_weights(made):
        raise MethodError(
            f"retrieval method {method.name!r} needs the weights of {method.trained!r}, and has no "
            "with_weights(weights) to load them"
        )
    return method


def _check_declared(method: Method) -> None:
    declared, inner = method.options, method.wraps
    if declared is not None and not (
        isinstance(declared, tuple) and all(isinstance(option, Option) for option in declared)
    ):
        raise MethodError(
            f"retrieval method {method.name!r}: options is not a tuple of Option(...) of "
            "setr_lib.methods.options; leave it out to declare none"
        )
    if inner is not None and not isinstance(inner, Method):
        raise MethodError(f"retrieval method {method.name!r}: wraps is not a retrieval method")


def _loads_weights(made: Any) -> bool:
    own = getattr(type(made), "with_weights", None)
    return callable(own) and own is not Method.with_weights


def _built_in() -> dict[str, Method]:
    import setr_lib.methods as package

    return _methods_in(package, modules_of(package))


def _methods_in(package: ModuleType, modules: Iterable[str]) -> dict[str, Method]:
    found: dict[str, Method] = {}
    for name in modules:
        for method in _methods_of(import_module(f"{package.__name__}.{name}")):
            if method.name in found:
                raise MethodError(f"two built-in retrieval methods are called {method.name!r}: rename one")
            found[method.name] = method
    return found


@cache
def _sources(*folders: str) -> dict[str, str]:
    """The modules with methods of a package's folders, and their text; none is imported."""
    texts = {
        path.stem: path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted(Path(folder).glob("*.py"))
    }
    return {module: text for module, text in texts.items() if "\nMETHODS" in text}


def _built_in_called(name: str) -> Method | None:
    """The built-in method of a name. Only modules that give something this name in so many words are
    imported: ``name = "..."``, or the first argument of a class. Others may import what takes its time.
    """
    import setr_lib.methods as package

    named = re.compile(rf"(\bname\b[^=\n]*=|\b[A-Z]\w*\()\s*[\"']{re.escape(name)}[\"']")
    quoted = (f'"{name}"', f"'{name}'")
    modules = [
        module
        for module, text in _sources(*package.__path__).items()
        if any(word in text for word in quoted) and named.search(text)  # the search alone takes milliseconds
    ]
    return _methods_in(package, modules).get(name)


def _methods_of(module: ModuleType) -> list[Method]:
    """The methods that a module of this package lists in ``METHODS``."""
    listed = getattr(module, "METHODS", None)
    if listed is not None:
        return [as_method(candidate, f"METHODS of {module.__name__}") for candidate in listed]
    own = [name for name, value in vars(module).items() if _is_method_of(module, value)]
    if own and module.__name__ != __name__:
        raise MethodError(
            f"module {module.__name__} holds {', '.join(own)} and no METHODS, by which built-in methods are "
            f"found: write METHODS = (...), with an object of each"
        )
    return []


def _is_method_of(module: ModuleType, value: Any) -> bool:
    if isinstance(value, type):
        return issubclass(value, Method) and value.__module__ == module.__name__
    return isinstance(value, Method)


CATALOGUE: Catalogue[Method] = Catalogue(
    "retrieval method", METHOD_ENTRY_POINTS, as_method, MethodError, _built_in, _built_in_called
)

Registered = TypeVar("Registered")


def register(method: Registered) -> Registered:
    """Make a method known by its ``name`` in this process; usable as a decorator of a class.

    Args:
        method: A method, or a class of one that is made without arguments.

    Returns:
        ``method`` itself. Registering a name again replaces it, so a notebook cell can be run twice.

    Raises:
        MethodError: It is not a method.
    """
    made = as_method(method, getattr(method, "__name__", repr(method)))
    CATALOGUE.register(made.name, made)
    return method


def ranks_captions(method: Method) -> bool:
    """Whether a method searches the captions of the gallery's images, and so ranks images without a vector,
    too.

    Args:
        method: The retrieval method.

    Returns:
        Whether it needs ``image_captions``.
    """
    return IMAGE_CAPTIONS in method.needs


def lacking_files(method: Method, options: Mapping[str, Any]) -> list[OptionFile]:
    """The files that a method cannot do without and that its options do not name.

    Args:
        method: The retrieval method.
        options: What settings say to it.

    Returns:
        The files; none where it can score.
    """
    return [file for file in method.files if file.required and file.option not in options]


def check_files(method: Method, options: Mapping[str, Any]) -> None:
    """Refuse a method whose options do not name the files that it needs, or name what is no file.

    Args:
        method: The retrieval method.
        options: What settings say to it, paths absolute.

    Raises:
        MethodError: A file is not named, or not there; the message says what to write, and where.
    """
    section = f"[methods.{method.name}]"
    if lacking := lacking_files(method, options):
        needed = "; ".join(f'{file.option} = "FILE" ({file.holds})' for file in lacking)
        raise MethodError(
            f"retrieval method {method.name!r} needs {needed}: write it into {section} of setr.toml, and the "
            "method into [coarse] strategies"
        )
    for file in method.files:
        named = options.get(file.option)
        if named is not None and not (isinstance(named, str) and Path(named).is_file()):
            raise MethodError(f"{section} {file.option} = {named!r}: there is no such file ({file.holds})")


def caption_space(method: Method) -> str | None:
    """The embedding space whose vectors of the gallery's captions a method searches.

    Args:
        method: The retrieval method.

    Returns:
        The space, by its name in settings; None for a method that does not need ``caption_vectors``.
    """
    return method.space if CAPTION_VECTORS in method.needs else None


def needs_space(method: Method) -> bool:
    """Whether a method needs its embedding space: all do but those that search captions by words alone.

    Args:
        method: The retrieval method.

    Returns:
        Whether settings must describe its ``space``.
    """
    return not ranks_captions(method) or caption_space(method) is not None


def method_names() -> list[str]:
    """Every name that :func:`get_method` knows: built in, registered, and installed as entry points."""
    return CATALOGUE.names()


def get_method(name: str, settings: Settings | None = None, also: Iterable[str] = ()) -> Method:
    """The method called ``name``, or at ``package.module:NAME``.

    Args:
        name: A name of :func:`method_names`, or a path with a colon.
        settings: Those that name it; a module may lie beside their file.
        also: Further names that the message lists where there is no such method.

    Returns:
        The method, under what settings say to it.

    Raises:
        MethodError: There is no such method; the message lists the known names. Or it cannot be loaded, or
            wraps itself, or searches an embedding space that the settings do not describe.
    """
    method = CATALOGUE.get(name, settings, also)
    if settings is not None:
        method = _under_options(method, settings, (method.name,))
    if settings is None or not needs_space(method) or method.space in (DEFAULT_SPACE, *settings.spaces):
        return method
    from setr_lib.spaces.space import how_to_describe

    raise MethodError(
        f"retrieval method {method.name!r} searches the embedding space {method.space!r}: "
        f"{how_to_describe(method.space, settings)}"
    )


def _under_options(method: Method, settings: Settings, outer: tuple[str, ...]) -> Method:
    """``method`` as its section of settings makes it; ``outer`` are it and the methods that wrap it."""

    def find(name: str) -> Method:
        inner = CATALOGUE.get(name, settings)
        if inner.name in outer:
            chain = " wraps ".join((*outer, inner.name))
            raise MethodError(f"[methods.{method.name}]: {chain}: a method cannot wrap itself")
        return _under_options(inner, settings, (*outer, inner.name))

    with told_as(MethodError, f"retrieval method {method.name!r}"):
        found = method.with_options(settings.methods.get(method.name, {}), find)
    if found.name != method.name:
        raise MethodError(f"retrieval method {method.name!r} calls itself {found.name!r} under its options")
    return found
