"""CIRR val by captions: text, union and intersection over the real annotation files, against a plain BM25, in
one run.

Run it from the repository root: `.venv/bin/python benchmarks/caption_proxy.py [CIRR] [--choose]
[--markdown]`. CIRR is a folder with the official `captions/` and `image_splits/` and with
`image_captions.json` (default: the data set `cirr` of the settings, else `../shared/data/cirr`). No image and
no model is needed; it takes a minute or two.

The image sets (groups of six images that the queries were written for) fall into two halves by a hash of
their number: the intersection's constants were chosen on the development half (`--choose` prints the choice).
The named alternative is the plainest union there is: BM25 (k1 1.2, b 0.6) on words as they stand, each word
of the text at weight 1, each word of the reference's captions at half weight times the share of captions that
have it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from setr_lib.benchmarks.kinds.cirr import captions_file
from setr_lib.datasets import evaluation_set, load_gallery, load_image_captions, load_queries
from setr_lib.errors import SetrError
from setr_lib.evaluation.intervals import paired_differences
from setr_lib.evaluation.metrics import evaluate
from setr_lib.methods.caption_reading import Reading
from setr_lib.methods.captions import CaptionMethod
from setr_lib.methods.inputs import CaptionSearch, GalleryIndex, plain_queries
from setr_lib.methods.method import get_method
from setr_lib.methods.ranking import rank
from setr_lib.settings import Settings, load_settings
from setr_lib.spaces.caption_store import CaptionStore
from setr_lib.spaces.vector_store import GalleryStore
from setr_lib.texts.lexical import words_of

KEY = "cirr-val"
METRICS = ("R@1", "R@5", "R@10", "R@50", "R_subset@1", "R_subset@2", "R_subset@3")
COMPARED = ("R@10", "R_subset@1")
HALVES = ("development", "held out", "whole")
PLAIN_TEXT, PLAIN_UNION = "plain BM25, text", "plain BM25, union"
UNION, INTERSECTION = "captions_union", "captions_intersection"


class PlainBm25:
    """The alternative: BM25 over words in lower case, without stemming. A ``CaptionSearch`` like the store's.

    Args:
        captions: ``image_id`` and ``captions`` of the gallery.
        k1: BM25's saturation of repeated words.
        b: BM25's normalisation by length.
    """

    def __init__(self, captions: pl.DataFrame, k1: float = 1.2, b: float = 0.6) -> None:
        rows = captions.sort("image_id")
        self.ids: list[str] = rows["image_id"].to_list()
        self._captions = dict(rows.select("image_id", "captions").iter_rows())
        counts = [Counter(words_of(" ".join(texts))) for texts in rows["captions"].to_list()]
        lengths = np.array([sum(words.values()) for words in counts], dtype=np.float64)
        self._weights = k1 * (1 - b + b * lengths / lengths.mean())
        self._k1 = k1
        self._found: dict[str, list[tuple[int, int]]] = {}
        for row, words in enumerate(counts):
            for word, count in words.items():
                self._found.setdefault(word, []).append((row, count))

    def captions(self, image_id: str) -> Sequence[str]:
        """The captions of an image.

        Args:
            image_id: The image.

        Returns:
            Its captions; none for an image without.
        """
        return self._captions.get(image_id, ())

    def term(self, word: str) -> str | None:
        """The word itself, if any caption has it.

        Args:
            word: A word in lower case.

        Returns:
            The term, or None.
        """
        return word if word in self._found else None

    def matches(self, term: str) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """The images that have a term.

        Args:
            term: The term.

        Returns:
            Rows of the gallery, and their BM25 values.
        """
        rows, counts = np.array(self._found[term], dtype=np.intp).T
        rarity = np.log(1 + (len(self.ids) - len(rows) + 0.5) / (len(rows) + 0.5))
        return rows, rarity * counts * (self._k1 + 1) / (counts + self._weights[rows])


@dataclass(frozen=True)
class World:
    """CIRR val without images."""

    queries: pl.DataFrame
    gallery: pl.DataFrame
    captions: pl.DataFrame
    development: pl.Series
    """Query ids."""

    @classmethod
    def read(cls, settings: Settings) -> World:
        """Read CIRR val without images.

        Args:
            settings: The settings with the data set.

        Returns:
            Queries, gallery, captions and halves.

        Raises:
            SetrError: There are no captions, or an annotation file is wrong.
        """
        evaluated = evaluation_set(settings, KEY)
        captions = load_image_captions(settings, KEY)
        if captions is None:
            raise SetrError(f"{evaluated.root}: there is no image_captions.json")
        rows = json.loads(captions_file(evaluated).read_text(encoding="utf-8"))
        chosen = [str(row["pairid"]) for row in rows if _is_development(row["img_set"]["id"])]
        gallery = load_gallery(settings, KEY)
        return cls(load_queries(settings, KEY), gallery, captions, pl.Series("query_id", chosen))

    def half(self, name: str) -> pl.DataFrame:
        """The queries of one half, or all.

        Args:
            name: ``development``, ``held out``, or anything else for all.

        Returns:
            A ``tables.QUERIES`` frame.
        """
        inside = pl.col("query_id").is_in(self.development.implode())
        return self.queries.filter({"development": inside, "held out": ~inside}.get(name, pl.lit(True)))


def _is_development(image_set: int) -> bool:
    return int(hashlib.sha256(str(image_set).encode()).hexdigest()[:8], 16) % 2 == 0


def per_query(world: World, search: CaptionSearch, method: CaptionMethod, half: str) -> pl.DataFrame:
    """Metric values by query, by the pipeline's own ranking and metrics.

    Args:
        world: The data.
        search: The index of the captions.
        method: The method.
        half: The half of the queries.

    Returns:
        A PER_QUERY frame.
    """
    queries, ids = world.half(half), world.gallery["image_id"].to_list()
    nothing = np.zeros((len(ids), 0), dtype=np.float32)
    index = GalleryIndex(ids, nothing, search)
    rankings = rank(method, plain_queries(queries), world.gallery, index, 50, remove_reference=True)
    return evaluate("cirr", queries, rankings, world.gallery).per_query


def means(values: pl.DataFrame) -> list[float]:
    """The metrics in percent.

    Args:
        values: A PER_QUERY frame.

    Returns:
        In the order of ``METRICS``.
    """
    found = dict(values.group_by("metric").agg(pl.col("value").mean()).iter_rows())
    return [100 * found[metric] for metric in METRICS]


def variants() -> Iterator[tuple[str, Reading]]:
    """From the union to the intersection, one step at a time, and the intersection with one part taken
    out.
    """
    union, whole = _reading(UNION), _reading(INTERSECTION)
    content = replace(union, content_only=True)
    yield "union", union
    yield "+ content words only", content
    yield "+ rejections obeyed", replace(content, obey_rejections=True)
    yield "+ surroundings at less weight = intersection", whole
    yield "intersection, rejections not obeyed", replace(whole, obey_rejections=False)
    yield "intersection, all words", replace(whole, content_only=False)
    yield "intersection, no surroundings", replace(whole, background=0.0)


def _reading(name: str) -> Reading:
    method = get_method(name)
    assert isinstance(method, CaptionMethod) and isinstance(method.reading, Reading)
    return method.reading


def table(header: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool) -> str:
    """Aligned columns, or a Markdown table.

    Args:
        header: The headings.
        rows: The rows.
        markdown: Whether it is Markdown.

    Returns:
        The table.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    if markdown:
        lines.insert(1, ["---", *["---:"] * (len(header) - 1)])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def choose(world: World, search: CaptionSearch, markdown: bool) -> str:
    """The two constants of the intersection on the development half: the largest sum of the two compared
    metrics.

    Args:
        world: The data.
        search: The index of the captions.
        markdown: Whether the table is Markdown.

    Returns:
        A table of all trials, the best first.
    """
    rows = []
    for reference in (0.3, 0.4, 0.5, 0.6, 0.7):
        for background in (0.0, 0.3, 0.5, 1.0):
            reading = replace(_reading(INTERSECTION), reference=reference, background=background)
            values = means(per_query(world, search, CaptionMethod("tried", reading), "development"))
            shown = [values[METRICS.index(metric)] for metric in COMPARED]
            rows.append((sum(shown), [f"{reference}", f"{background}", *(f"{value:.1f}" for value in shown)]))
    rows.sort(key=lambda row: -row[0])
    return table(
        ["reference", "background", *COMPARED, "sum"],
        ([*row, f"{total:.1f}"] for total, row in rows),
        markdown,
    )


