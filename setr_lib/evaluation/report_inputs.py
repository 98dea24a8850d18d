"""What a report page is made of: the tables of one evaluation set, and what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from setr_lib.errors import SetrError
from setr_lib.evaluation.charts import PairedDifference
from setr_lib.evaluation.report_history import Origin
from setr_lib.evaluation.row import Row
from setr_lib.reranking.order import Order


class ReportError(SetrError):
    """A report cannot be made from what it was given; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows. Everything has a default that suits the data."""

    protocol: str = ""
    """How the data set is measured, in words; ``**`` around a word makes it bold
    (``Benchmark.protocol_text``)."""
    headline: tuple[str, ...] = ()
    """Metrics drawn as ladders (``Benchmark.headline_metrics``); the first ones of ``metrics`` by default."""
    method: str | None = None
    """The method whose rankings the contact sheets show; by default one that was re-ranked."""
    plain_scores: frozenset[Row] = frozenset()
    """Rows whose re-ranker's scores are not the log-odds of a Yes, and so are shown as numbers."""
    contact_sheet_queries: int = 12
    """Queries in each group of cases."""
    top: int = 10
    """Images shown of each ranking."""
    thumbnail: int = 112
    """Longer side of a thumbnail in pixels."""
    seed: int = 5
    """Of the random sample."""
    caption_proxy: bool = False
    """Whether captions were ranked in place of images: the page then says so, and shows captions where
    pictures would be."""
    shown: frozenset[str] | None = None
    """The methods whose rows are shown at once; the others are folded. None: all."""
    notes: tuple[str, ...] = ()
    """Further reasons why the numbers are not comparable, or warnings, shown in the banner on top."""
    first_notes: tuple[tuple[str, str], ...] = ()
    """What a reader must know before anything else, each as a few words and a sentence: drawn pictures."""
    orders: Mapping[Row, Order] = field(default_factory=dict)
    """What each row's ranking is ordered by, where that is known."""
    origin: Origin | None = None
    """When, by which run and version the page is made, and what makes it again."""
    result: str = ""
    """Digest of the results; names the files beside the page."""
    sets: tuple[tuple[str, str], ...] | None = None
    """Other evaluation sets, and the addresses of their reports from this page; None where there is no index
    above it."""


@dataclass(frozen=True)
class ReportData:
    """What a report tells of: the tables of one evaluation set, with the schemas of ``setr_lib.tables``."""

    key: str
    """The evaluation set's key."""
    title: str
    queries: pl.DataFrame
    gallery: pl.DataFrame
    rankings: Mapping[Row, pl.DataFrame]
    metrics: pl.DataFrame
    """METRICS rows in percent, ``coverage`` from 0 to 1; left out of the page where no query has targets."""
    captions: pl.DataFrame | None = None
    """Captions of reference images."""
    compositions: pl.DataFrame | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What made the numbers, in the order to be shown."""
    paired: Sequence[PairedDifference] = ()
    """In percentage points."""
    learned: Sequence[tuple[str, str, str]] = ()
    """Title, label and overlap with this set of rows whose weights were trained here."""
    failures: pl.DataFrame | None = None
    """FAILURES of the method that is shown and its last re-ranker; by default made of the other tables."""
