"""A kind of generated text: what the multimodal LLM is asked, once per image or per query, and what a good
answer is.

A method brings kinds of its own as objects (``Method.texts``); the two that every prompt set has are in
``generation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_origin

from setr_lib.errors import SetrError
from setr_lib.texts.answers import Answer

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.texts.prompts import PromptSet, PromptTemplate

Variables = Callable[[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], dict[str, str | list[str]]]
"""(row of the image or query, its texts of other kinds by kind) -> the variables of the prompt."""
Derive = Callable[[Mapping[str, Any], Mapping[str, Mapping[str, Any]]], Mapping[str, Any]]
"""(row of the image or query, its texts of other kinds by kind) -> the fields of an answer, made without the
model."""

OK, FAILED, FALLBACK, DERIVED = "ok", "failed", "fallback", "derived"
"""What the column ``status`` of a table of texts says: good; none to be had; replaced; made from another kind
of text."""


class TextKindError(SetrError):
    """A kind of generated text cannot be made: its prompt is missing, or another kind that it is made
    from.
    """


def modification_only(
    row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]
) -> dict[str, str | list[str]]:
    """The variables of a prompt that is filled with the query's text alone.

    Args:
        row: A row of a ``tables.QUERIES`` frame.
        texts: The query's other generated texts, which are not used.

    Returns:
        ``modification``, and ``captions``: the annotators' raw texts, one by one.
    """
    return {"modification": row["modification"], "captions": list(row["captions"] or [row["modification"]])}


@dataclass(frozen=True)
class TextKind:
    """What is asked of the multimodal LLM once per image or query."""

    name: str
    """The name in a method's inputs (``inputs.queries.text(name)``), in tables and in files."""
    task: str
    """The prompt file ``TASK.jinja`` of the prompt set; ``TASK.KIND.jinja`` for a kind of data set."""
    per: Literal["image", "query"]
    """Whether it is of each reference image, or of each query."""
    answer: type[Answer]
    """Reads and checks an answer; its fields are the columns of the table."""
    variables: Variables = modification_only
    after: tuple[str, ...] = ()
    """Kinds of text that the prompt, or ``derive``, is made from."""
    derived_from: tuple[str, ...] | None = None
    """Kinds of text that ``derive`` is made from in place of ``after``: those are then not asked for where
    there is a prompt, nor those of ``after`` where there is none."""
    shows_picture: bool = True
    """Whether the prompt shows the picture. A prompt that shows none is filled with texts alone (``after``):
    where one of those is missing or failed, the model is not asked."""
    prompt: str | None = None
    """The text of the prompt where a prompt set has no such file."""
    derive: Derive | None = None
    """Makes the text from other kinds where neither the prompt set nor ``prompt`` has one; the row's
    ``status`` is then ``derived``, and rows of tables and reports say ``NAME derived``."""
    replacement: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = field(default=None, compare=False)
    """Row -> fields in place of an answer that is not good: the row says *fallback*. By default it says
    *failed*."""
    done: str = ""
    """What progress says, e.g. ``"images described"``."""

    def template(self, prompts: PromptSet, dataset: str | None = None) -> PromptTemplate | None:
        """The prompt that is asked: the prompt set's, else the kind's own.

        Args:
            prompts: The prompt set.
            dataset: The kind of data set, which selects the prompt file.

        Returns:
            The prompt, checked; None where neither has one, so that the text can only be derived.

        Raises:
            PromptError: The prompt is malformed, uses a variable that it will not be given, or shows a
                picture where the text is asked without one.
        """
        options: dict[str, Any] = {
            "shows_picture": self.shows_picture,
            "variables": _example(self.variables, self.after),
        }
        if prompts.has(self.task, dataset):
            return prompts.get(self.task, dataset, **options)
        if self.prompt is None:
            return None
        return prompts.own(self.task, self.prompt, **options)

    def made_from(self, prompts: PromptSet, dataset: str | None = None) -> tuple[str, ...]:
        """The kinds of text that this one is made from under a prompt set.

        Args:
            prompts: The prompt set.
            dataset: The kind of data set.

        Returns:
            ``after``; ``derived_from``, where that is given and there is no prompt.
        """
        asked = self.prompt is not None or prompts.has(self.task, dataset)
        return self.after if asked or self.derived_from is None else self.derived_from

    @property
    def key(self) -> str:
        """The id column of its table: ``image_id`` or ``query_id``."""
        return f"{self.per}_id"

    @property
    def fields(self) -> dict[str, pl.DataType]:
        """The columns that an answer fills, with their types."""
        return {
            name: _column_type(self.name, name, each.annotation)
            for name, each in self.answer.model_fields.items()
        }

    @property
    def schema(self) -> pl.Schema:
        """The table of its texts: id, the answer's fields, ``status``, ``detail``, ``model``,
        ``prompt_hash``.
        """
        import polars as pl

        texts = {name: pl.String() for name in ("status", "detail", "model", "prompt_hash")}
        return pl.Schema({self.key: pl.String(), **self.fields, **texts})


class _AnyText(Mapping[str, Any]):
    """A generated text whose every field is there, for trying out."""

    def __getitem__(self, name: str) -> str:
        from setr_lib.texts.prompt_language import UnknownKind

        return UnknownKind(f"the {name}")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _example(variables: Variables, after: tuple[str, ...]) -> dict[str, str | list[str]] | None:
    """What ``variables`` gives of a query that is made up; None where it cannot be told so."""
    row: dict[str, Any] = {name: name for name in ("query_id", "reference_id", "image_id")}
    row |= {"modification": "make it red", "captions": ["is red", "has long sleeves"], "target_ids": []}
    try:
        found = dict(variables(row, {name: _AnyText() for name in after}))
    except Exception:  # a person's own code, which may need more of a row than this one has
        return None
    whole = all(
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))
        for value in found.values()
    )
    return found if whole else None


def imported_schema(kind: TextKind) -> pl.Schema:
    """The table of a kind's texts from elsewhere: id, the answer's fields, who wrote them, and what they were
    made from; unknown fingerprints and times are empty.

    Args:
        kind: The kind of text.

    Returns:
        Name and type of each column.
    """
    import polars as pl

    of_query = ("reference_id", "modification") if kind.per == "query" else ()
    texts = ("model", "prompt_hash", *of_query, "fingerprint", "made_at")
    return pl.Schema({kind.key: pl.String(), **kind.fields, **{name: pl.String() for name in texts}})


def _column_type(kind: str, name: str, annotation: Any) -> pl.DataType:
    import polars as pl

    types = {str: pl.String(), float: pl.Float64(), int: pl.Int64(), bool: pl.Boolean()}
    if annotation in types:
        return types[annotation]
    if get_origin(annotation) in (tuple, list):
        return pl.List(pl.String())
    raise TextKindError(
        f"generated text {kind!r}: the field {name!r} is a {annotation}; a column holds str, float, int, "
        "bool or a list of str"
    )


def empty_fields(kind: TextKind) -> dict[str, Any]:
    """The fields of a row without an answer: empty texts and lists, else null.

    Args:
        kind: The kind of generated text.

    Returns:
        Field name -> ``""``, ``[]`` or None, by the column's type.
    """
    import polars as pl

    empty: dict[Any, Any] = {pl.String: "", pl.List: []}
    return {name: empty.get(type(dtype)) for name, dtype in kind.fields.items()}
