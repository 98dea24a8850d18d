"""i-CIR: its two CSV files in both layouts, each query in the database of its instance, and the trapezoidal
average precision of its authors' code against numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.benchmarks import TrapezoidalAveragePrecision
from setr_lib.benchmarks.metrics import RandomPools, TargetRanks
from setr_lib.cli import main
from setr_lib.datasets import DatasetError, evaluation_set, load_gallery, load_queries
from setr_lib.datasets.images import find_images
from setr_lib.errors import SetrError
from setr_lib.evaluation.floor import random_floor, random_intervals, random_rankings
from setr_lib.evaluation.metrics import evaluate
from setr_lib.evaluation.pools import pools_of
from setr_lib.methods.inputs import GalleryIndex, encode_queries
from setr_lib.methods.method import get_method
from setr_lib.methods.ranking import rank
from setr_lib.pipeline.faults import ranking_faults
from setr_lib.pipeline.held_gallery import HeldGallery
from setr_lib.pipeline.query_set import QuerySet
from setr_lib.settings import Settings

Build = Callable[..., Settings]

# Instance and text decide, letter by letter: m5 has another spelling, c1 another instance.
DATABASE = """\
icir/database/mug/m1.jpg,on a table,mug
icir/database/mug/m2.jpg,in the snow,mug
icir/database/mug/m3.jpg,,mug
icir/database/mug/m4.jpg,on a table,mug
icir/database/mug/m5.jpg,On a table,mug
icir/database/cat/c1.jpg,on a table,cat
icir/database/cat/c2.jpg,,cat
icir/database/cat/c3.jpg,as a drawing,cat
icir/database/mug/m3.jpg,,cat
"""
QUERIES = """\
icir/query/mug/q1.jpg,on a table,mug
icir/query/mug/q1.jpg,in the snow,mug
icir/query/cat/q2.jpg,as a drawing,cat
"""
MUG = [f"database/mug/m{number}.jpg" for number in range(1, 6)]
CAT = [f"database/cat/c{number}.jpg" for number in range(1, 4)]

# Targets at ranks 1 and 4 of 5; at rank 2; at rank 1 (see TrapezoidalAveragePrecision).
FIRST = ((1 + 1) / 2 + (1 / 3 + 2 / 4) / 2) / 2.00001
SECOND = (0 + 1 / 2) / 2 / 1.00001
THIRD = 1 / 1.00001
RANKED = {"0": MUG, "1": MUG, "2": [CAT[2], CAT[0], MUG[2], CAT[1]]}


class NoText:
    """A text encoder for a method that does not read texts."""

    dimension = 8

    def count_truncated(self, texts: Sequence[str]) -> int:
        return 0

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.full((len(texts), 8), 8**-0.5, dtype=np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "icir"
    folder.mkdir()
    (folder / "database_files.csv").write_text(DATABASE, encoding="utf-8")
    (folder / "query_files.csv").write_text(QUERIES, encoding="utf-8")
    return folder


@pytest.fixture
def command(root: Path) -> list[str]:
    config = root.parent / "setr.toml"
    config.write_text('[storage]\nroot = "var"\n[datasets.icir]\nroot = "icir"\n', encoding="utf-8")
    return ["--config", str(config)]


def test_a_query_searches_the_database_of_its_instance(root: Path, settings_for: Build) -> None:
    settings = settings_for("icir", root)
    queries, gallery = load_queries(settings, "icir"), load_gallery(settings, "icir")
    assert queries.select("query_id", "reference_id", "modification", "gallery").rows() == [
        ("0", "query/mug/q1.jpg", "on a table", "mug"),
        ("1", "query/mug/q1.jpg", "in the snow", "mug"),
        ("2", "query/cat/q2.jpg", "as a drawing", "cat"),
    ]
    assert queries["target_ids"].to_list() == [[MUG[0], MUG[3]], [MUG[1]], [CAT[2]]]
    galleries = dict(gallery.select("image_id", "galleries").iter_rows())
    assert galleries[MUG[2]] == ["mug", "cat"], "an image may be in two databases"
    assert galleries["query/mug/q1.jpg"] == galleries["query/cat/q2.jpg"] == [], "references are never ranked"
    assert dict(gallery.select("image_id", "path").iter_rows())[MUG[0]] == str(root / MUG[0])
    images = pools_of(gallery).images
    assert images == {"mug": MUG, "cat": [MUG[2], *CAT]}


def test_hugging_face_keeps_the_files_in_a_folder_of_their_own(root: Path, settings_for: Build) -> None:
    before = load_queries(settings_for("icir", root), "icir")
    (root / "annotations").mkdir()
    for name in ("query_files.csv", "database_files.csv"):
        (root / name).rename(root / "annotations" / name)
    assert load_queries(settings_for("icir", root), "icir").equals(before)


def test_map_is_over_queries_and_mmap_over_instances(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.parent / "mine.json"
    file.write_text(json.dumps(RANKED))
    assert main([*command, "score", "icir", "--split", "all", str(file), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {row["metric"]: row["value"] for row in rows}
    assert found["mAP"] == pytest.approx(100 * (FIRST + SECOND + THIRD) / 3, abs=1e-9)
    assert found["mmAP"] == pytest.approx(100 * ((FIRST + SECOND) / 2 + THIRD) / 2, abs=1e-9)
    assert found["R@1"] == pytest.approx(100 * ((1 + 0) / 2 + 1) / 2)
    assert found["R@50"] == 100, "whole databases were ranked"
    assert not any("/" in metric for metric in found), "no breakdown by instance: there are hundreds"
    assert {row["comparable"] for row in rows} == {False}
    assert "3 queries (official: 1,883)" in rows[0]["label"]


def test_paths_of_a_ranking_may_be_as_the_files_have_them(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.parent / "mine.json"
    file.write_text(
        json.dumps({query: [f"icir/{image}" for image in each] for query, each in RANKED.items()})
    )
    assert main([*command, "score", "icir", "--split", "all", str(file), "--json"]) == 0
    found = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert found["mAP"] == pytest.approx(100 * (FIRST + SECOND + THIRD) / 3, abs=1e-9)
    file.write_text(json.dumps(RANKED | {"1": ["/elsewhere/database/mug/m1.jpg", *MUG[1:]]}))
    assert main([*command, "score", "icir", "--split", "all", str(file)]) == 1
    assert "'/elsewhere/database/mug/m1.jpg'" in capsys.readouterr().err


def test_it_differs_from_plain_average_precision() -> None:
    ranks = TargetRanks(np.array([[4.0, 1.0], [2.0, np.inf], [2.0, 3.0]]), np.array([2, 1, 2]))
    found = TrapezoidalAveragePrecision("mAP").values(ranks)
    # 17/24, where plain AP is 3/4; 1/4, where it is 1/2; (1/4 + (1/2 + 2/3) / 2) / 2, where it is 7/12.
    assert found == pytest.approx([17 / 24, 1 / 4, 5 / 12], rel=1e-5)
    assert found[0] == pytest.approx(FIRST, abs=1e-15)
    plain = ranks.precisions.sum(axis=1) / ranks.truths
    assert plain == pytest.approx([3 / 4, 1 / 2, 7 / 12])


def test_chance_is_the_mean_over_all_orders() -> None:
    metric = TrapezoidalAveragePrecision("mAP")
    for pool, targets in ((5, 2), (4, 1), (3, 3), (1, 1)):
        orders = [list(order) for order in permutations(range(1, pool + 1))]
        ranks = np.array([order[:targets] for order in orders], dtype=float)
        mean = metric.values(TargetRanks(ranks, np.full(len(orders), targets))).mean()
        pools = RandomPools(np.array([pool]), [[True] * targets], np.array([0]))
        assert metric.chance(pools)[0] == pytest.approx(mean, abs=1e-12)
    lost = RandomPools(np.array([5]), [[True, False]], np.array([0]))
    one = RandomPools(np.array([5]), [[True]], np.array([0]))
    assert metric.chance(lost)[0] == pytest.approx(metric.chance(one)[0] * 1.00001 / 2.00001)
    assert metric.chance(RandomPools(np.array([5]), [[False]], np.array([0])))[0] == 0


def test_lists_that_stop_early_give_no_average_precision(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.parent / "mine.json"
    file.write_text(json.dumps({query: images[:3] for query, images in RANKED.items()}))
    assert main([*command, "score", "icir", "--split", "all", str(file), "--json"]) == 0
    found = capsys.readouterr()
    assert [row["metric"] for row in json.loads(found.out)] == ["R@1"]
    assert "mAP, mmAP: it needs the whole gallery ranked, and a ranking is only 3 long" in found.err


def test_an_image_of_another_database_is_refused(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = root.parent / "mine.json"
    for stranger in (CAT[0], "query/mug/q1.jpg"):
        file.write_text(json.dumps(RANKED | {"0": [stranger]}))
        assert main([*command, "score", "icir", "--split", "all", str(file)]) == 1
        assert stranger in capsys.readouterr().err


def test_random_rankings_and_the_floor_stay_within_databases(root: Path, settings_for: Build) -> None:
    settings = settings_for("icir", root)
    queries, gallery = load_queries(settings, "icir"), load_gallery(settings, "icir")
    found = evaluate("icir", queries, random_rankings(queries, gallery), gallery)
    assert set(found.summary) == {"mAP", "mmAP", "R@1", "R@5", "R@10", "R@50"}
    strata = found.per_query.group_by("metric").agg(pl.col("stratum").n_unique())
    assert dict(strata.iter_rows()) == {"mAP": 1, "mmAP": 2, "R@1": 2, "R@5": 2, "R@10": 2, "R@50": 2}
    floor, spread = random_floor("icir", queries, gallery), random_intervals("icir", queries, gallery)
    assert floor["R@1"] == pytest.approx(((2 / 5 + 1 / 5) / 2 + 1 / 4) / 2)
    for metric in ("mAP", "mmAP"):
        assert spread[metric].low < floor[metric] < spread[metric].high
    assert floor["mAP"] != pytest.approx(floor["mmAP"])


def test_the_doctor_counts_lines_and_images(
    root: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*MUG, *CAT, "query/mug/q1.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "teal").save(root / name)
    main([*command, "doctor", "icir", "--json"])
    (found,) = json.loads(capsys.readouterr().out)["evaluation_sets"]
    assert (found["queries"], found["queries_with_targets"]) == (3, 3)
    assert (found["images"]["ok"], found["images"]["missing"]) == (9, 1)
    assert found["images"]["galleries"] == {"cat": 4, "mug": 5}
    assert any("3 entries, officially 1,883" in problem for problem in found["problems"])
    assert any("vrg.fel.cvut.cz/icir" in problem for problem in found["problems"]), "where images come from"
    (root / "query_files.csv").unlink()
    main([*command, "doctor", "icir"])
    assert "query_files.csv is missing" in " ".join(capsys.readouterr().out.split())


def test_rows_that_repeat_an_image_are_a_caveat(root: Path, settings_for: Build) -> None:
    settings = settings_for("icir", root)
    each = evaluation_set(settings, "icir")
    assert each.benchmark.caveats(each) == []
    with (root / "database_files.csv").open("a", encoding="utf-8") as file:
        file.write("icir/database/mug/m1.jpg,in the snow,mug\n")
    assert each.benchmark.caveats(each) == [
        "1 database lines repeat an image of their instance, which is ranked once here"
    ]
    assert load_queries(settings, "icir")["target_ids"][1].to_list() == [MUG[1], MUG[0]]
    assert load_gallery(settings, "icir")["image_id"].is_unique().all()


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("query_files.csv", "icir/query/q.jpg,on a table", "has 2 fields between commas"),
        ("query_files.csv", "icir/query/q.jpg,red, on a table,mug", "has 4 fields between commas"),
        ("query_files.csv", '"icir/query/q.jpg","red, on a table",mug', "fields in double quotes"),
        ("database_files.csv", 'icir/database/m.jpg,"on a table",mug', "fields in double quotes"),
        ("query_files.csv", "icir/query/q.jpg, ,mug", "the text is empty"),
        ("query_files.csv", "icir/query/q.jpg,on a table,", "the instance is empty"),
        ("query_files.csv", "icir/query/q.jpg,on a table,dog", "the query has no right answer"),
        ("query_files.csv", "icir/query/q.jpg,in a box,mug", "the query has no right answer"),
        ("query_files.csv", "icir/database/mug/m1.jpg,on a table,mug", "among its own targets"),
        ("query_files.csv", "/etc/q.jpg,on a table,mug", "leaves the data folder"),
        ("database_files.csv", "icir/../m.jpg,on a table,mug", "leaves the data folder"),
        ("database_files.csv", "icir/database/m.jpg", "has 1 fields between commas"),
    ],
)
def test_a_wrong_line_is_named(root: Path, settings_for: Build, name: str, line: str, reason: str) -> None:
    file = root / name
    number = len(file.read_text().splitlines()) + 1
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DatasetError) as caught:
        load_queries(settings_for("icir", root), "icir")
    assert (caught.value.file, caught.value.row) == (file, f"line {number}")
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["query_files.csv", "database_files.csv"])
def test_a_header_is_named(root: Path, settings_for: Build, name: str) -> None:
    file = root / name
    file.write_text("image_path,text_query,instance_id\n" + file.read_text())
    with pytest.raises(
        DatasetError, match="line 1: names no image file, but 'image_path': a header"
    ) as caught:
        load_queries(settings_for("icir", root), "icir")
    assert caught.value.file == file


@pytest.mark.parametrize("name", ["query_files.csv", "database_files.csv"])
def test_a_missing_file_is_named(root: Path, settings_for: Build, name: str) -> None:
    (root / name).unlink()
    settings: Any = settings_for("icir", root)
    for load in (load_queries, load_gallery):
        with pytest.raises(DatasetError, match=f"{name}: there is no such file"):
            load(settings, "icir")
    each = evaluation_set(settings, "icir")
    assert each.benchmark.caveats(each) == []


def test_images_are_looked_for_under_image_root(root: Path, settings_for: Build, tmp_path: Path) -> None:
    elsewhere = tmp_path / "pictures"
    (elsewhere / MUG[0]).parent.mkdir(parents=True)
    Image.new("RGB", (4, 4), "teal").save(elsewhere / MUG[0])
    gallery = load_gallery(settings_for("icir", root, image_root=elsewhere), "icir")
    looked = find_images(gallery)
    assert looked.filter(status="ok")["image_id"].to_list() == [MUG[0]]


def test_references_have_vectors_and_are_in_no_ranking(root: Path, settings_for: Build) -> None:
    settings = settings_for("icir", root)
    queries, gallery = load_queries(settings, "icir"), load_gallery(settings, "icir")
    ids = gallery["image_id"].to_list()
    vectors = np.random.default_rng(3).normal(size=(len(ids), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = GalleryIndex(ids, vectors)
    encoded = encode_queries(queries, NoText(), ids, vectors)
    ranked = rank(get_method("image"), encoded, gallery, index, 20, remove_reference=False)
    lists = ranked.group_by("query_id").agg(pl.col("image_id").sort())
    assert dict(lists.iter_rows()) == {"0": MUG, "1": MUG, "2": [*CAT, MUG[2]]}
    first = ranked.filter(query_id="2", rank=1)["image_id"].item()
    cosines = {name: float(vectors[ids.index(name)] @ vectors[ids.index("query/cat/q2.jpg")]) for name in ids}
    assert first == max([*CAT, MUG[2]], key=cosines.__getitem__)


def test_a_query_of_whose_database_no_image_is_there_is_a_miss_and_told(
    root: Path, settings_for: Build
) -> None:
    settings = settings_for("icir", root)
    queries, gallery = load_queries(settings, "icir"), load_gallery(settings, "icir")
    ids = [MUG[0], MUG[1], MUG[3], "query/mug/q1.jpg", "query/cat/q2.jpg"]  # of cat's database nothing
    vectors = np.eye(8, dtype=np.float32)[: len(ids)]
    here = gallery.with_columns(
        status=pl.when(pl.col("image_id").is_in(ids)).then(pl.lit("ok")).otherwise(pl.lit("missing"))
    )
    context: Any = None  # neither settings nor models are asked for
    encoded = encode_queries(queries, NoText(), ids, vectors)
    asked = QuerySet(context, encoded, here, GalleryIndex(ids, vectors), removes_reference=False)
    ranked = rank(get_method("image"), encoded, here, asked.index, 20, remove_reference=False)
    assert ranked["query_id"].unique(maintain_order=True).to_list() == ["0", "1"]
    found = evaluate("icir", queries, ranked, here, unranked="miss")
    assert found.unranked == 1 and found.per_query.filter(query_id="2")["value"].sum() == 0
    faults = ranking_faults(asked).filter(pl.col("kind").str.contains("whose gallery"))
    assert faults.select("item", "detail").rows() == [("2", "it counts as a miss")]


def test_a_search_of_all_databases_leaves_references_out(root: Path, settings_for: Build) -> None:
    settings = settings_for("icir", root)
    context: Any = None  # vectors are not asked for
    held = HeldGallery(context, evaluation_set(settings, "icir"), load_gallery(settings, "icir"))
    assert sorted(held.searched(None)["image_id"]) == sorted([*MUG, *CAT])
    assert held.searched("cat")["image_id"].to_list() == [MUG[2], *CAT]
    with pytest.raises(SetrError, match="no gallery 'dog': use one of cat, mug"):
        held.searched("dog")
    many = load_gallery(settings, "icir").with_columns(galleries=pl.lit([f"i{n:03}" for n in range(1_500)]))
    with pytest.raises(SetrError, match=r"use one of i000, .*, i019 and 1,480 more$"):
        HeldGallery(context, evaluation_set(settings, "icir"), many).searched("dog")
