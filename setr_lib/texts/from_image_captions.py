"""Tables of captions and compositions made from captions that come with the data set, without a model.

The rows are those of the model's own tables, so that every later step reads them as it reads any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from setr_lib.tables import CAPTIONS, COMPOSITIONS, conform
from setr_lib.texts.lexical import is_content, read_captions, read_modification

GIVEN = "captions that came with the data set"
"""Stands where a caption's model is named."""
READ = "read by words alone (setr_lib.texts.lexical)"
"""Stands where a composition's model is named."""

WITHOUT_MODEL = (GIVEN, READ)
"""Rows of these are not what a multimodal LLM has written: they are not handed on as such."""

_FOREGROUND = 0.5
"""A word of the captions is kept if it is said of the subject at least so often."""


def caption_rows(images: Iterable[str], captions: pl.DataFrame | None) -> pl.DataFrame:
    """The table of captions, made of those that come with the data set instead of a model's.

    Args:
        images: Ids of the images.
        captions: ``image_id`` and ``captions`` (a list); None where the data set has none.

    Returns:
        A ``CAPTIONS`` frame in the order of ``images``, the captions of an image joined to one text.
    """
    known = _known(captions)
    rows = [
        {
            "image_id": image,
            "caption": " ".join(known.get(image, ())),
            "status": "ok" if image in known else "failed",
            "detail": "" if image in known else "the image has no caption",
            "model": GIVEN,
            "prompt_hash": "",
            "fingerprint": "",
        }
        for image in images
    ]
    return conform(pl.DataFrame(rows, schema=CAPTIONS), CAPTIONS, "captions")


def composition_rows(queries: pl.DataFrame, captions: pl.DataFrame | None) -> pl.DataFrame:
    """What the words of each query's text and captions keep, add, remove and drop, as a table of
    compositions.

    It is there to be read: nothing encodes these, and the method ``captions_intersection`` weighs stemmed
    terms.

    Args:
        queries: A ``tables.QUERIES`` frame.
        captions: ``image_id`` and ``captions`` (a list) of reference images; None where the data set has
            none.

    Returns:
        A ``COMPOSITIONS`` frame in the order of ``queries``.
    """
    known = _known(captions)
    texts = queries.select("query_id", "reference_id", "modification").iter_rows()
    rows = [{"query_id": query, **_composition(text, known.get(image, ()))} for query, image, text in texts]
    return conform(pl.DataFrame(rows, schema=COMPOSITIONS), COMPOSITIONS, "compositions")


def _known(captions: pl.DataFrame | None) -> Mapping[str, Sequence[str]]:
    return {} if captions is None else dict(captions.select("image_id", "captions").iter_rows())


def _composition(modification: str, captions: Sequence[str]) -> dict[str, object]:
    read = read_modification(modification)
    add = list(dict.fromkeys(filter(is_content, read.wanted)))
    remove = [word for word in dict.fromkeys(filter(is_content, read.rejected)) if word not in add]
    mentions = [each for each in read_captions(captions).values() if is_content(each.word)]
    mentions = [each for each in mentions if each.word not in remove and each.word not in add]
    keep = [each.word for each in mentions if each.foreground >= _FOREGROUND]
    return {
        "keep": keep,
        "add": add,
        "remove": remove,
        "drop": [each.word for each in mentions if each.word not in keep],
        "target_caption": " ".join([*keep, *add]) or modification,
        "status": "ok",
        "detail": "",
        "model": READ,
        "prompt_hash": "",
    }
