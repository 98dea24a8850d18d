"""The gallery store: incremental, honest about broken pictures, exact, and whole after a kill."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from setr_lib.hashing import fingerprint_file
from setr_lib.methods.ranking import top_k
from setr_lib.methods.similarity import similarity, unit
from setr_lib.settings import EncoderSettings
from setr_lib.spaces import row_writer, vector_store
from setr_lib.spaces.open_clip_space import OpenClipSpace
from setr_lib.spaces.vector_store import GalleryError, GalleryStore
from tests.tiny_encoder import write_tiny_clip

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def encoder_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture(scope="session")
def encoder(encoder_name: str) -> OpenClipSpace:
    import torch

    torch.set_num_threads(1)
    return OpenClipSpace.load(EncoderSettings(name=encoder_name), "cpu")


@pytest.fixture
def store(tmp_path: Path) -> GalleryStore:
    return GalleryStore(tmp_path / "lancedb")


def draw(path: Path, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def gallery_of(folder: Path, count: int) -> pl.DataFrame:
    """``count`` pictures drawn to ``folder``; ids with every character that might upset a filter."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    for seed, path in enumerate(paths):
        draw(path, seed)
    return pl.DataFrame(
        {
            "image_id": [f'it\'s "{i:03d}" -- é' for i in range(count)],
            "path": [str(path) for path in paths],
            "status": ["ok"] * count,
            "fingerprint": [fingerprint_file(path) for path in paths],
        }
    )


def refreshed(gallery: pl.DataFrame) -> pl.DataFrame:
    prints = [fingerprint_file(Path(path)) for path in gallery["path"]]
    return gallery.with_columns(pl.Series("fingerprint", prints))


