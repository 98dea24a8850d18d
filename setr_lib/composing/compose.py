"""Captions of images and compositions of queries: one model call per unique input, kept by content, resumable.

A kept entry is the model's raw answer, so that a better parser needs no new call. Batches are stored as they come: a
killed run repeats at most one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from setr_lib.composing.parse import Composition, CompositionError, parse_composition
from setr_lib.composing.prompts import PromptSet
from setr_lib.content_cache import ContentCache
from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.models.multimodal import IMAGE, REFERENCE, MultimodalModel, Picture, PictureError, Request
from setr_lib.progress import Progress, silent
from setr_lib.tables import CAPTIONS, COMPOSITIONS, conform

CACHE_KIND = "composing"
"""The ``ContentCache`` kind of captions and compositions."""

_EMPTY = Composition((), (), (), (), "")


def describe_images(
    model: MultimodalModel,
    prompts: PromptSet,
    images: pl.DataFrame,
    cache: ContentCache,
    progress: Progress = silent,
    dataset: str | None = None,
) -> pl.DataFrame:
    """One caption per image of ``images`` (columns image_id, path, status, detail, fingerprint): a ``CAPTIONS`` frame.

    Images of the same fingerprint share one call. ``dataset`` (the kind, e.g. ``fashioniq``) selects the prompt.
    An image that cannot be read, or an empty answer, gives a row of status ``failed`` that says why.
    """
    template = prompts.get("describe", dataset)
    prompt = template.render()
    rows = images.select("image_id", "path", "status", "detail", "fingerprint").to_dicts()
    wanted: dict[str, Request] = {}
    for row in rows:
        if row["status"] == "ok":
            picture = Picture(row["fingerprint"], Path(row["path"]))
            key = caption_key(model.id, model.max_new_tokens, template.hash, row["fingerprint"])
            wanted[key] = (prompt, {IMAGE: picture})
    answers, failures = _answers(model, wanted, cache, progress, "images described")
    described = []
    for row in rows:
        caption, detail = "", f"image {row['status']}: {row['detail'] or ''}"
        if row["status"] == "ok":
            key = caption_key(model.id, model.max_new_tokens, template.hash, row["fingerprint"])
            caption, detail = " ".join(answers.get(key, "").split()), failures.get(key, "")
            detail = detail or ("" if caption else "the model's answer was empty")
        described.append(
            {
                "image_id": row["image_id"],
                "caption": caption,
                "status": "ok" if caption else "failed",
                "detail": detail,
                "model": model.id,
                "prompt_hash": template.hash,
                "fingerprint": row["fingerprint"] or "",
            }
        )
    return conform(pl.DataFrame(described, schema=CAPTIONS), CAPTIONS, "captions")


def compose_queries(
    model: MultimodalModel,
    prompts: PromptSet,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    cache: ContentCache,
    dataset: str | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """One composition per query: a ``COMPOSITIONS`` frame in the order of ``queries``.

    ``gallery`` gives the reference images (image_id, path, status, fingerprint). A composition that cannot be made
    (unreadable reference) or read (answer refused by the parser) has status ``fallback``: its target caption is the
    modification text, its lists are empty, ``detail`` says why.
    """
    template = prompts.get("compose", dataset)
    known = {
        row["image_id"]: row for row in gallery.select("image_id", "path", "status", "fingerprint").to_dicts()
    }
    rows = queries.select("query_id", "reference_id", "modification", "captions").to_dicts()
    wanted: dict[str, Request] = {}
    keys: list[str | None] = []
    for row in rows:
        image = known.get(row["reference_id"])
        if image is None or image["status"] != "ok":
            keys.append(None)
            continue
        captions = row["captions"] or [row["modification"]]
        key = composition_key(
            model.id,
            model.max_new_tokens,
            template.hash,
            image["fingerprint"],
            row["modification"],
            row["captions"],
        )
        if key not in wanted:
            picture = Picture(image["fingerprint"], Path(image["path"]))
            prompt = template.render(modification=row["modification"], captions=captions)
            wanted[key] = (prompt, {REFERENCE: picture, IMAGE: picture})
        keys.append(key)
    answers, failures = _answers(model, wanted, cache, progress, "queries composed")
    composed = []
    for row, key in zip(rows, keys, strict=True):
        composition, detail = _EMPTY, f"the reference image {row['reference_id']} is not readable"
        if key is not None:
            composition, detail = _read(answers.get(key), failures.get(key, ""))
        composed.append(
            {
                "query_id": row["query_id"],
                "keep": list(composition.keep),
                "add": list(composition.add),
                "remove": list(composition.remove),
                "drop": list(composition.drop),
                "target_caption": composition.target_caption or row["modification"],
                "status": "ok" if composition.target_caption else "fallback",
                "detail": detail,
                "model": model.id,
                "prompt_hash": template.hash,
            }
        )
    return conform(pl.DataFrame(composed, schema=COMPOSITIONS), COMPOSITIONS, "compositions")


def _read(answer: str | None, failure: str) -> tuple[Composition, str]:
    if answer is None:
        return _EMPTY, failure
    try:
        return parse_composition(answer), ""
    except CompositionError as error:
        return _EMPTY, f"{error}; the model wrote: {answer[:200]}"


def caption_key(model_id: str, max_new_tokens: int, prompt_hash: str, fingerprint: str) -> str:
    """The cache key of an image's caption."""
    # The limit on new tokens is part of what determines an answer: a longer one may complete a cut-off JSON.
    return ContentCache.key_of(model_id, str(max_new_tokens), prompt_hash, fingerprint, digest_strings([]))


def composition_key(
    model_id: str,
    max_new_tokens: int,
    prompt_hash: str,
    fingerprint: str,
    modification: str,
    captions: Sequence[str],
) -> str:
    """The cache key of a query's composition; ``fingerprint`` is that of the reference image."""
    texts = digest_strings([modification, *(captions or [modification])])
    return ContentCache.key_of(model_id, str(max_new_tokens), prompt_hash, fingerprint, texts)


def _answers(
    model: MultimodalModel, wanted: Mapping[str, Request], cache: ContentCache, progress: Progress, what: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Answers by key, from the cache or the model, and the reasons of those that could not be had."""
    answers = cache.get_many(wanted)
    missing = [key for key in wanted if key not in answers]
    failures: dict[str, str] = {}
    progress(len(answers), len(wanted), what)
    for start in range(0, len(missing), model.batch_size):
        batch = missing[start : start + model.batch_size]
        made = _generate(model, [wanted[key] for key in batch])
        fresh = {key: answer for key, answer in zip(batch, made, strict=True) if isinstance(answer, str)}
        failures.update(
            {key: str(answer) for key, answer in zip(batch, made, strict=True) if not isinstance(answer, str)}
        )
        cache.put_many(fresh)
        answers.update(fresh)
        progress(len(answers) + len(failures), len(wanted), what)
    return answers, failures


def _generate(model: MultimodalModel, requests: Sequence[Request]) -> list[str | SetrError]:
    """The answers; where one picture of a batch cannot be opened, each request alone, so that only that one fails."""
    try:
        return list(model.generate(requests))
    except PictureError as error:
        if len(requests) == 1:
            return [error]
        return [answer for request in requests for answer in _generate(model, [request])]
