"""What a retrieval method says of its options, the keys of ``[methods.NAME]``, and how settings are held
against it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from setr_lib.methods.needs import MethodError

if TYPE_CHECKING:
    from setr_lib.methods.method import Method

_KINDS = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", list: "a list"}

_IN_VARIABLES = " (SETR_METHODS__NAME__OPTION gives a text: set SETR_METHODS to JSON)"


@dataclass(frozen=True)
class Option:
    """An option of a method: a key of ``[methods.NAME]``, and the values that it may have."""

    name: str
    """The key."""
    kind: type = float
    """``float`` (whole numbers, too), ``int``, ``str``, ``bool`` or ``list``."""
    least: float | None = None
    """The least number allowed; None for any."""
    most: float | None = None
    """The largest number allowed; None for any."""
    default: Any = None
    """What :meth:`of` gives where settings say nothing."""
    meaning: str = ""
    """What it is, in a sentence, for ``docs/settings.md``."""

    def of(self, options: Mapping[str, Any], otherwise: Any = None) -> Any:
        """The value in a method's options.

        Args:
            options: What settings say to the method (``inputs.options``).
            otherwise: What is given where they say nothing, in place of :attr:`default`.

        Returns:
            The value, of :attr:`kind`; the default as it is.

        Raises:
            MethodError: It is not allowed; the message says what is. (Settings are checked when methods are
                loaded: this is for options that come from elsewhere.)
        """
        if self.name not in options:
            return self.default if otherwise is None else otherwise
        value = options[self.name]
        if not self.allows(value):
            raise MethodError(f"{self.name} = {value!r}: write {self.allowed}")
        return self.kind(value)

    def allows(self, value: Any) -> bool:
        """Whether a value is of the kind and within the bounds.

        Args:
            value: The value.
        """
        if self.kind in (float, int):
            if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
                return False
            least = -math.inf if self.least is None else self.least
            most = math.inf if self.most is None else self.most
            return math.isfinite(value) and least <= value <= most
        return isinstance(value, self.kind)

    @property
    def allowed(self) -> str:
        """What may be written, e.g. ``a number from 0 to 1``."""
        bounds = [(" from", self.least), (" to", self.most)]
        if self.most is None:
            bounds = [(", at least", self.least)]
        elif self.least is None:
            bounds = [(", at most", self.most)]
        said = "".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return _KINDS.get(self.kind, f"a value of {self.kind.__name__}") + said


def layers(method: Method) -> tuple[Method, ...]:
    """A method and those that it wraps (``method.wraps``), outermost first.

    Args:
        method: The retrieval method.

    Returns:
        The methods: itself alone where it wraps none.
    """
    return (method,) if method.wraps is None else (method, *layers(method.wraps))


def section_of(sections: Mapping[str, Mapping[str, Any]], method: Method) -> dict[str, Any]:
    """What settings say to a method: the keys of its own section, and those of the sections of the methods
    that it wraps.

    Args:
        sections: ``[methods.NAME]`` by name.
        method: The retrieval method.

    Returns:
        Value by key. The outer section counts where two have a key; and a key that an outer method has
        declared is not taken from an inner one's section: it would be another option.
    """
    found: dict[str, Any] = {}
    for layer in reversed(layers(method)):
        own = {option.name for option in layer.options or ()}
        inner = {key: value for key, value in found.items() if key not in own}
        found = {**inner, **sections.get(layer.name, {})}
    return found


def check_section(method: Method, section: Mapping[str, Any]) -> None:
    """Refuse a section ``[methods.NAME]`` that does not fit the options of its method.

    A wrapper's section may hold the options of the methods that it wraps. Where one of these has declared
    nothing, any other key may be meant for it.

    Args:
        method: The retrieval method.
        section: The keys of its section.

    Raises:
        MethodError: A key is not an option (the message has the nearest, and all), has its place in another
            section, or its value is not allowed.
    """
    every = layers(method)
    declared = {option.name: option for layer in reversed(every) for option in layer.options or ()}
    known = [*declared, *(file.option for layer in every for file in layer.files)]
    for key, value in section.items():
        at = f"[methods.{method.name}] {key}"
        if (elsewhere := method.option_keys.get(key)) is not None:
            table, _, last = elsewhere.rpartition(".")
            raise MethodError(f"{at}: set {last} in [{table}] instead")
        if key not in known and all(layer.options is not None for layer in every):
            raise MethodError(f"{at}: there is no such option; {_known(key, known)}")
        if key in declared and not declared[key].allows(value):
            told = f"{at} = {value!r}: write {declared[key].allowed}"
            raise MethodError(f"{told}, without quotes{_IN_VARIABLES}" if isinstance(value, str) else told)


def _known(key: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    if not names:
        return "it has none"
    close = get_close_matches(key, names, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"It has: {', '.join(names)}"