class Counting:
    """Counts the pictures that pass through an encoder."""

    def __init__(self, encoder: OpenClipSpace, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = 0
        original: Callable[..., np.ndarray] = encoder.embed_preprocessed

        def counted(pixels: list, *rest: object) -> np.ndarray:
            self.pictures += len(pixels)
            return original(pixels, *rest)

        monkeypatch.setattr(encoder, "embed_preprocessed", counted)


def test_first_build_holds_every_picture_once(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    gallery = gallery_of(tmp_path / "images", 10)
    seen: list[tuple[int, int]] = []
    report = store.synchronise(
        "t", gallery.sample(fraction=1, shuffle=True, seed=1), encoder, 4, lambda d, n, _: seen.append((d, n))
    )
    ids, vectors = store.read("t")
    assert (report.embedded, report.kept, report.removed, report.rows) == (10, 0, 0, 10)
    assert seen[0] == (0, 10) and seen[-1] == (10, 10)
    assert seen == sorted(set(seen)) and set(seen) <= {(0, 10), (4, 10), (8, 10), (10, 10)}
    assert ids == sorted(gallery["image_id"])
    expected = encoder.embed_images([Image.open(path) for path in gallery["path"]])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert vectors.dtype == np.float32 and vectors.flags.c_contiguous


def test_second_run_embeds_nothing_and_makes_no_version(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = gallery_of(tmp_path / "images", 6)
    first = store.synchronise("t", gallery, encoder, 4)
    counting = Counting(encoder, monkeypatch)
    second = store.synchronise("t", gallery, encoder, 4)
    assert (second.embedded, second.kept, second.version) == (0, 6, first.version)
    assert counting.pictures == 0


def test_only_new_and_changed_are_embedded_and_the_gone_removed(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = gallery_of(tmp_path / "images", 8)
    before = store.synchronise("t", gallery[:6], encoder, 4)
    draw(Path(gallery["path"][2]), seed=99)
    counting = Counting(encoder, monkeypatch)
    after = store.synchronise("t", refreshed(gallery)[1:], encoder, 4)
    assert counting.pictures == 3  # the two new ones and the changed one
    assert (after.embedded, after.kept, after.removed, after.rows) == (3, 4, 2, 7)
    ids, vectors = store.read("t")
    expected = encoder.embed_images([Image.open(path) for path in gallery["path"][1:]])
    assert ids == gallery["image_id"][1:].to_list()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert store.read("t", before.version)[0] == gallery["image_id"][:6].to_list()


def test_broken_pictures_are_listed_and_cost_nothing_else(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    gallery = gallery_of(tmp_path / "images", 9)
    whole = Path(gallery["path"][1]).read_bytes()
    Path(gallery["path"][1]).write_bytes(whole[: len(whole) // 2])
    Path(gallery["path"][4]).write_bytes(b"no picture")
    Path(gallery["path"][5]).unlink()
    gallery = gallery.with_columns(
        pl.when(pl.int_range(pl.len()) == 8).then(pl.lit("broken")).otherwise("status").alias("status")
    )
    report = store.synchronise("t", gallery, encoder, 2)
    assert [failed.image_id for failed in report.failed] == [gallery["image_id"][i] for i in (1, 4, 5)]
    assert all(failed.path in failed.reason for failed in report.failed)
    assert (report.embedded, report.rows) == (5, 5)
    Path(gallery["path"][1]).write_bytes(whole)
    again = store.synchronise("t", gallery, encoder, 2)
    assert (again.embedded, again.kept, len(again.failed)) == (1, 5, 2)


def test_duplicate_ids_and_missing_fingerprints_are_refused(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    gallery = gallery_of(tmp_path / "images", 3)
    with pytest.raises(GalleryError, match="occur more than once"):
        store.synchronise("t", pl.concat([gallery, gallery[:1]]), encoder)
    with pytest.raises(GalleryError, match="no fingerprint"):
        store.synchronise("t", gallery.with_columns(pl.lit(None, pl.String).alias("fingerprint")), encoder)


def test_rows_that_another_writer_doubled_are_healed(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    import lancedb

    gallery = gallery_of(tmp_path / "images", 4)
    store.synchronise("t", gallery, encoder)
    table = lancedb.connect(store.uri).open_table("t")
    table.add(table.to_arrow().slice(1, 1))
    with pytest.raises(GalleryError, match="occur more than once"):
        store.read("t")
    report = store.synchronise("t", gallery, encoder)
    assert (report.embedded, report.kept, report.removed, report.rows) == (1, 3, 2, 4)


def test_the_primary_key_is_declared(store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path) -> None:
    """Two merges of the same new key at once must not both succeed: that is what the declaration is for."""
    import lancedb

    gallery = gallery_of(tmp_path / "images", 2)
    store.synchronise("t", gallery, encoder)
    database = lancedb.connect(store.uri)
    rows = database.open_table("t").to_arrow()
    new = rows.slice(0, 1).set_column(0, rows.schema.field(0), [["new"]])
    barrier = threading.Barrier(4)

    def merge() -> None:
        handle = lancedb.connect(store.uri).open_table("t")
        barrier.wait()
        handle.merge_insert("image_id").when_not_matched_insert_all().execute(new)

    threads = [threading.Thread(target=merge) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("t")[0].count("new") == 1


def test_two_writers_wait_for_each_other(store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "images", 12)
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(store.synchronise("t", gallery, encoder, 2)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((r.embedded, r.kept, r.rows) for r in reports) == [(0, 12, 12), (12, 0, 12)]


@pytest.fixture
def many_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are appended at once, as those of slow models are, and any two appends are merged in the end."""
    monkeypatch.setattr(row_writer, "SHARE", 0)
    monkeypatch.setattr(vector_store, "_COMPACT_ABOVE", 1)


@pytest.mark.usefixtures("many_commits")
def test_many_small_batches_are_compacted_and_reported_versions_stay(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    gallery = gallery_of(tmp_path / "images", 60)
    first = store.synchronise("t", gallery[:30], encoder, 1)
    assert store.open("t").stats()["fragment_stats"]["num_fragments"] == 1
    second = store.synchronise("t", gallery, encoder, 1)
    assert store.open("t").stats()["fragment_stats"]["num_fragments"] == 1
    assert len(store.read("t", first.version)[0]) == 30
    assert len(store.read("t", second.version)[0]) == len(store.read("t")[0]) == 60


@pytest.mark.usefixtures("many_commits")
def test_the_batches_of_a_first_build_leave_no_trail(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    gallery = gallery_of(tmp_path / "images", 30)

    store.synchronise("t", gallery, encoder, 1)
    versions = sorted(store.open("t").list_versions(), key=lambda version: version["version"])
    # LanceDB cleans up what was made earlier by the wall clock. Where that is set back meanwhile, versions
    # from before carry a later time than the last one, and stay: they say nothing here.
    last = versions[-1]["timestamp"] - timedelta(milliseconds=10)
    assert [version["version"] for version in versions[:-1] if version["timestamp"] < last] == []
    # Data files are not counted: LanceDB keeps those that it cannot tell from ones being written for a week.


def test_short_memory_halves_batches_and_says_so(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = encoder._image_vectors

    def cramped(pixels: list) -> np.ndarray:
        if len(pixels) > 2:
            raise RuntimeError("CUDA out of memory")
        return original(pixels)

    monkeypatch.setattr(encoder, "_image_vectors", cramped)
    report = store.synchronise("t", gallery_of(tmp_path / "images", 10), encoder, 8)
    assert (report.rows, report.halved) == (10, ((8, 4), (4, 2)))


def test_tables_are_apart_by_gallery_encoder_and_preprocessing(
    encoder: OpenClipSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {GalleryStore.table_name("cirr/val é", encoder), GalleryStore.table_name("cirr/val e", encoder)}
    monkeypatch.setattr(encoder, "preprocessing_id", "other")
    names.add(GalleryStore.table_name("cirr/val é", encoder))
    monkeypatch.setattr(encoder, "id", "other@0")
    names.add(GalleryStore.table_name("cirr/val é", encoder))
    assert len(names) == 4
    assert all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in names)


def test_absent_tables_and_versions_are_explained(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    with pytest.raises(GalleryError, match="no table nothing"):
        store.read("nothing")
    store.synchronise("t", gallery_of(tmp_path / "images", 2), encoder)
    with pytest.raises(GalleryError, match="no version 99"):
        store.read("t", 99)


def test_an_empty_gallery_is_an_empty_table(store: GalleryStore, encoder: OpenClipSpace) -> None:
    schema = {"image_id": pl.String, "path": pl.String, "fingerprint": pl.String}
    report = store.synchronise("t", pl.DataFrame(schema=schema), encoder)
    ids, vectors = store.read("t")
    assert (report.rows, ids, vectors.shape) == (0, [], (0, encoder.dimension))


def test_search_is_exact_even_beside_an_index_and_breaks_ties_by_id(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    import lancedb
    from lancedb.index import IvfFlat

    gallery = gallery_of(tmp_path / "images", 60)
    for twin in range(20, 60):  # 41 equal pictures: more than any slack around the cut
        draw(Path(gallery["path"][twin]), seed=19)
    store.synchronise("t", refreshed(gallery), encoder)
    table = lancedb.connect(store.uri).open_table("t")
    table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=8))
    ids, vectors = store.read("t")
    hits = store.search("t", vectors[[0, 19]], k=7)
    scores = np.round(vectors[[0, 19]].astype(np.float64) @ vectors.T.astype(np.float64), 6)
    for query in range(2):
        expected = sorted(range(60), key=lambda i: (-scores[query, i], ids[i]))[:7]
        found = hits.filter(pl.col("query") == query)
        assert found["image_id"].to_list() == [ids[i] for i in expected]
        assert found["rank"].to_list() == list(range(1, 8))
        np.testing.assert_allclose(found["score"], scores[query, expected], atol=2e-6)


def test_search_stays_within_the_allowed(store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path) -> None:
    gallery = gallery_of(tmp_path / "images", 40)
    store.synchronise("t", gallery, encoder)
    ids, vectors = store.read("t")
    farthest = sorted(ids[row] for row in np.argsort(vectors @ vectors[0])[:3])
    assert sorted(store.search("t", vectors[0], 5, allowed=farthest)["image_id"]) == farthest
    assert len(store.search("t", vectors[0], 5, allowed=[])) == 0
    assert len(store.search("t", vectors[0], 100)) == 40
    with pytest.raises(GalleryError, match="dimensions"):
        store.search("t", np.ones((1, 3), np.float32), 1)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dimension=st.sampled_from([1, 2, 7, 64, 512]),
    distinct=st.integers(1, 30),
    copies=st.sampled_from([1, 2, 5, 60]),
    k=st.integers(1, 80),
)
@example(seed=0, dimension=512, distinct=5, copies=60, k=9)
def test_search_ranks_as_numpy_does(seed: int, dimension: int, distinct: int, copies: int, k: int) -> None:
    """Among duplicates, near-duplicates that float32 sums cannot tell apart, and zero vectors; ties by id."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(distinct, dimension)).repeat(copies, axis=0))
    close = rng.random(len(vectors)) < 0.5
    vectors[close] = unit(vectors[close] + rng.normal(size=(close.sum(), dimension)) * 1e-7)
    vectors[rng.random(len(vectors)) < 0.05] = 0
    ids = [f"it's {number:04d}" for number in rng.permutation(len(vectors))]
    queries = unit(np.stack([vectors[0], rng.normal(size=dimension), np.zeros(dimension)]))
    searched = [image_id for image_id in ids if rng.random() < 0.7]
    rows = np.array(sorted((ids.index(image_id) for image_id in searched), key=ids.__getitem__), dtype=int)
    with TemporaryDirectory() as folder:
        store = GalleryStore(folder)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dimension)
        store.connect().create_table("t", pa.table({"image_id": ids, "vector": column}))
        others = sorted(set(ids) - set(searched))
        answers = [store.search("t", queries, k, searched), store.search("t", queries, k, excluded=others)]
    scores = similarity(queries, vectors[rows])
    numbers, columns = top_k(scores, k)
    for found in answers:
        assert found["query"].to_list() == numbers.tolist()
        assert found["image_id"].to_list() == [ids[row] for row in rows[columns]]
        np.testing.assert_allclose(found["score"], scores[numbers, columns], atol=1e-6)
        for _, hits in found.group_by("query"):
            assert hits["rank"].to_list() == list(range(1, len(hits) + 1))


def test_ids_are_those_that_read_gives(store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path) -> None:
    import lancedb

    gallery = gallery_of(tmp_path / "images", 12)
    version = store.synchronise("t", gallery[:7], encoder, 4).version
    store.synchronise("t", gallery.sample(fraction=1, shuffle=True, seed=2), encoder, 4)
    assert store.ids("t") == store.read("t")[0] == gallery["image_id"].to_list()
    assert store.ids("t", version) == gallery["image_id"][:7].to_list()
    table = lancedb.connect(store.uri).open_table("t")
    table.add(table.to_arrow().slice(1, 1))
    with pytest.raises(GalleryError, match="occur more than once"):
        store.ids("t")


def test_a_store_can_be_sent_to_another_process(
    store: GalleryStore, encoder: OpenClipSpace, tmp_path: Path
) -> None:
    store.synchronise("t", gallery_of(tmp_path / "images", 2), encoder)
    assert len(ForkingPickler.dumps(store)) < 200  # an address, and no connection


def test_sigkill_loses_nothing_that_was_said_to_be_done(
    store: GalleryStore, encoder: OpenClipSpace, encoder_name: str, tmp_path: Path
) -> None:
    """Kill a real process at random moments of its work; the table is always sound, the last run completes
    it.
    """
    batch, gallery = 4, gallery_of(tmp_path / "images", 80)
    frame = tmp_path / "gallery.parquet"
    gallery.write_parquet(frame)
    table = store.table_name("g", encoder)
    moments, done_before = random.Random(3), 0
    for batches_first in (1, 5):
        said = _run_and_kill(
            [store.uri, str(frame), encoder_name, str(batch), "0.1"], batches_first, moments.uniform(0, 0.05)
        )
        ids, _ = store.read(table)
        assert len(set(ids)) == len(ids)
        assert done_before + said <= len(ids) < 80
        done_before = len(ids)
    assert 0 < done_before < 80
    report = store.synchronise(table, gallery, encoder, batch)
    assert (report.kept, report.embedded, report.rows) == (done_before, 80 - done_before, 80)
    fresh = GalleryStore(tmp_path / "fresh")
    fresh.synchronise(table, gallery, encoder, batch)
    assert store.read(table)[0] == fresh.read(table)[0]
    np.testing.assert_allclose(store.read(table)[1], fresh.read(table)[1], atol=1e-6)


def _run_and_kill(arguments: list[str], batches_first: int, then_wait: float) -> int:
    """SIGKILL the process some time after it reported ``batches_first`` batches; pictures it had reported."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.spaces.embed_in_process", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(batches_first + 1)]  # the first line says 0
    time.sleep(then_wait)
    process.send_signal(signal.SIGKILL)
    said += process.stdout.readlines()
    assert process.wait() == -signal.SIGKILL
    return max(int(line.split("/")[0]) for line in said if line.endswith("embedded\n"))
