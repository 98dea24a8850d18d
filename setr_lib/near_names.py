"""The known name that is nearest to an unknown one: of data sets, methods, settings, commands.

For ids of images, which tools respell in ways of their own, see :mod:`setr_lib.benchmarks.near_ids`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_BETWEEN = re.compile(r"[-_ .]+")
_CLOSE = 0.6
"""How alike two names must be, by ``difflib``'s ratio."""


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The nearest of some names; capitals and what stands between words do not count.

    Args:
        name: A name that is not among them.
        known: The names that there are.

    Returns:
        The nearest one; None where none is near.
    """
    plain: dict[str, str] = {}
    for each in known:
        plain.setdefault(_plain(each), each)
    close = get_close_matches(_plain(name), plain, n=1, cutoff=_CLOSE)
    return plain[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message that there is no such name.

    Args:
        name: A name that is not among them.
        known: The names that there are.

    Returns:
        ``; did you mean 'cirr-val'?``; empty where no name is near.
    """
    near = near_name(name, known)
    return "" if near is None else f"; did you mean {near!r}?"


def misspelt(name: str, known: Iterable[str]) -> str:
    """The middle of a message that a name is not where another key needs it: either may be misspelt.

    Args:
        name: A name that is not among them.
        known: The names that there are.

    Returns:
        `` (the nearest is 'intersecton': is one of the two misspelt?)``; empty where no name is near.
    """
    near = near_name(name, known)
    return "" if near is None else f" (the nearest is {near!r}: is one of the two misspelt?)"


def _plain(name: str) -> str:
    return _BETWEEN.sub("-", name.casefold())
