"""The registry's own error."""

from __future__ import annotations

from setr_lib.errors import SetrError


class RegistryError(SetrError):
    """A run, version or registered model cannot be written, found, loaded or trusted; the message says which
    and why.
    """
