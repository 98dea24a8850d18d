"""Generated texts of queries: captions, compositions, and the kinds that retrieval methods bring
themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.texts.imported import Filled
    from setr_lib.texts.kind import TextKind
    from setr_lib.texts.prompts import PromptSet

ASSET = "method_texts"
"""The asset that makes them for an evaluation set."""


def text_kinds(methods: Iterable[Method]) -> list[TextKind]:
    """The kinds of text that methods bring themselves, each after those that it is made from.

    Args:
        methods: Retrieval methods.

    Returns:
        Each kind once.

    Raises:
        TextKindError: Two kinds have one name, or each is made from the other.
    """
    from setr_lib.texts.kind import TextKindError

    kinds: dict[str, TextKind] = {}
    for kind in (kind for method in methods for kind in method.texts):
        if kinds.setdefault(kind.name, kind) != kind:
            raise TextKindError(f"two methods bring different generated texts called {kind.name!r}")
    ordered: list[TextKind] = []
    while len(ordered) < len(kinds):
        names = {kind.name for kind in ordered}
        ready = [
            kind
            for kind in kinds.values()
            if kind.name not in names
            and all(name in names or name not in kinds for name in (*kind.after, *(kind.derived_from or ())))
        ]
        if not ready:
            raise TextKindError(
                f"generated texts are made from one another: {', '.join(sorted(set(kinds) - names))}"
            )
        ordered += ready
    return ordered


def written_texts(
    methods: Iterable[Method], prompts: PromptSet, dataset: str | None = None
) -> frozenset[str]:
    """Which of captions and compositions methods read, themselves or in texts that they bring.

    Args:
        methods: Retrieval methods.
        prompts: The prompt set: a text without a prompt is derived, and may be made from others than one that
            is asked.
        dataset: The kind of data set.

    Returns:
        ``captions``, ``compositions``, both or none.
    """
    from setr_lib.methods.needs import CAPTIONS, COMPOSITIONS

    methods = list(methods)
    after = (kind.made_from(prompts, dataset) for method in methods for kind in method.texts)
    return frozenset({CAPTIONS, COMPOSITIONS}).intersection(
        {name for names in (*(method.needs for method in methods), *after) for name in names}
    )


def asks_model(methods: Iterable[Method], prompts: PromptSet, dataset: str | None = None) -> bool:
    """Whether methods read anything that the multimodal LLM writes.

    Args:
        methods: Retrieval methods.
        prompts: The prompt set: a text without a prompt is derived.
        dataset: The kind of data set.

    Returns:
        Whether it is loaded for a query whose texts are not kept yet.
    """
    methods = list(methods)
    own = (kind for method in methods for kind in method.texts)
    asked = any(kind.prompt is not None or prompts.has(kind.task) for kind in own)
    return asked or bool(written_texts(methods, prompts, dataset))


def make_texts(
    context: PipelineContext,
    kinds: Iterable[TextKind],
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    texts: Mapping[str, pl.DataFrame],
    dataset: str | None = None,
    progress: Progress = silent,
    imported: Mapping[str, pl.DataFrame] | None = None,
) -> dict[str, Filled]:
    """Texts of several kinds for the same queries. The model is loaded where imported rows leave something to
    ask.

    Args:
        context: The model, prompts and cache.
        kinds: What is asked, as :func:`text_kinds` orders it.
        queries: A QUERIES table.
        gallery: GALLERY rows of the reference images.
        texts: Tables of the kinds that these are made from.
        dataset: The kind of data set, which selects the prompts.
        progress: Told how many texts are made.
        imported: Rows from elsewhere, by kind, which go before what the model here would write.

    Returns:
        A table for each kind, by its name, and how much of it was imported.

    Raises:
        TextKindError: A kind has no prompt and cannot be derived, or lacks what it is made from.
    """
    import polars as pl

    from setr_lib.texts.generation import CACHE_KIND, Generator, generate
    from setr_lib.texts.imported import texts_with
    from setr_lib.texts.kind import imported_schema

    def write(kind: TextKind, rows: pl.DataFrame) -> pl.DataFrame:
        generator = Generator(
            context.models.writer(), context.prompts(), context.cache(CACHE_KIND), dataset, progress
        )
        return generate(kind, generator, rows, references, {**texts, **frames})

    made: dict[str, Filled] = {}
    frames: dict[str, pl.DataFrame] = {}
    references = gallery.filter(pl.col("image_id").is_in(queries["reference_id"].unique().implode()))
    for kind in kinds:
        rows = queries if kind.per == "query" else references
        given = (imported or {}).get(kind.name, imported_schema(kind).to_frame())
        made[kind.name] = filled = texts_with(kind, given, rows, references, partial(write, kind))
        frames[kind.name] = filled.frame
    return made


def texts_for(
    context: PipelineContext,
    methods: Iterable[Method],
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    *,
    also: Iterable[str] = (),
    dataset: str | None = None,
    progress: Progress = silent,
) -> dict[str, pl.DataFrame]:
    """Every generated text that methods need of some queries, made now or taken from the cache.

    Args:
        context: The model, prompts and cache.
        methods: Retrieval methods; only what they need is made.
        queries: A QUERIES table.
        gallery: GALLERY rows, those of the reference images among them.
        also: Kinds to make whether a method needs them or not.
        dataset: The kind of data set, which selects the prompts.
        progress: Told how many texts are made.

    Returns:
        A table for each kind, by its name.

    Raises:
        TextKindError: A kind has no prompt and cannot be derived, or lacks what it is made from.
    """
    import polars as pl

    from setr_lib.methods.needs import CAPTIONS, COMPOSITIONS
    from setr_lib.texts.generation import CACHE_KIND, compose_queries, describe_images

    methods = list(methods)
    kinds = text_kinds(methods)
    model, prompts, cache = context.models.writer, context.prompts(), context.cache(CACHE_KIND)
    needed = written_texts(methods, prompts, dataset).union(also)
    texts: dict[str, pl.DataFrame] = {}
    if CAPTIONS in needed:
        references = gallery.filter(pl.col("image_id").is_in(queries["reference_id"].unique().implode()))
        texts[CAPTIONS] = describe_images(model(), prompts, references, cache, progress, dataset)
    if COMPOSITIONS in needed:
        texts[COMPOSITIONS] = compose_queries(model(), prompts, queries, gallery, cache, dataset, progress)
    made = make_texts(context, kinds, queries, gallery, texts, dataset, progress)
    return texts | {name: filled.frame for name, filled in made.items()}