def report(world: World, search: CaptionSearch, plain: CaptionSearch, markdown: bool) -> Iterator[str]:
    """The sections of what is printed.

    Args:
        world: The data.
        search: The store's index of the captions.
        plain: The plain BM25.
        markdown: Whether tables are Markdown.

    Returns:
        The sections, one after the other.
    """
    rankers = [
        (PLAIN_TEXT, plain, _reading("captions_text")),
        (PLAIN_UNION, plain, _reading(UNION)),
        *((name, search, _reading(name)) for name in ("captions_text", UNION, INTERSECTION)),
    ]
    found = {
        (name, half): per_query(world, engine, CaptionMethod(name, reading), half)
        for name, engine, reading in rankers
        for half in HALVES
    }
    for half in HALVES:
        rows = [[name, *_shown(found[name, half])] for name, _, _ in rankers]
        title = f"{half}: {world.half(half).height:,} queries"
        yield f"{title}\n\n{table(['', *METRICS], rows, markdown)}"
    rows = list(_differences(found))
    yield "paired differences, percentage points, 95 % bootstrap intervals\n\n" + table(
        ["", "half", *COMPARED], rows, markdown
    )
    rows = [
        [name, *_shown(per_query(world, search, CaptionMethod(name, reading), half))]
        for half in ("held out",)
        for name, reading in variants()
    ]
    yield f"part by part, held out\n\n{table(['', *METRICS], rows, markdown)}"


