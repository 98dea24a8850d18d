"""What is installed and configured besides data sets: packages, the two models, prompts, methods, stores.

No weights are loaded and nothing is made: a model's folder is listed and its processor opened, an MLflow
store opened for reading only.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from setr_lib.commands import env, place
from setr_lib.commands.check import Check
from setr_lib.commands.model_checks import (
    cache_check,
    device_checks,
    hub_check,
    open_clip_check,
    option_remedy,
    sentence_check,
)
from setr_lib.errors import SetrError
from setr_lib.files import shown_address, sqlite_path
from setr_lib.settings import (
    BLIP2,
    DEFAULT_SPACE,
    OPEN_CLIP,
    QWEN_RERANKER,
    SENTENCE_TRANSFORMERS,
    TRAINED_SPACES,
    JudgeSettings,
    Settings,
)
from setr_lib.spaces.open_clip_config import model_config


def installed() -> dict[str, str | None]:
    """Version by package, of everything that SETR requires; ``None`` for one that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _required():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _required() -> Iterator[str]:
    try:
        requirements = metadata.requires("setr") or []
    except metadata.PackageNotFoundError:
        return  # run from a source tree without an installation: nothing says what is required
    for requirement in requirements:
        if "extra ==" not in requirement:
            yield re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def configured(settings: Settings, kinds: set[str], *, quick: bool = False) -> list[Check]:
    """The checks of everything that settings name.

    Args:
        settings: The settings.
        kinds: The kinds of the data sets, for prompts of their own.
        quick: Open no model's processor, and ask no server of MLflow's.

    Returns:
        One entry per thing.
    """
    from setr_lib.commands.disk_checks import damage_checks

    models = [
        _or_hidden("encoder", lambda: _encoder(settings)),
        *_spaces(settings),
        _or_hidden("multimodal LLM", lambda: _judge(settings, quick=quick)),
        *_qwen_reranker(settings, quick=quick),
    ]
    return [
        _storage(settings),
        *damage_checks(settings),
        *models,
        *cache_check(models),
        *device_checks(settings),
        *_endpoint(settings),
        _prompts(settings, kinds),
        _methods(settings),
        _rerankers(settings),
        *_trained_weights(settings),
        _registry(settings, quick=quick),
        _dagster(settings),
        _environment_file(settings),
        _installation(settings),
    ]


def _or_hidden(what: str, check: Callable[[], Check]) -> Check:
    """A model's check, also where this user may not look at its files."""
    try:
        return check()
    except PermissionError as error:
        return Check(what, str(error.filename), "missing", "this user may not look at it (permission denied)")


