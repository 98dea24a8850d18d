"""What is in the cache of model calls: whether every entry has the form that its kind asks for, how many have
keys of an earlier version, and whether some, computed again, come out as they were.
"""

from __future__ import annotations

import math
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from setr_lib.content_cache import KEY_VERSION
from setr_lib.errors import SetrError
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.content_cache import ContentCache
    from setr_lib.datasets import EvaluationSet
    from setr_lib.models.multimodal import MultimodalModel
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.reranking.reranker import Reranker
    from setr_lib.texts.kind import TextKind

NUMBERS, TEXTS = "numbers", "texts"
KINDS = {"judge_scores": NUMBERS, "composing": TEXTS, "written_modifications": TEXTS}
"""The kinds of entry that SETR writes, and what their values are."""
_KEY = re.compile(r"[0-9a-f]{32}")
_SHOWN = 3
_CLOSE = {"float16": 0.05, "bfloat16": 0.25}
"""How far a score computed again may be off: other batches round otherwise."""
_CLOSE_ELSE = 1e-3


@dataclass(frozen=True)
class KindOfEntries:
    """The entries of one kind.

    Attributes:
        name: The kind: a table of the file.
        entries: How many there are.
        earlier: Those whose keys an earlier version of SETR made. Of results that a picture was needed for,
            they are not found any more.
        faults: What is wrong with an entry, by key.
        is_known: Whether SETR writes this kind; entries of another are not looked at.
    """

    name: str
    entries: int
    earlier: int
    faults: dict[str, str]
    is_known: bool = True


@dataclass(frozen=True)
class Recomputed:
    """Entries that were computed again.

    Attributes:
        possible: Entries that could be: of configured evaluation sets, models and prompts.
        compared: How many were.
        different: What came out otherwise, in sentences.
        failed: Those whose picture cannot be read any more, or has changed.
    """

    possible: int
    compared: int
    different: list[str]
    failed: int


def check_form(path: Path) -> list[KindOfEntries]:
    """Look at the form of every entry; nothing is written.

    Args:
        path: The cache's file.

    Returns:
        The kinds of entry that are there.

    Raises:
        SetrError: The file is no SQLite database, or a damaged one.
    """
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
        try:
            connection.text_factory = bytes  # else a text that is not UTF-8 would end the reading
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != b"ok":
                raise sqlite3.DatabaseError(found.decode(errors="replace").splitlines()[0])
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            return [_kind(connection, name.decode()) for (name,) in tables.fetchall()]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise SetrError(
            f"{path}: is not a readable cache of model calls ({error}): move it away, and what it held is "
            "computed again when it is needed"
        ) from error


def drop_faulty(path: Path, kinds: list[KindOfEntries]) -> int:
    """Delete the entries that are at fault; they are computed again when they are needed.

    Args:
        path: The cache's file.
        kinds: What :func:`check_form` found.

    Returns:
        How many were deleted.
    """
    connection = sqlite3.connect(path, timeout=60)
    try:
        with connection:
            return sum(
                connection.execute(f"DELETE FROM {kind.name} WHERE CAST(key AS TEXT) = ?", (key,)).rowcount
                for kind in kinds
                for key in kind.faults
            )
    finally:
        connection.close()


def _kind(connection: sqlite3.Connection, name: str) -> KindOfEntries:
    columns = {row[1].decode() for row in connection.execute(f"PRAGMA table_info({name})")}
    if name not in KINDS or not {"key", "value", "made_at"} <= columns:
        (entries,) = connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()
        return KindOfEntries(name, entries, 0, {}, is_known=False)
    version = "key_version" if "key_version" in columns else "''"
    entries, earlier, faults = 0, 0, dict[str, str]()
    for key, value, made_at, written in connection.execute(
        f"SELECT CAST(key AS TEXT), value, made_at, {version} FROM {name}"
    ):
        entries += 1
        earlier += written != KEY_VERSION.encode()
        text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
        if fault := _fault(text, value, made_at, KINDS[name]):
            faults[text] = fault
    return KindOfEntries(name, entries, earlier, faults)


