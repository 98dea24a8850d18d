"""The root of every error that is meant for a person: it says what is wrong, where, and what to do."""

from __future__ import annotations


class SetrError(Exception):
    """Base class. A message names the file, row or id at fault and the way out; no traceback is needed to act
    on it.
    """
