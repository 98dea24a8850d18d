"""Yes/No pairs for the re-ranker, synthesised from captioned images or made of ready triplets.

Two images whose captions differ in one or two phrases are a reference and a target; the difference is the
modification text. Such a *group* gets one positive and negatives of four kinds, which together make a judge
look at both the reference and the text (after LamRA-Rank, arXiv 2412.01720, and the failure modes that ReCALL
reports). The only inputs are captions and the images' own vectors.

Negatives are mined by NumPy and not by ``GalleryStore.search``: its scores are rounded differently, two
near-equal candidates could change places, and other pairs (their digest says which) train another adapter.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from setr_lib.datasets.held_out import held_out_images
from setr_lib.errors import SetrError
from setr_lib.hashing import digest_strings
from setr_lib.progress import Progress, silent
from setr_lib.reranking.captions import Caption, Tokens, parse_captions
from setr_lib.reranking.differences import Edit, is_contradicted
from setr_lib.reranking.neighbours import CaptionGraph, grow_clusters
from setr_lib.reranking.phrasing import phrase_edits
from setr_lib.settings import NegativeKind, PairSettings
from setr_lib.tables import PAIRS, conform

POSITIVE = "positive"
NEGATIVE_KINDS: tuple[NegativeKind, ...] = get_args(NegativeKind)

EncodeTexts = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to unit vectors ``float32[n, d]`` of the images' own space: ``OpenClipSpace.embed_texts``."""
ModificationWriter = Callable[[Sequence[tuple[str, str]]], Sequence[str]]
"""(reference caption, target caption) pairs to modification texts; "" where it has none, and a template is
used."""

_CAPTIONS = "captions"
"""The source of pairs whose texts are made of captions."""
_TWO_EDITS_SHARE = 0.4
_CONTEXT_SHARE = 0.1
"""Groups whose text also, or only, asks for another context; elsewhere the context is free."""
_OTHER_CONTEXT_SHARE = 0.85
"""How often, where there is a choice, the target's context differs from the reference's without a word about
it."""
_POOL_DEPTH = 30
_CLUSTER = 12
_PASSES = 12


class PairError(SetrError):
    """No pairs can be made of this training material; the message says what it lacks."""


@dataclass
class Group:
    """A query with its target. ``answers`` are the rows of all images that satisfy it as far as captions
    tell.
    """

    reference: int
    target: int
    text: str
    answers: frozenset[int]
    edits: list[Edit] = field(default_factory=list)
    target_text: str = ""


@dataclass(frozen=True)
class _World:
    """The images of one split: ``rows`` (indices into all lists) may be used, no others."""

    ids: Sequence[str]
    captions: Sequence[Caption]
    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]

    @cached_property
    def by_core(self) -> dict[Tokens, list[int]]:
        found: defaultdict[Tokens, list[int]] = defaultdict(list)
        for row in self.rows.tolist():
            found[self.captions[row].lemmas].append(row)
        return dict(found)

    @cached_property
    def by_word(self) -> dict[str, frozenset[int]]:
        found: defaultdict[str, set[int]] = defaultdict(set)
        for row in self.rows.tolist():
            for word in self.captions[row].lemmas:
                found[word].add(row)
        return {word: frozenset(rows) for word, rows in found.items()}