def _fault(key: str, value: object, made_at: object, holds: str) -> str | None:
    """What is wrong with an entry; None where nothing is."""
    if not _KEY.fullmatch(key):
        return "its key is no digest"
    if not isinstance(made_at, float | int) or not math.isfinite(made_at) or made_at <= 0:
        return "it does not say when it was made"
    if not isinstance(value, bytes):
        return f"it holds {'nothing' if value is None else 'a number that is not written as text'}"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "its text is not UTF-8"
    if holds == TEXTS:
        return "its text holds a null character" if "\0" in text else None
    try:
        return None if math.isfinite(float(text)) else "its score is not finite"
    except ValueError:
        return "its score is not a number"


@dataclass(frozen=True)
class _Scores:
    """Kept scores of one evaluation set, method and re-ranker."""

    cache_kind: str
    keys: dict[str, tuple[str, str]]
    """(query id, image id) by cache key."""
    queries: pl.DataFrame
    gallery: pl.DataFrame
    reranker: Reranker

    @property
    def model(self) -> MultimodalModel | None:
        """The model whose memory of pictures must not answer."""
        from setr_lib.reranking.yes_no_judge import YesNoJudge

        return self.reranker.model if isinstance(self.reranker, YesNoJudge) else None

    def again(self, keys: list[str], scratch: ContentCache) -> dict[str, str]:
        from setr_lib.reranking.rerank import judge_pairs

        wanted: dict[str, list[str]] = {}
        for key in keys:
            wanted.setdefault(self.keys[key][0], []).append(self.keys[key][1])
        made = judge_pairs(wanted, self.queries, self.gallery, self.reranker, scratch)
        return {key: repr(made[self.keys[key]]) for key in keys if self.keys[key] in made}

    def difference(self, key: str, kept: str, made: str) -> str | None:
        dtype = str(self.model.model.dtype).removeprefix("torch.") if self.model else ""
        before, now = float(kept), float(made)
        close = _CLOSE.get(dtype, _CLOSE_ELSE) * max(1.0, abs(before) / 10)
        if abs(before - now) <= close:
            return None
        query, image = self.keys[key]
        return (
            f"{self.reranker.name}: query {query}, image {image}: the kept score is {before:g}, now {now:g}"
        )


@dataclass(frozen=True)
class _Answers:
    """Kept answers of the multimodal LLM about the images or queries of one evaluation set."""

    cache_kind: str
    keys: dict[str, Any]
    """Request by cache key."""
    what: str
    context: PipelineContext

    @property
    def model(self) -> MultimodalModel | None:
        """The model whose memory of pictures must not answer; an endpoint has none here."""
        return None if self.context.settings.models.judge.endpoint.url else self.context.models.multimodal()

    def again(self, keys: list[str], scratch: ContentCache) -> dict[str, str]:
        from setr_lib.texts.generation import kept_answers

        requests = {key: self.keys[key] for key in keys}
        return kept_answers(self.context.models.writer(), requests, scratch, silent, self.what)[0]

    def difference(self, key: str, kept: str, made: str) -> str | None:
        if kept == made:
            return None
        return f"{self.what}: the kept answer is {kept[:80]!r}, now {made[:80]!r}"