def _shown(values: pl.DataFrame) -> list[str]:
    return [f"{value:.1f}" for value in means(values)]


def _differences(found: dict[tuple[str, str], pl.DataFrame]) -> Iterator[list[str]]:
    for rival in (PLAIN_UNION, UNION, "captions_text"):
        for half in HALVES:
            by_metric = paired_differences(found[INTERSECTION, half], found[rival, half])
            cells = [by_metric[metric] for metric in COMPARED]
            yield [
                f"{INTERSECTION} - {rival}",
                half,
                *(f"{100 * d:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" for d, low, high in cells),
            ]


def settings_for(root: Path | None) -> Settings:
    """Settings with CIRR alone.

    Args:
        root: Its folder; by default that of the project's settings, else a place beside the repository.

    Returns:
        The settings.
    """
    if root is None:
        configured = load_settings().datasets.get("cirr")
        root = None if configured is None else load_settings().resolve(configured.root)
        if root is None or not (root / "image_captions.json").is_file():
            root = Path(__file__).parents[2] / "shared" / "data" / "cirr"
    return Settings.model_validate({"datasets": {"cirr": {"kind": "cirr", "root": root.absolute()}}})


def main() -> int:
    """Print the tables; status 1 where the files are not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, nargs="?", metavar="CIRR")
    parser.add_argument("--choose", action="store_true", help="print the choice of constants instead")
    parser.add_argument("--markdown", action="store_true", help="tables in Markdown")
    options = parser.parse_args()
    try:
        world = World.read(settings_for(options.root))
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    without = world.gallery.height - world.captions.height
    print(
        f"CIRR val by captions: {world.queries.height:,} queries, {world.gallery.height:,} images, "
        f"{without:,} of them without a caption (ranked last)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        store = CaptionStore(GalleryStore(folder))
        search = store.open(store.write("cirr-val", world.captions).table)
        if options.choose:
            print(choose(world, search, options.markdown))
            return 0
        for section in report(world, search, PlainBm25(world.captions), options.markdown):
            print(section, end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