def synthesise_pairs(
    images: pl.DataFrame,
    ids: Sequence[str],
    vectors: NDArray[np.float32],
    settings: PairSettings,
    *,
    embed_texts: EncodeTexts | None = None,
    triplets: pl.DataFrame | None = None,
    triplet_source: str = "triplets",
    writer: ModificationWriter | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Yes/No pairs of training images: groups of one positive and up to five negatives.

    Held-out groups use held-out images only, in every role, and no training group ever uses one. The same
    input and ``settings.seed`` give the same frame.

    Args:
        images: ``image_id`` and ``caption`` (and, if there, ``status``: only "ok" rows are used).
        ids: The images of the vector table, in any order.
        vectors: ``float32[n, d]``, norm 1, a row for each of ``ids``.
        settings: How many groups, which negatives, the share held out, the seed.
        embed_texts: Embeds captions in the images' space. Without it, hard negatives are mined around the
            target's own vector instead of its caption's.
        triplets: ``reference_id``, ``modification``, ``target_id``: the source of groups instead of the
            captions.
        triplet_source: What the column ``source`` says of pairs made of triplets: a file's, or which data
            set's train split they are.
        writer: Phrases the modification texts instead of templates.
        progress: Told how far it is.

    Returns:
        A ``PAIRS`` frame of about ``settings.groups`` groups.

    Raises:
        PairError: The material gives no pairs; the message says what it lacks.
    """
    usable, aligned = _align(images, ids, vectors)
    names = usable["image_id"].to_list()
    source = _CAPTIONS if triplets is None else triplet_source
    texts = usable["caption"].fill_null("").to_list() if triplets is None else [""] * len(names)
    captions = parse_captions(texts)
    rng = Random(f"pairs/{settings.seed}")  # noqa: S311 - reproducible, not secret
    known = _triplet_rows(triplets, names) if triplets is not None else None
    graph = CaptionGraph(captions, rng) if known is None else None
    held_out = _held_out_images(graph, known, len(names), settings.held_out_share, rng)
    frames: list[pl.DataFrame] = []
    for split, rows, share in (
        ("train", np.flatnonzero(~held_out), 1 - settings.held_out_share),
        ("held_out", np.flatnonzero(held_out), settings.held_out_share),
    ):
        world = _World(names, captions, aligned, rows)
        wanted = max(1, round(settings.groups * share))
        if known is not None:
            groups = _groups_from_triplets(world, known, wanted, rng)
        else:
            assert graph is not None
            groups = _groups_from_captions(world, graph, wanted, rng, progress, split)
            _rewrite(world, groups, writer)
        frames.append(_pairs_of(world, groups, split, source, settings, embed_texts, rng))
    pairs = conform(pl.concat(frames), PAIRS, "re-ranker pairs")
    _require_both_splits(pairs, source, len(names))
    return pairs


def pair_summary(pairs: pl.DataFrame) -> pl.DataFrame:
    """Counts of pairs by split and kind.

    Args:
        pairs: A ``PAIRS`` frame.

    Returns:
        Columns ``split``, ``kind``, ``pairs``, ``groups``.
    """
    return (
        pairs.group_by("split", "kind", maintain_order=True)
        .agg(pl.len().alias("pairs"), pl.col("group").n_unique().alias("groups"))
        .sort("split", "kind")
    )


def pairs_digest(pairs: pl.DataFrame) -> str:
    """Digest of the content of pairs, in their order.

    Args:
        pairs: A ``PAIRS`` frame.

    Returns:
        The digest.
    """
    return digest_strings(
        digest_strings(str(value) for value in row) for row in pairs.select(list(PAIRS)).iter_rows()
    )


# ----------------------------------------------------------------------------------------------- the input


def _align(
    images: pl.DataFrame, ids: Sequence[str], vectors: NDArray[np.float32]
) -> tuple[pl.DataFrame, NDArray[np.float32]]:
    """Usable images that have a vector, sorted by id (so that the order of a table never matters), and their
    vectors.
    """
    if "status" in images.columns:
        images = images.filter(pl.col("status") == "ok")
    row_of = {image: row for row, image in enumerate(ids)}
    usable = images.filter(pl.col("image_id").is_in(list(row_of))).unique("image_id").sort("image_id")
    if usable.height < 2:
        raise PairError(
            f"{images.height} usable training images, {usable.height} of them with a vector: pairs need at "
            "least two; check what [training] names, and that training_embeddings was "
            "materialised after it changed"
        )
    return usable, np.asarray(vectors, dtype=np.float32)[[row_of[name] for name in usable["image_id"]]]


def _triplet_rows(triplets: pl.DataFrame, names: Sequence[str]) -> list[tuple[int, str, int]]:
    row_of = {name: row for row, name in enumerate(names)}
    columns = triplets.select("reference_id", "modification", "target_id").unique(maintain_order=True)
    rows = [
        (row_of[reference], text, row_of[target])
        for reference, text, target in columns.iter_rows()
        if reference in row_of and target in row_of and reference != target
    ]
    if not rows:
        raise PairError(
            f"none of the {triplets.height} training triplets names two different usable images; check that "
            "their images are here: a triplet file names them relative to [training] image_root"
        )
    return rows


def _held_out_images(
    graph: CaptionGraph | None,
    known: list[tuple[int, str, int]] | None,
    count: int,
    share: float,
    rng: Random,
) -> NDArray[np.bool_]:
    """Which images are held out: whole clusters of look-alikes, so that few groups straddle the border."""
    if graph is not None:
        return grow_clusters(count, graph.nearest_images, share, _CLUSTER, rng)
    return held_out_images([(reference, target) for reference, _, target in known or []], count, share, rng)


def _require_both_splits(pairs: pl.DataFrame, source: str, images: int) -> None:
    counts = Counter(pairs["split"].to_list())
    if counts["train"] and counts["held_out"]:
        return
    reason = (
        "too few of their captions differ from one another in only one or two phrases"
        if source == _CAPTIONS
        else "too few triplets lie wholly on one side of the held-out split"
    )
    raise PairError(
        f"{images} training images gave {counts['train']} training and {counts['held_out']} held-out pairs: "
        f"{reason}; give more images, or another reranking.pairs.held_out_share or seed"
    )


# ---------------------------------------------------------------------------------------------- the groups


def _groups_from_captions(
    world: _World, graph: CaptionGraph, wanted: int, rng: Random, progress: Progress, split: str
) -> list[Group]:
    """Up to ``wanted`` groups: every image is a reference in turn, and kinds of edits take turns for each."""
    groups: dict[tuple[int, str], Group] = {}
    used: defaultdict[int, set[Tokens]] = defaultdict(set)
    by_core = world.by_core
    rows = world.rows.tolist()
    for _ in range(_PASSES):
        before = len(groups)
        rng.shuffle(rows)
        for row in rows:
            if len(groups) >= wanted:
                break
            group = _make_group(world, graph, by_core, row, used[row], rng)
            if group is not None:
                groups.setdefault((group.reference, group.text), group)
            if len(groups) % 100 == 0:
                progress(len(groups), wanted, f"{split} groups written")
        if len(groups) >= wanted or len(groups) == before:
            break
    progress(len(groups), len(groups), f"{split} groups written")
    return list(groups.values())


def _make_group(
    world: _World,
    graph: CaptionGraph,
    by_core: dict[Tokens, list[int]],
    row: int,
    used: set[Tokens],
    rng: Random,
) -> Group | None:
    reference = world.captions[row]
    options = [
        (core, edits) for core, edits in graph.edits_from(reference) if core in by_core and core not in used
    ]
    says_context = bool(reference.context) and rng.random() < _CONTEXT_SHARE
    if says_context and (not options or rng.random() < 0.5):
        options = [(reference.lemmas, [])]
    elif says_context:
        options = [option for option in options if len(option[1]) == 1]
    if not options:
        return None
    core, edits = _pick_option(options, rng)
    target = _pick_target(world, by_core[core], row, rng, must_differ=says_context)
    if target is None:
        return None
    caption = world.captions[target]
    if says_context:
        edits = [*edits, Edit("context", reference.context, caption.context)]
    else:
        used.add(core)
        edits = rng.sample(edits, len(edits))
    answers = [
        other
        for other in by_core[core]
        if not says_context or world.captions[other].context == caption.context
    ]
    has_parts = any(reference.is_part(span) for span in reference.spans if span.kind == "noun")
    return Group(
        row,
        target,
        phrase_edits(edits, rng, has_parts),
        frozenset(answers),
        edits,
        caption.whole_text if says_context else caption.text,
    )


def _pick_option(options: list[tuple[Tokens, list[Edit]]], rng: Random) -> tuple[Tokens, list[Edit]]:
    """First how many edits, then which kinds, then which target: rare kinds are not drowned by frequent
    ones.
    """
    count = 2 if rng.random() < _TWO_EDITS_SHARE else 1
    chosen = [option for option in options if len(option[1]) == count] or options
    by_kind: defaultdict[tuple[str, ...], list[tuple[Tokens, list[Edit]]]] = defaultdict(list)
    for option in chosen:
        by_kind[tuple(sorted(edit.kind for edit in option[1]))].append(option)
    # A phrase that could not be read as a thing or an attribute makes the clumsiest text: the last resort.
    kinds = [kind for kind in by_kind if "phrase" not in kind] or list(by_kind)
    same_kind = by_kind[rng.choice(kinds)]
    # "a ball instead of the star" rather than "a large red dotted ball instead of the star": people change
    # little.
    weights = [1 / _changed_words(edits) ** 2 for _, edits in same_kind]
    return rng.choices(same_kind, weights)[0]


def _changed_words(edits: list[Edit]) -> int:
    whole = ("addition", "removal", "swap")
    return max(1, sum(1 if edit.kind in whole else len(edit.old) + len(edit.new) for edit in edits))


def _pick_target(
    world: _World, rows: list[int], reference: int, rng: Random, *, must_differ: bool
) -> int | None:
    context = world.captions[reference].context
    others = [row for row in rows if row != reference]
    elsewhere = [row for row in others if world.captions[row].context != context]
    if must_differ:
        elsewhere = [row for row in elsewhere if world.captions[row].context]
        return rng.choice(elsewhere) if elsewhere else None
    same = [row for row in others if world.captions[row].context == context]
    pool = elsewhere if elsewhere and (not same or rng.random() < _OTHER_CONTEXT_SHARE) else same
    return rng.choice(pool) if pool else None


def _groups_from_triplets(
    world: _World, known: list[tuple[int, str, int]], wanted: int, rng: Random
) -> list[Group]:
    inside = set(world.rows.tolist())
    answers: defaultdict[tuple[int, str], set[int]] = defaultdict(set)
    for reference, text, target in known:
        answers[reference, text].add(target)
    usable = {(r, text): t for r, text, t in known if r in inside and t in inside}
    chosen = rng.sample(list(usable.items()), min(wanted, len(usable)))
    return [
        Group(reference, target, text, frozenset(answers[reference, text]), target_text=text)
        for (reference, text), target in chosen
    ]


def _rewrite(world: _World, groups: list[Group], writer: ModificationWriter | None) -> None:
    """Let ``writer`` phrase the modifications; a group whose text it does not give keeps its template's."""
    if writer is None:
        return
    asked = [(_caption_for(world, group, group.reference), group.target_text) for group in groups]
    for group, text in zip(groups, writer(asked), strict=True):
        if text.strip():
            group.text = text.strip()


def _caption_for(world: _World, group: Group, row: int) -> str:
    caption = world.captions[row]
    says_context = any(edit.kind == "context" for edit in group.edits)
    return caption.whole_text if says_context else caption.text


# ------------------------------------------------------------------------------------------- the negatives


def _pairs_of(
    world: _World,
    groups: list[Group],
    split: str,
    source: str,
    settings: PairSettings,
    embed_texts: EncodeTexts | None,
    rng: Random,
) -> pl.DataFrame:
    wanted = settings.negatives_per_group
    coarse = _coarse_candidates(world, groups, source, settings, embed_texts)
    text_only = _text_only_candidates(world, groups, source, embed_texts, rng)
    rows: list[tuple[object, ...]] = []
    for number, group in enumerate(groups):
        name = digest_strings([world.ids[group.reference], group.text])[:16]
        chosen: list[tuple[int, str, bool, str]] = [(group.target, group.text, True, POSITIVE)]
        taken = {group.target, group.reference, *group.answers}
        if wanted.get("reference_negative"):
            chosen.append((group.reference, group.text, False, "reference_negative"))
        pools: tuple[tuple[NegativeKind, list[int]], ...] = (
            ("text_only_negative", text_only[number]),
            ("coarse_negative", coarse[number]),
        )
        for kind, pool in pools:
            fresh = [row for row in pool if row not in taken]
            for row in _pick_near_top(fresh, wanted.get(kind, 0), rng):
                taken.add(row)
                chosen.append((row, group.text, False, kind))
        wrong = _wrong_texts(world, groups, group, wanted.get("shuffled_text_negative", 0), rng)
        chosen += [(group.target, text, False, "shuffled_text_negative") for text in wrong]
        for candidate, text, label, kind in chosen:
            pair = digest_strings([name, kind, world.ids[candidate], text])[:16]
            rows.append(
                (
                    pair,
                    split,
                    name,
                    world.ids[group.reference],
                    text,
                    world.ids[candidate],
                    label,
                    kind,
                    source,
                )
            )
    return pl.DataFrame(rows, schema=PAIRS, orient="row")


def _coarse_candidates(
    world: _World, groups: list[Group], source: str, settings: PairSettings, embed_texts: EncodeTexts | None
) -> list[list[int]]:
    """For each group, stage 1's first candidates in order, without near-duplicates of the target."""
    if not groups:
        return []
    vectors = world.vectors[world.rows]
    targets = world.vectors[[group.target for group in groups]]
    if embed_texts is None:
        queries = targets
    else:
        queries = np.asarray(embed_texts([group.target_text for group in groups]), dtype=np.float32)
        if source != _CAPTIONS:
            # No target caption to search by: the sum of reference and text, as the zero-shot baseline does.
            queries = queries + world.vectors[[group.reference for group in groups]]
    found: list[list[int]] = []
    for start in range(0, len(groups), 256):
        block = slice(start, start + 256)
        order = np.argsort(-(queries[block] @ vectors.T), axis=1, kind="stable")[:, : 2 * _POOL_DEPTH]
        duplicate = targets[block] @ vectors.T >= settings.near_duplicate_cosine
        for ranked, same in zip(order, duplicate, strict=True):
            found.append([int(world.rows[index]) for index in ranked if not same[index]][:_POOL_DEPTH])
    return found


def _text_only_candidates(
    world: _World, groups: list[Group], source: str, embed_texts: EncodeTexts | None, rng: Random
) -> list[list[int]]:
    """For each group, images that fit the modification text but come from elsewhere than the reference."""
    if source != _CAPTIONS:
        return _text_only_by_vector(world, groups, embed_texts)
    found: list[list[int]] = []
    for group in groups:
        evidence = [word for edit in group.edits for word in edit.evidence]
        against = [word for edit in group.edits for word in edit.against]
        rows = frozenset(world.rows.tolist())
        for word in evidence:
            rows &= world.by_word.get(word, frozenset())
        for word in against:
            rows -= world.by_word.get(word, frozenset())
        places = {edit.new for edit in group.edits if edit.kind == "context"}
        target = set(world.captions[group.target].lemmas)
        reference = set(world.captions[group.reference].lemmas)
        far = [
            row
            for row in sorted(rows)
            if not places or world.captions[row].context in places
            # More than one word apart from both: the text fits, the rest does not.
            if len(target ^ set(world.captions[row].lemmas)) > 2
            and len(reference ^ set(world.captions[row].lemmas)) > 2
        ]
        rng.shuffle(far)
        found.append(far)
    return found


def _text_only_by_vector(
    world: _World, groups: list[Group], embed_texts: EncodeTexts | None
) -> list[list[int]]:
    if embed_texts is None or not groups:
        return [[] for _ in groups]
    texts = np.asarray(embed_texts([group.text for group in groups]), dtype=np.float32)
    vectors = world.vectors[world.rows]
    found: list[list[int]] = []
    for group, text in zip(groups, texts, strict=True):
        like_reference = vectors @ world.vectors[group.reference]
        like_target = vectors @ world.vectors[group.target]
        # The half of the pool that is least like both: what is left fits the words only.
        elsewhere = np.maximum(like_reference, like_target) <= np.median(
            np.maximum(like_reference, like_target)
        )
        order = np.argsort(-(vectors @ text), kind="stable")
        found.append([int(world.rows[index]) for index in order if elsewhere[index]][:_POOL_DEPTH])
    return found


def _wrong_texts(world: _World, groups: list[Group], group: Group, count: int, rng: Random) -> list[str]:
    """Texts of other groups for which this group's target is certainly wrong, those that suit the reference
    best first.
    """
    if count == 0 or len(groups) < 2:
        return []
    target, nouns = world.captions[group.target], set(world.captions[group.reference].lemmas)
    suited: list[tuple[int, str]] = []
    for other in rng.sample(groups, min(60, len(groups))):
        if other.text == group.text or group.target in other.answers:
            continue
        if group.edits and not is_contradicted(other.edits, target):
            continue
        if not group.edits and (other.reference == group.reference or other.target == group.reference):
            continue
        named = {word for edit in other.edits for word in (edit.noun, edit.other) if word}
        # A text about the context suits every reference; it must not crowd out those that need a closer look.
        suited.append((len(named - nouns) + any(edit.kind == "context" for edit in other.edits), other.text))
    suited.sort(key=lambda item: item[0])
    return list(dict.fromkeys(text for _, text in suited))[:count]


def _pick_near_top(pool: Sequence[int], count: int, rng: Random) -> list[int]:
    """``count`` of a ranked pool without repeats, the top ones likelier, but not only they (they may be
    unlabelled positives).
    """
    left = list(pool)
    picked: list[int] = []
    while left and len(picked) < count:
        weights = [1 / (rank + 3) for rank in range(len(left))]
        picked.append(left.pop(rng.choices(range(len(left)), weights)[0]))
    return picked