def _storage(settings: Settings) -> Check:
    root = settings.storage_root
    there = next((folder for folder in (root, *root.parents) if folder.exists()), root)
    if not there.is_dir():
        return Check("storage", str(root), "broken", f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("storage", str(root), "broken", f"{there} cannot be written to")
    return Check(
        "storage", str(root), "ok" if root.exists() else "later", "" if root.exists() else "made on first use"
    )


def _encoder(settings: Settings) -> Check:
    remedy = '[models.encoder] name = "local-dir:FOLDER", without pretrained'
    return open_clip_check("encoder", settings.encoder_name, settings.models.encoder.pretrained, remedy)


def _spaces(settings: Settings) -> Iterator[Check]:
    """The spaces of ``[spaces.NAME]``: class and options are looked at; none is loaded."""
    used = {*used_spaces(settings), *_caption_spaces(settings)}
    for name, described in settings.spaces.items():
        what = f"space {name}"
        found = _tried(what, described.kind, functools.partial(_look_at_space, settings, name))
        options = settings.space_options(name)
        kind = options.get("kind", OPEN_CLIP) if described.kind in TRAINED_SPACES else described.kind
        if found.status == "ok" and kind == OPEN_CLIP:
            remedy = option_remedy("name").replace("FOLDER", "local-dir:FOLDER")
            found = open_clip_check(what, str(options["name"]), options.get("pretrained"), remedy)
        elif found.status == "ok" and kind == SENTENCE_TRANSFORMERS:
            found = sentence_check(what, str(options["model"]), options.get("revision"))
        elif found.status == "ok" and kind == BLIP2:
            found = hub_check(what, str(options["name"]), options.get("revision"), option_remedy("name"))
        if name not in used and (not found.at_fault or found.bytes_to_come != 0):
            unused = "no configured method searches it, so nothing is embedded in it"
            found = Check(what, found.value, "warning", unused)
        yield found


def _look_at_space(settings: Settings, name: str) -> None:
    """Raise ``SpaceError`` where a space's class cannot be had, or does not take the options."""
    from setr_lib.spaces.space import CATALOGUE, SpaceError

    kind, options = settings.spaces[name].kind, settings.space_options(name)
    if kind in TRAINED_SPACES:  # its options are those of its encoder
        kind = options.pop("kind", OPEN_CLIP)
    factory: Any = CATALOGUE.get(kind, settings)
    is_trained = getattr(factory, "trained", None) is not None
    try:
        signature = inspect.signature(factory.with_weights if is_trained else factory)
    except ValueError:  # not every callable says what it takes
        return
    given = {"weights": None} if is_trained else {"device": settings.models.device}
    try:
        signature.bind(**given, **options)
    except TypeError as error:
        raise SpaceError(f"[spaces.{name}.options] do not fit: {error}") from None


def used_spaces(settings: Settings) -> list[str]:
    """The embedding spaces that configured methods search.

    Args:
        settings: The settings.

    Returns:
        Their names; ``clip`` where a method cannot be loaded, which the check of the methods tells.
    """
    from setr_lib.pipeline.context import pipeline_context

    try:
        return pipeline_context(settings).methods.spaces
    except SetrError:
        return [DEFAULT_SPACE]


def _caption_spaces(settings: Settings) -> list[str]:
    from setr_lib.pipeline.context import pipeline_context

    try:
        return pipeline_context(settings).methods.caption_spaces
    except SetrError:
        return []


def embedding_dimension(settings: Settings, space: str = DEFAULT_SPACE) -> int | None:
    """Numbers per vector of an open_clip space, read from the model's configuration without loading it.

    Args:
        settings: The settings.
        space: The space's name.

    Returns:
        The dimension; None where it is not known.
    """
    name = settings.encoder_name
    if space != DEFAULT_SPACE:
        if settings.spaces[space].kind != OPEN_CLIP:
            return None
        name = str(settings.space_options(space).get("name", ""))
    dimension = (model_config(name) or {}).get("embed_dim")
    return dimension if isinstance(dimension, int) else None


def _judge(settings: Settings, *, quick: bool) -> Check:
    remedy = '[models.judge] name = "FOLDER"'
    found = hub_check("multimodal LLM", settings.judge_name, settings.models.judge.revision, remedy)
    if not _needs_multimodal_llm(settings):
        if not found.at_fault:
            return found
        return replace(found, status="warning", detail=f"{_UNUSED_LLM} ({found.detail})", bytes_to_come=0)
    return _suited(found, settings.models.judge, quick=quick)


def _suited(
    found: Check,
    judge: JudgeSettings,
    answers: Sequence[tuple[str, str]] | None = None,
    *,
    quick: bool,
) -> Check:
    """The check of a multimodal LLM, and whether it can describe, compose and judge.

    Args:
        found: Where its files are.
        judge: Its settings.
        answers: Spellings of Yes and No.
        quick: Only look at its files; else its configuration and processor are opened, which takes seconds.
    """
    from setr_lib.models.multimodal.special_tokens import ANSWERS
    from setr_lib.models.multimodal.suitability import suitability

    known = suitability(judge, found.value, answers or ANSWERS, files_only=quick)
    if known.problems:
        return replace(found, status="missing" if found.at_fault else "broken", detail=known.problems[0])
    if known.notes and not found.at_fault:
        return replace(found, status="warning", detail="; ".join(known.notes))
    return found


_UNUSED_LLM = "not here, and nothing that is configured asks it"


def _needs_multimodal_llm(settings: Settings) -> bool:
    """Whether a text, a re-ranker or a training asks the multimodal LLM on this machine."""
    from setr_lib.pipeline.context import pipeline_context

    if settings.reranking.rerankers or settings.training.is_named:
        return True
    try:
        methods = pipeline_context(settings).methods
        asks = bool(methods.texts_needed) or any(method.texts for method in methods.configured.values())
    except SetrError:
        return True  # told by the check of the methods
    return asks and settings.models.judge.endpoint.url is None


def _endpoint(settings: Settings) -> Iterator[Check]:
    """The endpoint that writes texts, where one is named: which model, and where pictures go."""
    from setr_lib.models.multimodal.endpoint import endpoint_host, endpoint_problem

    judge, endpoint = settings.models.judge, settings.models.judge.endpoint
    if endpoint.url is None:
        return
    what, host = "endpoint of texts", endpoint_host(judge)
    if problem := endpoint_problem(judge):
        yield Check(what, endpoint.url, "missing", f"[models.judge.endpoint] {problem}")
        return
    who = f"captions, compositions and other texts are written by {endpoint.model or judge.name!r} there"
    if endpoint.is_local:
        yield Check(what, endpoint.url, "ok", f"{who}; pictures are sent to {host}, on this machine")
    else:
        yield Check(what, endpoint.url, "warning", f"{who}: pictures LEAVE THIS MACHINE, to {host}")


def _qwen_reranker(settings: Settings, *, quick: bool) -> Iterator[Check]:
    """The model of ``[models.reranker]``, where the re-ranker that uses it is named."""
    if QWEN_RERANKER in settings.reranking.rerankers:
        from setr_lib.reranking.qwen_reranker import ANSWERS as LOWER_CASE
        from setr_lib.reranking.qwen_reranker import judge_settings

        remedy = '[models.reranker] name = "FOLDER"'
        model = settings.models.reranker
        found = hub_check("re-ranker's model", settings.reranker_name, model.revision, remedy)
        yield _suited(found, judge_settings(model), LOWER_CASE, quick=quick)


def _prompts(settings: Settings, kinds: set[str]) -> Check:
    from setr_lib.methods.inputs import MethodError
    from setr_lib.pipeline.context import pipeline_context
    from setr_lib.pipeline.texts import text_kinds
    from setr_lib.texts.prompts import TASKS, PromptError, load_prompts

    name = settings.models.judge.prompts

    def read() -> None:
        problems: dict[str, None] = {}
        for task in TASKS:
            for kind in (None, *sorted(kinds)):
                try:  # each from a set of its own: the first fault is not the only one
                    load_prompts(name, settings.base_dir).get(task, kind)
                except PromptError as error:
                    problems[str(error)] = None
        if problems:
            raise PromptError("; ".join(problems))
        prompts = load_prompts(name, settings.base_dir)
        try:
            added = text_kinds(pipeline_context(settings).methods.configured.values())
        except MethodError:
            return  # told by the check of the methods
        for text in added:
            for kind in sorted(kinds) or [None]:
                if text.template(prompts, kind) is None and text.derive is None:
                    raise PromptError(
                        f"a configured method needs the text {text.name!r}, and there is no {text.task}.jinja"
                    )

    found = _tried("prompts", name, read)
    if found.status == "ok" and (warning := load_prompts(name, settings.base_dir).unused_files_warning()):
        return Check("prompts", name, "warning", warning)
    return found


def _methods(settings: Settings) -> Check:
    from setr_lib.methods.inputs import MethodError
    from setr_lib.methods.method import ranks_captions
    from setr_lib.pipeline.context import pipeline_context

    options = settings.coarse
    every = [*options.strategies, *options.caption_strategies]

    def look() -> None:
        methods = pipeline_context(settings).methods
        methods.configured  # noqa: B018 - judged as a whole
        for name in options.caption_strategies:
            if not ranks_captions(methods.get(name)):
                raise MethodError(f"[coarse] caption_strategies: {name!r} searches vectors, not captions")
        if ranks_captions(methods.get(options.default)):
            raise MethodError(
                f"[coarse] default, {options.default!r}, searches captions: there are no images to judge"
            )
        for name in (*settings.evaluation.baselines, *settings.evaluation.caption_baselines):
            methods.get(name)

    return _tried("methods", ", ".join(every), look)


def _rerankers(settings: Settings) -> Check:
    from setr_lib.pipeline.context import pipeline_context

    names = settings.reranking.rerankers
    return _tried(
        "re-rankers",
        ", ".join(names) or "none: stage 1 is all",
        lambda: pipeline_context(settings).rerankers.configured,
    )


def _trained_weights(settings: Settings) -> Iterator[Check]:
    """The champions of the trained systems that methods, spaces and re-rankers of one's own work with."""
    from setr_lib.pipeline.context import pipeline_context

    context, what = pipeline_context(settings), "trained weights"
    try:
        users = _weights_users(settings)
        models = {system: context.weights.model(system) for system in users}
        assets = {system: context.weights.promoted_by(system) for system in users}
    except SetrError as error:
        yield Check(what, "", "broken", str(error))
        return
    for system, model in models.items():
        who = " and ".join(users[system])
        if not settings.tracking_uri.startswith("sqlite:///"):
            yield Check(what, model, "ok", f"of {who}; the champion is looked up by each run")
            continue
        try:
            version = context.weights.version(system)
        except SetrError as error:
            yield Check(what, model, "broken", str(error))
            continue
        if version is None:
            lacking = f"no version is promoted, so {who} will be left out: materialize {assets[system]}"
            command = f"`setr run --until {assets[system]}`"
            yield Check(what, model, "later", f"{lacking} and what is before it: {command}")
        else:
            yield Check(what, f"{model} v{version}", "ok", f"champion, of {who}")


def _weights_users(settings: Settings) -> dict[str, list[str]]:
    """What works with each trained system, less the built-in adapter; what cannot be loaded is told by
    its own check.
    """
    from setr_lib.pipeline.context import pipeline_context
    from setr_lib.reranking.yes_no_judge import BUILT_IN

    context, found = pipeline_context(settings), dict[str, list[str]]()

    def add(system: str | None, who: str) -> None:
        if system is not None:
            found.setdefault(system, []).append(who)

    with contextlib.suppress(SetrError):
        for method in context.methods.configured.values():
            add(method.trained, f"method {method.name}")
    for space in used_spaces(settings):
        with contextlib.suppress(SetrError):
            add(context.weights.space_system(space), f"space {space}")
    with contextlib.suppress(SetrError):
        for reranker in context.rerankers.configured:
            add(None if reranker in BUILT_IN else reranker.trained, f"re-ranker {reranker.name}")
    return found


def _tried(what: str, value: str, attempt: Callable[[], object]) -> Check:
    try:
        attempt()
    except (SetrError, OSError, UnicodeError) as error:
        return Check(what, value, "broken", str(error))
    return Check(what, value, "ok")


def _registry(settings: Settings, *, quick: bool) -> Check:
    from setr_lib.registry import database, server

    what, uri = "MLflow store", shown_address(settings.tracking_uri)
    path = sqlite_path(settings.tracking_uri)
    if path is None and (quick or server.address_of(settings.tracking_uri) is None):
        return Check(what, uri, "ok", "not contacted")
    if path is None:
        asked = _tried(what, uri, lambda: server.check_answers(settings.tracking_uri))
        return Check(what, uri, "missing", asked.detail) if asked.at_fault else asked
    try:
        found = database.look(path)
        if found.state in ("absent", "empty"):
            return Check(what, uri, "later", "made on first use")
        if found.state == "half-made":
            detail = "its creation was broken off: the next use sets it aside, and makes it anew"
            return Check(what, uri, "warning", detail)
        if found.state != "whole":
            words = database.older if found.state == "older" else database.newer
            return Check(what, uri, "broken", words(path, found))
        elsewhere = place.locations(settings)
    except SetrError as error:
        return Check(what, uri, "broken", str(error))
    if elsewhere:
        detail = (
            f"{elsewhere.changed} locations of artifacts are below {elsewhere.before}: this project was "
            "moved or copied; the next use puts them right, and so does `setr env --write`"
        )
        return Check(what, uri, "warning", detail)
    return Check(what, uri, "ok")


def _environment_file(settings: Settings) -> Check:
    what, file = "environment file", settings.base_dir / ".env"
    if (words := env.stale_in_words(settings)) is not None:
        return Check(what, str(file), "broken", words)
    if not file.is_file():
        return Check(what, str(file), "later", "made by `setr env --write`")
    return Check(what, str(file), "ok")


def _installation(settings: Settings) -> Check:
    what, folder = "installed code", str(Path(__file__).parents[2])
    faults = [words for words in (place.code_in_words(settings), place.venv_in_words(settings)) if words]
    return Check(what, folder, "warning" if faults else "ok", "; ".join(faults))


def _dagster(settings: Settings) -> Check:
    home = settings.base_dir / "dagster_home"
    if (home / "dagster.yaml").is_file():
        return Check("Dagster home", str(home), "ok")
    return Check("Dagster home", str(home), "later", "made by `setr env --write`")