def recompute(context: PipelineContext, count: int, seed: int = 0, progress: Progress = silent) -> Recomputed:
    """Compute some entries again, from the tables of the evaluation sets, and compare.

    Those are scores of re-rankers that score pairs, captions and compositions, by the models and prompts that
    settings name now. Nothing is stored.

    Args:
        context: Settings, tables, models and the cache.
        count: How many entries, drawn among all that can be.
        seed: Of the draw.
        progress: Told how many are done.

    Returns:
        What was compared.

    Raises:
        SetrError: A model cannot be loaded.
    """
    from setr_lib.content_cache import ContentCache

    groups = [*_groups(context)]
    caches = {kind: context.cache(kind) for kind in {group.cache_kind for group in groups}}
    kept = [caches[group.cache_kind].get_many(group.keys) for group in groups]
    possible = [(number, key) for number, found in enumerate(kept) for key in sorted(found)]
    drawn = sorted(Random(seed).sample(possible, min(count, len(possible))))  # noqa: S311 - not secret
    different, failed, done = list[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="setr-cache-check-") as scratch:
        for number, group in enumerate(groups):
            keys = [key for owner, key in drawn if owner == number]
            if not keys:
                continue
            cache = ContentCache(Path(scratch) / f"{number}.sqlite", group.cache_kind)
            with group.model.vision.separate_memory() if group.model else nullcontext():
                made = group.again(keys, cache)
            failed += len(keys) - len(made)
            found = (group.difference(key, kept[number][key], made[key]) for key in keys if key in made)
            different += [words for words in found if words is not None]
            done += len(keys)
            progress(done, len(drawn), "entries computed again")
    return Recomputed(len(possible), len(drawn) - failed, different, failed)


def _groups(context: PipelineContext) -> Iterator[_Scores | _Answers]:
    from setr_lib.datasets import evaluation_sets

    for evaluated in evaluation_sets(context.settings):
        if context.tables.exists("gallery_images", evaluated.key) and context.tables.exists(
            "queries", evaluated.key
        ):
            yield from _of_set(context, evaluated)


def _of_set(context: PipelineContext, evaluated: EvaluationSet) -> Iterator[_Scores | _Answers]:
    from setr_lib.tables import GALLERY, QUERIES
    from setr_lib.texts.generation import CACHE_KIND, CAPTION_TEXTS, COMPOSITION_TEXTS, requests_of

    key, tables = evaluated.key, context.tables
    queries, gallery = tables.read("queries", QUERIES, key), tables.read("gallery_images", GALLERY, key)
    yield from _scores(context, evaluated, queries, gallery)
    references = gallery.filter(gallery["image_id"].is_in(queries["reference_id"].unique().implode()))
    kinds: list[tuple[TextKind, pl.DataFrame]] = [(CAPTION_TEXTS, references), (COMPOSITION_TEXTS, queries)]
    for kind, rows in kinds:
        if kind.name in context.methods.texts_needed:
            generator = _generator(context, evaluated.kind)
            found = requests_of(kind, generator, rows, gallery)
            yield _Answers(CACHE_KIND, found, f"{key}: {kind.name}", context)


def _generator(context: PipelineContext, dataset: str) -> Any:
    from setr_lib.texts.generation import CACHE_KIND, Generator

    model, prompts = context.models.writer(), context.prompts()
    return Generator(model, prompts, context.cache(CACHE_KIND), dataset)


def _scores(
    context: PipelineContext, evaluated: EvaluationSet, queries: pl.DataFrame, gallery: pl.DataFrame
) -> Iterator[_Scores]:
    import polars as pl

    from setr_lib.pipeline.reranking_run import RerankingRun
    from setr_lib.reranking.rerank import CACHE_KIND, pair_keys
    from setr_lib.tables import RANKINGS

    run, tables = RerankingRun(context, {}), context.tables
    depth = context.settings.rerank_depth(evaluated.dataset)
    for method in context.methods.reranked(evaluated.key):
        name = tables.coarse(evaluated.key, method.name)
        if not tables.exists(name):
            continue
        ranked = tables.read(name, RANKINGS)
        near = ranked.filter((pl.col("pool") != "gallery") | (pl.col("rank") <= depth))
        wanted = {
            query: [*dict.fromkeys(images)]
            for query, images in near.group_by("query_id", maintain_order=True).agg("image_id").iter_rows()
        }
        for named in context.rerankers.usable(run.versions):
            if named.listwise:
                continue
            scorer = run.opened(named).scorer
            keys = pair_keys(wanted, queries, gallery, scorer)[0]
            of_key = {cache_key: pair for pair, cache_key in keys.items()}
            yield _Scores(CACHE_KIND, of_key, queries, gallery, scorer)
