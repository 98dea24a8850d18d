"""What settings can name: retrieval methods, re-rankers, trained systems, benchmarks, embedding spaces and
generated texts, with what each of them is and needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.settings import ADAPTER, DEFAULT_SPACE

if TYPE_CHECKING:
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.texts.kind import TextKind

KINDS = ("methods", "rerankers", "systems", "benchmarks", "spaces", "texts")
"""What can be listed."""


@dataclass(frozen=True)
class Listed:
    """Something that settings can name.

    Attributes:
        name: What settings, tables and commands call it.
        configured: Whether the settings at hand use it.
        label: What it has learned from; empty where that is not a question.
        source: Where it was published, or comes from.
        needs: What must be there, each in words.
        problem: Why it cannot be used as it is; empty where it can.
        remedy: What to do about a problem that ``problem`` has only the name of; empty where that says it.
        champion: Of a trained system: the registered model and the version that serves; empty where none is
            promoted.
    """

    name: str
    configured: bool = False
    label: str = ""
    source: str = ""
    needs: tuple[str, ...] = ()
    problem: str = ""
    remedy: str = ""
    champion: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields in plain values."""
        return {**asdict(self), "needs": list(self.needs)}


def listed(context: PipelineContext, what: str) -> list[Listed]:
    """Everything of one kind that settings can name.

    Args:
        context: The settings, and what they name.
        what: One of :data:`KINDS`.

    Returns:
        What there is: what the settings use first, in their order, the others by name. Something that cannot
        be loaded is there too, and says why.
    """
    of_kind: dict[str, Callable[[PipelineContext], list[Listed]]] = {
        "methods": _methods,
        "rerankers": _rerankers,
        "systems": _systems,
        "benchmarks": _benchmarks,
        "spaces": _spaces,
        "texts": _texts,
    }
    found = of_kind[what](context)
    return [*filter(lambda one: one.configured, found), *filter(lambda one: not one.configured, found)]


def method_needs(method: Method) -> tuple[str, ...]:
    """What a retrieval method needs, in words.

    Args:
        method: The method.

    Returns:
        Its embedding space, the generated texts, what is made of the reference pictures, its trained weights.
    """
    from setr_lib.methods.method import ranks_captions
    from setr_lib.methods.needs import (
        CAPTION_VECTORS,
        IMAGE_CAPTIONS,
        QUERY_VECTORS,
        REFERENCE_PATCHES,
        REFERENCE_PIXELS,
    )

    words = {
        IMAGE_CAPTIONS: "captions of the gallery's images",
        CAPTION_VECTORS: f"space {method.space} for texts",
        QUERY_VECTORS: "a space that embeds picture and text in one vector",
        REFERENCE_PIXELS: "the reference pictures",
        REFERENCE_PATCHES: "a space with patch tokens",
    }
    found = [] if ranks_captions(method) else [f"space {method.space}"]
    found += [words.get(need, f"text {need}") for need in sorted(method.needs)]
    found += [f"text {kind.name}" for kind in method.texts]
    found += [f"file [methods.{method.name}] {file.option}" for file in method.files if file.required]
    if method.trained is not None:
        found.append(f"weights of {method.trained}")
    return tuple(found)


def _methods(context: PipelineContext) -> list[Listed]:
    from setr_lib.methods.method import get_method, method_names

    configured = context.methods.configured
    found = [_method(method, configured=True) for method in configured.values()]
    others = [name for name in method_names() if name not in configured]

    def one(name: str) -> Listed:
        method = get_method(name)
        known = _method(method)
        try:
            get_method(name, context.settings)
        except SetrError as error:  # settings lack what it searches, say; what it is can be told all the same
            return replace(known, **_without_space(context, method) or {"problem": str(error)})
        return known

    return found + _each(others, one)


def _without_space(context: PipelineContext, method: Method) -> dict[str, str]:
    """What to say of a method whose embedding space settings do not describe; nothing where they do."""
    from setr_lib.methods.method import needs_space
    from setr_lib.spaces.space import how_to_describe

    settings = context.settings
    if not needs_space(method) or method.space in (DEFAULT_SPACE, *settings.spaces):
        return {}
    missing = f"no [spaces.{method.space}]"
    return {"problem": missing, "remedy": f"{missing}: {how_to_describe(method.space, settings)}"}


def _method(method: Method, configured: bool = False) -> Listed:
    return Listed(method.name, configured, method.label, method.source, method_needs(method))


def _rerankers(context: PipelineContext) -> list[Listed]:
    from setr_lib.reranking.reranker import Reranker, get_reranker, reranker_names

    def one(reranker: Reranker, configured: bool = False) -> Listed:
        needs = ("a promoted version of its weights",) if reranker.trained else ()
        return Listed(reranker.name, configured, reranker.label, reranker.source, needs)

    configured = {reranker.name: reranker for reranker in context.rerankers.configured}
    others = [name for name in reranker_names() if name not in configured]
    found = [one(reranker, True) for reranker in configured.values()]
    return found + _each(others, lambda name: one(get_reranker(name, context.settings)))


