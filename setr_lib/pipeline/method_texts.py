"""The generated texts that retrieval methods bring themselves, made for an evaluation set or for a single
query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from setr_lib.progress import Progress, silent
from setr_lib.texts.kind import TextKind, TextKindError

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext

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
            if kind.name not in names and all(each in names or each not in kinds for each in kind.after)
        ]
        if not ready:
            raise TextKindError(
                f"generated texts are made from one another: {', '.join(sorted(set(kinds) - names))}"
            )
        ordered += ready
    return ordered


def make_texts(
    context: PipelineContext,
    kinds: Iterable[TextKind],
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    texts: Mapping[str, pl.DataFrame],
    dataset: str | None = None,
    progress: Progress = silent,
) -> dict[str, pl.DataFrame]:
    """Texts of several kinds for the same queries.

    Args:
        context: The model, prompts and cache.
        kinds: What is asked, as :func:`text_kinds` orders it.
        queries: A QUERIES table.
        gallery: GALLERY rows of the reference images.
        texts: Tables of the kinds that these are made from.
        dataset: The kind of data set, which selects the prompts.
        progress: Told how many texts are made.

    Returns:
        A table for each kind, by its name.

    Raises:
        TextKindError: A kind has no prompt and cannot be derived, or lacks what it is made from.
    """
    import polars as pl

    from setr_lib.texts.generation import CACHE_KIND, Generator, generate

    made: dict[str, pl.DataFrame] = {}
    references = gallery.filter(pl.col("image_id").is_in(queries["reference_id"].unique().implode()))
    for kind in kinds:
        generator = Generator(
            context.judge(), context.prompts(), context.cache(CACHE_KIND), dataset, progress
        )
        rows = queries if kind.per == "query" else references
        made[kind.name] = generate(kind, generator, rows, references, {**texts, **made})
    return made
