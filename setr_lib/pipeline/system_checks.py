"""What is wrong with the settings of trained retrieval systems, found before anything is loaded or trained.

Read by ``setr doctor``, Dagster's code location and each training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.settings import (
    BUILT_IN_SPACES,
    DEFAULT_SPACE,
    OPEN_CLIP,
    TRAINED_SPACES,
    Settings,
    SettingsError,
)
from setr_lib.systems.options import SYNTHESISED, MappingOptions, QFormerOptions
from setr_lib.systems.recipe import RECIPES, Recipe

if TYPE_CHECKING:
    from setr_lib.methods.method import Method
    from setr_lib.systems.options import SystemOptions


def check_systems(settings: Settings) -> None:
    """Refuse settings of trained retrieval systems that cannot be followed. No data and no model is opened.

    Args:
        settings: The settings: ``[systems.NAME]``, and the methods and embedding spaces that need systems.

    Raises:
        SettingsError: Something is wrong; the message has a line for each fault.
    """
    if faults := [*system_faults(settings), *_missing_spaces(settings)]:
        raise SettingsError("\n".join(faults))


def system_faults(settings: Settings) -> list[str]:
    """What is wrong with the settings of all trained retrieval systems that settings name, beyond what is
    refused where settings are read (``setr_lib/systems/sections.py``): names, values, what must be alike.

    Args:
        settings: The settings.

    Returns:
        A line for each fault; none where all is well. A method without its embedding space is not among
        them, as methods are refused by themselves.
    """
    faults: list[str] = []
    for name in named_systems(settings):
        faults += option_faults(settings, RECIPES[name], system_options(settings, name))
    return [*faults, *(fault for _, fault in method_faults(settings))]


def named_systems(settings: Settings, needed: Iterable[str] | None = None) -> list[str]:
    """The trained retrieval systems that settings name: by a section ``[systems.NAME]``, by a method or an
    embedding space that needs one, or because another builds on it.

    Args:
        settings: The settings.
        needed: The trained systems that methods and spaces need; looked up by default.

    Returns:
        Their names; one that another builds on comes before it. Sections of systems that there are not are
        left out.
    """
    found = {*settings.systems, *(needed_by_methods(settings) if needed is None else needed)} & set(RECIPES)
    below = {RECIPES[name].builds_on for name in found}
    return [name for name in RECIPES if name in found or name in below]


def needed_by_methods(settings: Settings) -> list[str]:
    """The trained systems that configured methods, and the spaces that these search, need.

    Args:
        settings: The settings.

    Returns:
        Their names, once each; of a method or space that cannot be had, nothing.
    """
    from setr_lib.spaces.space import trained_by

    found: dict[str, None] = {}
    for method in _methods(settings):
        if method.trained is not None:
            found[method.trained] = None
        with contextlib.suppress(SetrError):
            if (system := trained_by(method.space, settings)) is not None:
                found[system] = None
    return list(found)


def system_options(settings: Settings, name: str) -> SystemOptions:
    """The settings of a trained retrieval system.

    Args:
        settings: The settings; ``[systems.NAME]`` is read.
        name: The system.

    Returns:
        Its options.

    Raises:
        SettingsError: A key is unknown or its value is not allowed; the message has a line for each.
    """
    from pydantic import ValidationError

    from setr_lib.systems.sections import faults_of

    section = settings.systems.get(name, {})
    try:
        return RECIPES[name].options.model_validate(section)
    except ValidationError as error:
        faults = faults_of({name: section})
        raise SettingsError("\n".join(f"systems.{fault}" for fault in faults)) from error


def option_faults(settings: Settings, recipe: Recipe, options: SystemOptions) -> list[str]:
    """What is wrong with one system's settings, beyond their single values.

    Args:
        settings: The settings.
        recipe: Which system.
        options: Its options.

    Returns:
        A line for each fault of its encoder and its triplets.
    """
    return [
        *_encoder_faults(settings, recipe, options),
        *_triplet_faults(settings, recipe, options),
    ]


def system_notices(settings: Settings, recipe: Recipe, options: SystemOptions) -> list[str]:
    """What a person should know of a system's training that does not stop it.

    Args:
        settings: The settings.
        recipe: Which system.
        options: Its options.

    Returns:
        Sentences.
    """
    training = settings.training
    captioned = options.triplets == SYNTHESISED and not (training.triplets or training.dataset)
    if isinstance(options, MappingOptions) and options.alignment_weight and not captioned:
        return [
            f"[systems.{recipe.name}] learns from images that have no captions, so the alignment with these "
            f"is left out: let [training] captions name captioned images and triplets be {SYNTHESISED!r}, or "
            "say alignment_weight = 0"
        ]
    return []


def _encoder_faults(settings: Settings, recipe: Recipe, options: SystemOptions) -> list[str]:
    where, name = f"[systems.{recipe.name}] encoder = {options.encoder!r}", options.encoder
    if name != DEFAULT_SPACE and name not in settings.spaces:
        known = (DEFAULT_SPACE, *settings.spaces)
        return [
            f"{where}: there is no such embedding space, only {', '.join(map(repr, known))}: add a section "
            f"[spaces.{name}]{did_you_mean(name, known)}"
        ]
    kind = OPEN_CLIP if name == DEFAULT_SPACE else settings.spaces[name].kind
    known_kinds = (*BUILT_IN_SPACES, *TRAINED_SPACES)
    if kind in known_kinds and kind not in recipe.encoders:
        allowed = " or ".join(map(repr, recipe.encoders))
        return [
            f"{where}: it is an embedding space of kind {kind!r}, and {recipe.name} is trained on top of a "
            f"frozen model of kind {allowed}: name another space"
        ]
    if isinstance(options, QFormerOptions) and options.start_from_encoder and kind == OPEN_CLIP:
        return [
            f"{where}: start_from_encoder takes the encoder's own Q-Former, and a model of open_clip has "
            "none: name a space of kind 'blip2', or leave start_from_encoder out"
        ]
    if kind == OPEN_CLIP and recipe.reads_patches:
        return _patch_faults(settings, where, name, recipe)
    return []


def _patch_faults(settings: Settings, where: str, space: str, recipe: Recipe) -> list[str]:
    from setr_lib.spaces.open_clip_config import gives_patch_tokens

    model = settings.encoder_name if space == DEFAULT_SPACE else settings.space_options(space).get("name", "")
    if gives_patch_tokens(str(model)) is not False:
        return []
    return [
        f"{where}: {recipe.name} reads patch tokens, and the vision tower of {model} gives none: take one of "
        "open_clip's own vision transformers, ViT-B-32 or ViT-L-14 for example"
    ]


def _triplet_faults(settings: Settings, recipe: Recipe, options: SystemOptions) -> list[str]:
    from setr_lib.benchmarks.errors import DatasetError
    from setr_lib.benchmarks.sets import train_set

    where, source = f"[systems.{recipe.name}] triplets = {options.triplets!r}", options.triplets
    if source != SYNTHESISED:
        try:
            train_set(settings, source)
        except DatasetError as error:
            return [f"{where}: {error}"]
    elif not settings.training.is_named:
        return [
            f"{where}: they are made of what [training] names, which is nothing: let it name captions, a "
            "file of triplets or a data set, or let triplets be a data set with a train split"
        ]
    return []


def method_faults(settings: Settings) -> list[tuple[str, str]]:
    """Configured methods of trained systems whose embedding space is not that of the system's encoder.

    Args:
        settings: The settings.

    Returns:
        The systems' names, and what to do about each.
    """
    found: list[tuple[str, str]] = []
    for method in _methods(settings):
        if method.trained in RECIPES:
            encoder = system_options(settings, method.trained).encoder
            found += [(method.trained, fault) for fault in _other_space(method, method.trained, encoder)]
    return found


def _missing_spaces(settings: Settings) -> list[str]:
    """Methods that search the space of a trained system, where that has no section."""
    from setr_lib.spaces.space import how_to_describe

    return [
        f"the method {name!r} searches the embedding space {name!r}: {how_to_describe(name, settings)}"
        for name in settings.coarse.strategies
        if name in TRAINED_SPACES and name not in settings.spaces
    ]


def _other_space(method: Method, system: str, encoder: str) -> list[str]:
    if RECIPES[system].own_space or encoder == method.space:
        return []
    return [
        f"the method {method.name!r} searches the embedding space {method.space!r}, and [systems.{system}] "
        f"encoder is {encoder!r}: the queries of one cannot search the images of the other; write "
        f'[methods.{method.name}] space = "{encoder}", or leave encoder out'
    ]


def _methods(settings: Settings) -> list[Method]:
    """The methods that settings name, less those that cannot be had, which their own check tells."""
    from setr_lib.methods.method import get_method, ranks_captions

    found: list[Method] = []
    for name in (*settings.coarse.strategies, *settings.coarse.caption_strategies):
        with contextlib.suppress(SetrError):
            method = get_method(name, settings)
            found += [] if ranks_captions(method) else [method]
    return found