def _systems(context: PipelineContext) -> list[Listed]:
    from setr_lib.pipeline.system_checks import named_systems
    from setr_lib.pipeline.trained_system import SYSTEMS

    named = [*named_systems(context.settings), *([ADAPTER] if context.settings.training.is_named else [])]
    return _each(
        [*named, *(name for name in SYSTEMS.names() if name not in named)],
        lambda name: _system(context, name, name in named),
    )


def _system(context: PipelineContext, name: str, configured: bool) -> Listed:
    """A trained system, with the version that serves. A store that is not a file of this machine is not
    asked.
    """
    from setr_lib.pipeline.trained_system import SYSTEMS
    from setr_lib.registry.registered_model import LABEL_TAG
    from setr_lib.systems.recipe import RECIPES

    system, settings = SYSTEMS.get(name, context.settings), context.settings
    recipe, needs = RECIPES.get(name), ("Yes/No pairs",) if name == ADAPTER else ()
    source = (inspect.getdoc(system) or "").partition("\n")[0]
    if recipe is not None:
        below = () if recipe.builds_on is None else (f"a champion of {recipe.builds_on}",)
        source, needs = recipe.source, (recipe.learns_from, *below)
    found = Listed(name, configured, source=source, needs=needs)
    model = system.registered_model(settings)
    if not settings.tracking_uri.startswith("sqlite:///"):
        return replace(found, champion=f"{model}: ask MLflow")
    version = context.champion_version(model)
    if version is None:
        return found
    label = context.registry.model(model).version(version).tags.get(LABEL_TAG, "")
    return replace(found, label=label, champion=f"{model} v{version}")


def _benchmarks(context: PipelineContext) -> list[Listed]:
    from setr_lib.benchmarks.registry import benchmark_kinds, benchmark_of

    settings = context.settings
    in_use = list(dict.fromkeys(settings.datasets[name].kind for name in settings.datasets))

    def one(name: str) -> Listed:
        benchmark = benchmark_of(name, settings)
        hidden = set(benchmark.hidden_splits)
        splits = [f"{split} (hidden targets)" if split in hidden else split for split in benchmark.splits]
        root = f'a section [datasets.NAME] with kind = "{name}" and a root'
        words = f"{benchmark.name}: {', '.join(splits)}; {', '.join(benchmark.headline_metrics)}"
        return Listed(name, name in in_use, source=words, needs=() if name in in_use else (root,))

    return _each(dict.fromkeys((*in_use, *benchmark_kinds())), one)


def _spaces(context: PipelineContext) -> list[Listed]:
    from setr_lib.spaces.space import space_kinds

    settings, used = context.settings, context.methods.spaces
    encoder = settings.models.encoder
    clip = Listed(
        DEFAULT_SPACE, DEFAULT_SPACE in used, source=f"open_clip: {encoder.name}", needs=("[models.encoder]",)
    )
    own = [
        Listed(name, name in used, source=str(section.kind), needs=(f"[spaces.{name}]",))
        for name, section in settings.spaces.items()
    ]
    kinds = [Listed(kind, needs=(f'a section [spaces.NAME] with kind = "{kind}"',)) for kind in space_kinds()]
    return [clip, *own, *kinds]


def _texts(context: PipelineContext) -> list[Listed]:
    from setr_lib.methods.method import get_method, method_names
    from setr_lib.texts.generation import CAPTION_TEXTS, COMPOSITION_TEXTS

    configured, prompts = context.methods.configured, context.prompts()
    methods = dict(configured)
    for name in method_names():
        try:
            methods.setdefault(name, get_method(name, context.settings))
        except SetrError:  # told by the list of methods
            continue
    kinds: dict[str, TextKind] = {kind.name: kind for kind in (CAPTION_TEXTS, COMPOSITION_TEXTS)}
    kinds |= {kind.name: kind for method in methods.values() for kind in method.texts}

    def readers(kind: TextKind) -> list[str]:
        return [
            name
            for name, method in methods.items()
            if kind.name in method.needs or kind.name in {own.name for own in method.texts}
        ]

    def one(kind: TextKind) -> Listed:
        read_by = readers(kind)
        has_prompt = kind.prompt is not None or prompts.has(kind.task)
        needs = [f"one call per {kind.per}" if has_prompt else "no call"]
        needs += [f"text {other}" for other in kind.made_from(prompts)]
        problem = "" if has_prompt else f"the prompt set has no {kind.task}.jinja"
        if not has_prompt and kind.derive is not None:
            problem += ": derived from other texts"
        used = any(name in configured for name in read_by)
        return Listed(kind.name, used, "", f"for {', '.join(read_by) or 'no method'}", tuple(needs), problem)

    return [one(kind) for kind in kinds.values()]


def _each(names: Iterable[str], one: Callable[[str], Listed]) -> list[Listed]:
    """``one`` of each name; what cannot be loaded is listed with the reason."""
    found: list[Listed] = []
    for name in names:
        try:
            found.append(one(name))
        except SetrError as error:
            found.append(Listed(name, problem=str(error)))
    return found
