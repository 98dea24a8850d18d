"""Texts from the multimodal LLM: one call per unique input, kept by content, resumable, failures counted.

A kept entry is the raw answer, so that a better reading of it needs no new call. Answers are stored as
they end, a few at a time: a killed run repeats those that were in work and these few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from setr_lib.content_cache import ContentCache
from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.models.multimodal import (
    IMAGE,
    REFERENCE,
    EndpointError,
    EndpointModel,
    Picture,
    PictureError,
    RefusedTextError,
    Request,
    TextModel,
)
from setr_lib.progress import Progress, silent
from setr_lib.tables import CAPTIONS, COMPOSITIONS, conform
from setr_lib.texts.answers import AnswerError, Caption, Composition
from setr_lib.texts.kind import DERIVED, FAILED, FALLBACK, OK, TextKind, TextKindError, empty_fields
from setr_lib.texts.prompts import PromptSet, PromptTemplate, PromptTooLongError

CACHE_KIND = "composing"
"""The ``ContentCache`` kind of all generated texts."""

_STORED_PARTS = 4
"""Answers are stored when a part of a batch has ended."""

CAPTION_TEXTS = TextKind(
    "captions",
    task="describe",
    per="image",
    answer=Caption,
    variables=lambda row, texts: {},
    done="images described",
)
"""A caption of each reference image."""
COMPOSITION_TEXTS = TextKind(
    "compositions",
    task="compose",
    per="query",
    answer=Composition,
    replacement=lambda row: {"target_caption": row["modification"]},
    done="queries composed",
)
"""What each query keeps, adds, removes and drops of its reference, and the caption of the wanted image."""


@dataclass(frozen=True)
class Generator:
    """A model with its prompts and the cache of its answers.

    ``dataset`` (the kind of data set, e.g. ``fashioniq``) selects the prompt files of that kind.
    """

    model: TextModel
    prompts: PromptSet
    cache: ContentCache
    dataset: str | None = None
    progress: Progress = silent

    def template(self, kind: TextKind) -> PromptTemplate | None:
        """The prompt of ``kind``: the prompt set's, else the kind's own; None where neither is there.

        Args:
            kind: The kind of generated text.

        Returns:
            The prompt, checked; or None.

        Raises:
            PromptError: The prompt file is malformed.
        """
        return kind.template(self.prompts, self.dataset)


def generate(
    kind: TextKind,
    generator: Generator,
    rows: pl.DataFrame,
    images: pl.DataFrame,
    texts: Mapping[str, pl.DataFrame] | None = None,
) -> pl.DataFrame:
    """The texts of one kind, one for each image or query.

    Args:
        kind: What is asked.
        generator: The model, prompts and cache.
        rows: A QUERIES table for a kind per query; for a kind per image, the images (columns as ``images``).
        images: ``image_id``, ``path``, ``status``, ``fingerprint`` of the pictures that prompts show, and
            ``detail``.
        texts: Tables of other kinds, by kind, for those that this one is made from
            (``kind.made_from(prompts)``).

    Returns:
        A frame with ``kind.schema`` in the order of ``rows``. An image that cannot be read, or an answer that
        is refused, gives a row of status ``failed`` (or ``fallback``, where the kind has a replacement) that
        says why.

    Raises:
        TextKindError: There is no prompt for this kind and no way to derive it, or a kind that it is made
            from is missing.
    """
    template = generator.template(kind)
    made_from = kind.made_from(generator.prompts, generator.dataset)
    asked = _Asked(kind, rows, images, {name: (texts or {}).get(name) for name in made_from})
    made = asked.derived() if template is None else asked.answered(generator, template)
    return conform(pl.DataFrame(made, schema=kind.schema), kind.schema, kind.name)


def requests_of(
    kind: TextKind, generator: Generator, rows: pl.DataFrame, images: pl.DataFrame
) -> dict[str, Request]:
    """What the model is asked for the texts of a kind that is made from no other texts.

    Args:
        kind: What is asked.
        generator: The model and prompts.
        rows: As of :func:`generate`.
        images: As of :func:`generate`.

    Returns:
        Request by cache key; none where the kind has no prompt, or is made from other texts.
    """
    template, found = generator.template(kind), dict[str, Request]()
    if template is None or kind.made_from(generator.prompts, generator.dataset):
        return found
    asked = _Asked(kind, rows, images, {})
    for row in asked.rows:
        asked._request(row, generator.model, template, found)
    return found


class _Asked:
    """The rows of one request for texts, with the pictures and other texts of each."""

    def __init__(
        self,
        kind: TextKind,
        rows: pl.DataFrame,
        images: pl.DataFrame,
        texts: Mapping[str, pl.DataFrame | None],
    ) -> None:
        self.kind, self.rows = kind, rows.to_dicts()
        self.images = {row["image_id"]: row for row in images.to_dicts()}
        self.too_long: dict[str, str] = {}
        """Why the prompt of a row cannot be filled in, by the row's id."""
        self.texts: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {}
        for name, table in texts.items():
            if table is None:
                raise TextKindError(f"generated text {kind.name!r} is made from {name!r}, which is not there")
            key = "image_id" if "query_id" not in table.columns else "query_id"
            self.texts[name] = (key, {row[key]: row for row in table.to_dicts()})

    def derived(self) -> list[dict[str, Any]]:
        """The rows made from other texts, without the model."""
        kind = self.kind
        if kind.derive is None:
            raise TextKindError(
                f"generated text {kind.name!r} needs the prompt {kind.task}.jinja, which the prompt set "
                "has not; write it, or use a prompt set that has it"
            )
        source = f"derived from {', '.join(self.texts) or 'the modification text'}"
        made: list[dict[str, Any]] = []
        for row in self.rows:
            fields = {**empty_fields(kind), **kind.derive(row, self._other_texts(row))}
            made.append(self._row(row, fields, DERIVED, "", source, ""))
        return made

    def answered(self, generator: Generator, template: PromptTemplate) -> list[dict[str, Any]]:
        """The rows made from the model's answers, kept or new."""
        model, wanted = generator.model, dict[str, Request]()
        keys = [self._request(row, model, template, wanted) for row in self.rows]
        answers, failures = kept_answers(
            model, wanted, generator.cache, generator.progress, self.kind.done or self.kind.name
        )
        made: list[dict[str, Any]] = []
        for row, key in zip(self.rows, keys, strict=True):
            if key is None:
                fields, detail = None, self._cannot_ask(row)
            else:
                fields, detail = self._read(answers.get(key), failures.get(key, ""))
            status = OK
            if fields is None:
                replacement = self.kind.replacement
                status = FAILED if replacement is None else FALLBACK
                fields = {**empty_fields(self.kind), **({} if replacement is None else replacement(row))}
            made.append(self._row(row, fields, status, detail, model.id, template.hash))
        return made

    def _row(
        self,
        row: Mapping[str, Any],
        fields: Mapping[str, Any],
        status: str,
        detail: str,
        model: str,
        prompt_hash: str,
    ) -> dict[str, Any]:
        return {
            self.kind.key: row[self.kind.key],
            **fields,
            "status": status,
            "detail": detail,
            "model": model,
            "prompt_hash": prompt_hash,
        }

    def _image(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        return self.images.get(row["image_id" if self.kind.per == "image" else "reference_id"])

    def _cannot_ask(self, row: Mapping[str, Any]) -> str:
        if row[self.kind.key] in self.too_long:
            return self.too_long[row[self.kind.key]]
        if not self.kind.shows_picture:
            return f"there is no good text of {', '.join(self._lacking(row))} to ask about"
        if self.kind.per == "image":
            return f"image {row['status']}: {row['detail'] or ''}"
        return f"the reference image {row['reference_id']} is not readable"

    def _other_texts(self, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, (key, by_id) in self.texts.items():
            image = row["image_id"] if self.kind.per == "image" else row["reference_id"]
            found[name] = by_id.get(row["query_id"] if key == "query_id" else image, {})
        return found

    def _request(
        self,
        row: Mapping[str, Any],
        model: TextModel,
        template: PromptTemplate,
        wanted: dict[str, Request],
    ) -> str | None:
        """The cache key of the row's text, its request put into ``wanted``; None where its image cannot be
        shown, where no image is shown and a text that it is made from is missing, or where the prompt
        is too long.
        """
        picture = None
        if self.kind.shows_picture:
            image = self._image(row)
            if image is None or image["status"] != "ok":
                return None
            picture = Picture(image["fingerprint"], Path(image["path"]), image.get("pixels") or "")
        elif self._lacking(row):
            return None
        variables = self.kind.variables(row, self._other_texts(row))
        shown = picture.identity if picture else ""
        key = text_key(model, template.hash, shown, self.kind, row, variables)
        if key not in wanted:
            slots = (IMAGE,) if self.kind.per == "image" else (REFERENCE, IMAGE)
            try:
                prompt = template.render(**variables)
            except PromptTooLongError as error:
                self.too_long[row[self.kind.key]] = str(error)
                return None
            wanted[key] = (prompt, dict.fromkeys(slots, picture) if picture else {})
        return key

    def _lacking(self, row: Mapping[str, Any]) -> list[str]:
        """The kinds of text that the row's is made from and of which it has none, or a failed one."""
        texts = self._other_texts(row)
        return [name for name, text in texts.items() if text.get("status", FAILED) == FAILED]

    def _read(self, answer: str | None, failure: str) -> tuple[dict[str, Any] | None, str]:
        if answer is None:
            return None, failure
        try:
            fields = self.kind.answer.from_answer(answer).model_dump()
        except AnswerError as error:
            return None, str(error) if not answer.strip() else f"{error}; the model wrote: {answer[:200]}"
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
        }, ""


def text_key(
    model: TextModel,
    prompt_hash: str,
    identity: str,
    kind: TextKind,
    row: Mapping[str, Any],
    variables: Mapping[str, str | list[str]],
) -> str:
    """The cache key of a text: everything that determines the model's answer.

    Args:
        model: The model that answers.
        prompt_hash: Digest of the prompt file.
        identity: The image's (``picture_identity``); empty where none is shown.
        kind: What is asked.
        row: The image or query.
        variables: What the prompt is filled with.

    Returns:
        A digest.
    """
    if kind is CAPTION_TEXTS:
        return caption_key(model.id, model.max_new_tokens, prompt_hash, identity)
    if kind is COMPOSITION_TEXTS:
        return composition_key(
            model.id, model.max_new_tokens, prompt_hash, identity, row["modification"], row["captions"]
        )
    texts = [part for name in sorted(variables) for part in (name, *_listed(variables[name]))]
    return ContentCache.key_of(
        model.id, str(model.max_new_tokens), prompt_hash, identity, digest_strings(texts)
    )


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else [str(len(value)), *value]


def describe_images(
    model: TextModel,
    prompts: PromptSet,
    images: pl.DataFrame,
    cache: ContentCache,
    progress: Progress = silent,
    dataset: str | None = None,
) -> pl.DataFrame:
    """One caption per image.

    Args:
        model: The multimodal LLM.
        prompts: The prompt set.
        images: ``image_id``, ``path``, ``status``, ``detail``, ``fingerprint``, ``pixels``.
            Images of the same bytes, read in the same way, share one call.
        cache: Where answers are kept.
        progress: Told how many images are described.
        dataset: The kind of data set, which selects the prompt.

    Returns:
        A CAPTIONS frame. An image that cannot be read, or an empty answer, gives a row of status ``failed``
        that says why.
    """
    made = generate(CAPTION_TEXTS, Generator(model, prompts, cache, dataset, progress), images, images)
    fingerprints = images.select("image_id", pl.col("fingerprint").fill_null(""))["fingerprint"]
    return conform(made.with_columns(fingerprints), CAPTIONS, "captions")


def compose_queries(
    model: TextModel,
    prompts: PromptSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    cache: ContentCache,
    dataset: str | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """One composition per query.

    Args:
        model: The multimodal LLM.
        prompts: The prompt set.
        queries: A QUERIES table.
        gallery: ``image_id``, ``path``, ``status``, ``fingerprint``, ``pixels`` of the reference images.
        cache: Where answers are kept.
        dataset: The kind of data set, which selects the prompt.
        progress: Told how many queries are composed.

    Returns:
        A COMPOSITIONS frame in the order of ``queries``. A composition that cannot be made (unreadable
        reference) or read (answer refused) has status ``fallback``: its target caption is the modification
        text, its lists are empty, ``detail`` says why.
    """
    made = generate(COMPOSITION_TEXTS, Generator(model, prompts, cache, dataset, progress), queries, gallery)
    return conform(made, COMPOSITIONS, "compositions")


def caption_key(model_id: str, max_new_tokens: int, prompt_hash: str, identity: str) -> str:
    """The cache key of an image's caption.

    Args:
        model_id: The model and its weights.
        max_new_tokens: Limit on the answer's tokens.
        prompt_hash: Digest of the prompt file.
        identity: The image's (``picture_identity``); empty where none is shown.

    Returns:
        A digest.
    """
    # The limit on new tokens is part of what determines an answer: a longer one may complete a cut-off JSON.
    return ContentCache.key_of(model_id, str(max_new_tokens), prompt_hash, identity, digest_strings([]))


def composition_key(
    model_id: str,
    max_new_tokens: int,
    prompt_hash: str,
    identity: str,
    modification: str,
    captions: Sequence[str],
) -> str:
    """The cache key of a query's composition.

    Args:
        model_id: The model and its weights.
        max_new_tokens: Limit on the answer's tokens.
        prompt_hash: Digest of the prompt file.
        identity: The reference image's (``picture_identity``).
        modification: The text that models read.
        captions: The annotators' raw texts; ``modification`` where there are none.

    Returns:
        A digest.
    """
    texts = digest_strings([modification, *(captions or [modification])])
    return ContentCache.key_of(model_id, str(max_new_tokens), prompt_hash, identity, texts)


def kept_answers(
    model: TextModel, wanted: Mapping[str, Request], cache: ContentCache, progress: Progress, what: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The model's answers, kept ones from a cache, new ones stored as they end.

    Args:
        model: The multimodal LLM.
        wanted: Request by cache key.
        cache: Where answers are kept.
        progress: Told how many are done.
        what: What progress calls them.

    Returns:
        Answers by key, and the reasons of those that could not be had.

    Raises:
        EndpointError: The model is behind an endpoint that cannot be used; what was answered is kept.
    """
    answers = cache.get_many(wanted)
    missing = [key for key in wanted if key not in answers]
    failures: dict[str, str] = {}
    fresh: dict[str, str] = {}

    def store() -> None:
        cache.put_many(fresh)
        answers.update(fresh)
        fresh.clear()
        progress(len(answers) + len(failures), len(wanted), what)

    progress(len(answers), len(wanted), what)
    try:
        for place, answer in each_answer(model, [wanted[key] for key in missing]):
            if isinstance(answer, str):
                fresh[missing[place]] = answer
            else:
                failures[missing[place]] = str(answer)
            if len(fresh) >= max(1, model.batch_size // _STORED_PARTS):
                store()
    finally:  # a run that is stopped keeps what is answered
        if missing:
            store()
    return answers, failures


def each_answer(model: TextModel, requests: Sequence[Request]) -> Iterator[tuple[int, str | SetrError]]:
    """The answers to requests, each as soon as it has ended, less those that cannot be asked.

    Args:
        model: The multimodal LLM.
        requests: Prompts with their pictures.

    Yields:
        The place of a request, and its answer; the error in its place where a picture cannot be opened or is
        refused by the model's processor, or the text by its tokenizer.

    Raises:
        EndpointError: The model is behind an endpoint that cannot be used; what it had answered is yielded
            before.
    """
    if isinstance(model, EndpointModel):
        yield from _of_endpoint(model, requests)
        return
    left = list(range(len(requests)))
    while left:
        done: set[int] = set()
        try:
            for number, answer in model.answers([requests[place] for place in left]):
                done.add(left[number])
                yield left[number], answer
            return
        except (PictureError, RefusedTextError) as error:
            left = [place for place in left if place not in done]
            faults = {place: _fault(error, requests[place]) for place in left}
            if not any(faults.values()):
                yield from _alone(model, requests, left, error)
                return
        yield from ((place, fault) for place, fault in faults.items() if fault is not None)
        left = [place for place in left if faults[place] is None]


def _of_endpoint(model: EndpointModel, requests: Sequence[Request]) -> Iterator[tuple[int, str | SetrError]]:
    for start in range(0, len(requests), model.batch_size):
        made = model.answers_or_errors(requests[start : start + model.batch_size])
        stops = [answer for answer in made if isinstance(answer, EndpointError)]
        yield from (
            (start + place, answer)
            for place, answer in enumerate(made)
            if not isinstance(answer, EndpointError)
        )
        if stops:
            raise stops[0]


def _alone(
    model: TextModel, requests: Sequence[Request], left: Sequence[int], error: SetrError
) -> Iterator[tuple[int, str | SetrError]]:
    """The answers to requests asked one by one, where an error says not whose it is."""
    if len(left) == 1:
        yield left[0], error
        return
    for place in left:
        for _, answer in each_answer(model, [requests[place]]):
            yield place, answer


def answers_or_errors(model: TextModel, requests: Sequence[Request]) -> list[str | SetrError]:
    """The answers to requests in their order; see :func:`each_answer`.

    Args:
        model: The multimodal LLM.
        requests: Prompts with their pictures.

    Returns:
        An answer for each, or the error in its place. Of an endpoint, see
        :meth:`EndpointModel.answers_or_errors`.
    """
    if isinstance(model, EndpointModel):
        return model.answers_or_errors(requests)
    found = dict(each_answer(model, requests))
    return [found[place] for place in range(len(requests))]


def _fault(error: PictureError | RefusedTextError, request: Request) -> SetrError | None:
    """What an error says of one request of a batch."""
    prompt, pictures = request
    if isinstance(error, RefusedTextError):
        return error if error.prompt == prompt else None
    reason = error.about(list(pictures.values()))
    return None if reason is None else PictureError(reason)
