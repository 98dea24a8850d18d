"""The code location: everything that Dagster knows of SETR, of the settings that are found from here.

Importing this module reads ``setr.toml`` and builds the graph (``setr_assets.graph``); it opens no data set,
no store and no model, prints nothing and writes nothing.
"""

from __future__ import annotations

from pathlib import Path

from setr_assets.failures import explain_at_the_end
from setr_assets.graph import blueprints, build_definitions
from setr_lib.commands import env
from setr_lib.settings import Settings, load_settings

__all__ = ["blueprints", "build_definitions", "defs", "settings_of_this_checkout"]


def settings_of_this_checkout() -> Settings:
    """Settings from where Dagster starts the code server, else from the checkout that holds this package.

    Raises:
        SetrError: They cannot be read, or DAGSTER_HOME is that of the place where this project was before.
    """
    settings = load_settings(else_from=Path(__file__).parent)
    env.check(settings)
    return settings


_settings = settings_of_this_checkout()
explain_at_the_end(_settings)
defs = build_definitions(_settings)
