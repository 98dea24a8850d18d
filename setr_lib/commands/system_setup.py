"""Whether the trained retrieval systems that settings name can be trained: their settings, and the files of
their triplets. Nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.sets import train_set
from setr_lib.commands.check import Check
from setr_lib.pipeline.system_checks import (
    method_faults,
    named_systems,
    option_faults,
    system_notices,
    system_options,
)
from setr_lib.settings import Settings
from setr_lib.systems.options import SYNTHESISED
from setr_lib.systems.recipe import RECIPES


def system_setup(settings: Settings) -> Iterator[Check]:
    """A check for each trained retrieval system that settings name; none where they name none.

    Args:
        settings: The settings.

    Yields:
        The checks; what a configured method lacks is told by the check of the methods.
    """
    what = "trained system"
    state = cache(lambda source: _source_state(settings, source))
    for name in named_systems(settings):
        recipe = RECIPES[name]
        options = system_options(settings, name)
        value = f"{name}, trained on {options.triplets}"
        if faults := option_faults(settings, recipe, options):
            yield Check(what, value, "broken", "; ".join(faults))
            continue
        found = state(options.triplets)
        if found.status == "ok" and (notices := system_notices(settings, recipe, options)):
            found = Check("", "", "warning", "; ".join(notices))
        first = _trained_first(settings, name)
        detail = "; ".join(words for words in (found.detail, first) if words)
        yield Check(what, value, found.status, detail)
    yield from (Check(what, name, "broken", fault) for name, fault in method_faults(settings))


def _trained_first(settings: Settings, name: str) -> str:
    """What else is trained for a system, though no section names it."""
    below = RECIPES[name].builds_on
    if below is None or below in settings.systems:
        return ""
    return f"it builds on {below}, which is trained before it, with its default settings"


def _source_state(settings: Settings, source: str) -> Check:
    """What there is of a data set's train split; that of ``[training]`` is told with the training images."""
    from setr_lib.benchmarks.source import maker_of
    from setr_lib.datasets.images import find_images
    from setr_lib.datasets.train_splits import train_split
    from setr_lib.sources import data_sources

    if source == SYNTHESISED:
        return Check("", "", "ok")
    train = train_set(settings, source)
    maker = maker_of(train.root, data_sources(settings))
    drawn = "" if maker is None else f"made when something is trained on it: {maker.remedy(train.root)}"
    absent = [file.path for file in train.benchmark.files(train) if not file.path.exists()]
    if absent and drawn:
        return Check("", "", "later", f"{train.root} is not there yet; {drawn}")
    try:
        split = train_split(settings, source)
    except DatasetError as error:
        return Check("", "", "missing" if absent else "broken", str(error))
    found = find_images(split.image_frame)
    missing = found.filter(status="missing").height
    counted = f"{split.triplets.height:,} triplets of {found.height:,} images"
    if not missing:
        return Check("", "", "ok", counted)
    remedy = drawn or train.benchmark.image_source(train).source
    return Check(
        "",
        "",
        "missing" if missing == found.height else "warning",
        f"{counted}, {missing:,} of which are missing and not trained on: they come from {remedy}",
    )
