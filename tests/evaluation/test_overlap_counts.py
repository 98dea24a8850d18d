"""The overlap of a training with an evaluation set, against a count by hand over every pair."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.evaluation.overlap import Overlap, overlap_of
from setr_lib.tables import GALLERY, QUERIES
from setr_lib.training.trained_on import TRAINED_IMAGES, TRAINED_TRIPLETS, TrainedOn

NAMESPACE = "cirr"
IDS, BYTES, TEXTS = "abcde", "123", ("red", "Red ", "no dots")
names = st.sampled_from(IDS)
fingerprints = st.one_of(st.none(), st.sampled_from(BYTES))
namespaces = st.sampled_from((NAMESPACE, "training"))
texts = st.sampled_from(TEXTS)
triplets = st.tuples(namespaces, names, texts, names)


@dataclass(frozen=True)
class Query:
    reference: str
    text: str
    targets: list[str]


queries = st.builds(Query, names, texts, st.lists(names, unique=True, max_size=2))


def trained(
    images: list[tuple[str, str, str | None]], of: list[tuple[str, str, str, str]] | None = None
) -> TrainedOn:
    return TrainedOn(
        "a test",
        pl.DataFrame(images, schema=TRAINED_IMAGES, orient="row"),
        pl.DataFrame(of or [], schema=TRAINED_TRIPLETS, orient="row"),
        "synthesised" if of else "none",
    )


def gallery(files: dict[str, str | None]) -> pl.DataFrame:
    rows = [(name, name, ["all"], "ok", "", 1, 1, fingerprint, "") for name, fingerprint in files.items()]
    return pl.DataFrame(rows, schema=GALLERY, orient="row")


def asked(found: list[Query]) -> pl.DataFrame:
    rows = [(str(n), q.reference, q.text, [q.text], q.targets, [], "all", []) for n, q in enumerate(found)]
    return pl.DataFrame(rows, schema=QUERIES, orient="row")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(namespaces, names, fingerprints), max_size=6),
    st.lists(triplets, max_size=4),
    st.dictionaries(names, fingerprints, max_size=5),
    st.lists(queries, max_size=4),
)
def test_every_image_query_and_triplet_that_was_seen_counts_once(
    images: list[tuple[str, str, str | None]],
    of: list[tuple[str, str, str, str]],
    files: dict[str, str | None],
    found: list[Query],
) -> None:
    known = images + [(space, name, None) for space, *rest in of for name in (rest[0], rest[2])]

    def same(space: str, name: str, image: str) -> bool:
        """Whether a training image, by namespace and id, is an image of the set."""
        prints = {fingerprint for *id_, fingerprint in known if id_ == [space, name]} - {None}
        return (space == NAMESPACE and name == image) or files.get(image) in prints

    def seen(image: str) -> bool:
        return any(same(space, name, image) for space, name, _ in known)

    def plain(text: str) -> str:
        return text.strip().lower()

    def seen_triplet(q: Query) -> bool:
        return any(
            same(space, reference, q.reference)
            and (plain(text) == plain(q.text) or any(same(space, target, t) for t in q.targets))
            for space, reference, text, target in of
        )

    assert overlap_of(trained(images, of), gallery(files), asked(found), NAMESPACE) == Overlap(
        images=sum(map(seen, files)),
        of_images=len(files),
        queries=sum(seen(q.reference) or any(map(seen, q.targets)) for q in found),
        triplets=sum(map(seen_triplet, found)),
        of_queries=len(found),
    )


def test_one_name_in_two_folders_is_no_overlap() -> None:
    ours = trained([("training", "0001.jpg", "f1")])
    theirs = gallery({"0001.jpg": "f2"})
    asks = asked([Query("0001.jpg", "red", ["0001.jpg"])])
    found = overlap_of(ours, theirs, asks, "folder shop")
    assert found.is_empty
    assert found.words == "0 of 1 gallery images, 0 of 1 queries, 0 of their triplets"


def test_the_same_bytes_under_another_name_are_the_same_image() -> None:
    ours = trained(
        [("training", "x/1.jpg", "f1"), ("training", "x/2.jpg", "f2")],
        [("training", "x/1.jpg", "make it red", "x/2.jpg")],
    )
    theirs = gallery({"a": "f1", "b": "f2", "c": "f3"})
    asks = asked([Query("a", "make it blue", ["b"]), Query("a", "make it red", ["c"]), Query("c", "x", [])])
    assert overlap_of(ours, theirs, asks, "cirr") == Overlap(2, 3, 2, 2, 3)


def test_a_reference_outside_of_the_gallery_is_a_querys_and_no_gallery_image() -> None:
    """It has a row of its own, without a gallery."""
    files = gallery({"a": "f1", "b": "f2", "x": "f3"})
    outside = pl.when(pl.col("image_id") == "x").then(pl.lit([], GALLERY["galleries"])).otherwise("galleries")
    asks = asked([Query("x", "make it red", ["b"]), Query("a", "make it red", [])])
    ours = trained([("training", "own.jpg", "f3")])
    found = overlap_of(ours, files.with_columns(galleries=outside), asks, "icir")
    assert found == Overlap(images=0, of_images=2, queries=1, triplets=0, of_queries=2)
    assert not found.is_empty


def test_a_missing_file_is_no_file_of_another() -> None:
    assert overlap_of(trained([("training", "a", None)]), gallery({"b": None}), asked([]), "cirr").is_empty
    blank = overlap_of(trained([("training", "a", "")]), gallery({"b": ""}), asked([]), "cirr")
    assert blank.is_empty
