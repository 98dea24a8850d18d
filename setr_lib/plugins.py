"""Objects that settings name as ``package.module:NAME``: the one place that imports code by name."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from setr_lib.errors import SetrError
from setr_lib.settings import UNTRUSTED, Settings


class PluginError(SetrError):
    """``package.module:NAME`` cannot be loaded, or must not be; the message says why and what to do."""


def load_object(name: str, settings: Settings | None = None) -> Any:
    """The object that ``name`` (``package.module:NAME``) stands for.

    Args:
        name: Module and attribute. The module is looked for where Python looks, then beside ``setr.toml``.
        settings: Those that name it. Without settings the caller's own code does, which is trusted.

    Returns:
        The module's attribute, as it is.

    Raises:
        PluginError: The settings come from a file that may not name code, the module cannot be imported, or
            it has no such attribute.
    """
    if settings is not None:
        if not settings.trusted:
            raise PluginError(f"{name!r} would run code, {UNTRUSTED}")
        folder = str(settings.base_dir.resolve())
        if folder not in sys.path:
            sys.path.append(folder)  # last: nothing that is installed is ever hidden by it
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:
        beside = "" if settings is None else f" (looked for on Python's path and in {settings.base_dir})"
        raise PluginError(f"{name!r} cannot be loaded: {type(error).__name__}: {error}{beside}") from error
