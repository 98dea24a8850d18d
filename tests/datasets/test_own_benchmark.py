"""A benchmark in a file outside of the package reaches everything that a data set reaches, by its name in
settings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from setr_lib.benchmarks import (
    Benchmark,
    DatasetError,
    ImageRecord,
    Metric,
    QueryRecord,
    RecallAt,
    benchmark_of,
    headlines,
    recalls,
)
from setr_lib.benchmarks.audit import examine
from setr_lib.benchmarks.image_ids import check_image_ids, read_and_check_image_ids
from setr_lib.benchmarks.metrics import RandomPools, TargetRanks
from setr_lib.cli import main
from setr_lib.commands.plan_work import count_work
from setr_lib.datasets import (
    evaluation_set,
    evaluation_sets,
    inspect_gallery,
    load_gallery,
    load_queries,
    set_of_split,
)
from setr_lib.datasets.images import find_images
from setr_lib.evaluation.floor import random_floor, random_intervals, random_rankings
from setr_lib.evaluation.leaderboard import leaderboard_table
from setr_lib.evaluation.metrics import evaluate
from setr_lib.evaluation.row import Row
from setr_lib.evaluation.submissions import SubmissionError, write_submission
from setr_lib.evaluation.summary import floor_rows, metric_rows
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import QUERIES

Make = Callable[..., pl.DataFrame]

SMALLEST = """
from setr_lib.benchmarks import Benchmark, QueryRecord
from setr_lib.benchmarks.annotations import read_rows


class Plants(Benchmark):
    kind = "plants"

    def queries(self, evaluation_set):
        rows = read_rows(evaluation_set.root / "plants.json", "the queries")
        return [
            QueryRecord(row.text("id"), row.name("reference"), row.text("wish"), \
target_ids=row.names("targets"))
            for row in rows
        ]
"""

NAMES = [f"{name}.png" for name in "abcdefghijkl"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The smallest benchmark in a module that only ``sys.path`` leads to, and its data."""
    folder, root = tmp_path / "code", tmp_path / "plants"
    folder.mkdir()
    root.mkdir()
    (folder / "plants_of_mine.py").write_text(SMALLEST, encoding="utf-8")
    for shade, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (20 * shade, 90, 90)).save(root / name)
    rows = [
        {"id": "x", "reference": "a.png", "wish": "with flowers", "targets": ["b.png"]},
        {"id": "y", "reference": "c.png", "wish": "in a pot", "targets": ["d.png", "e.png"]},
    ]
    (root / "plants.json").write_text(json.dumps(rows), encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    yield "plants_of_mine:Plants"
    sys.modules.pop("plants_of_mine", None)


@pytest.fixture
def config(module: str, tmp_path: Path) -> Path:
    path = tmp_path / "setr.toml"
    path.write_text(
        f'[storage]\nroot = "var"\n[datasets.garden]\nkind = "{module}"\nroot = "plants"\n'
        "[training]\ncaptions = 'none.jsonl'\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def garden(config: Path) -> Settings:
    return load_settings(config)


def test_its_data_are_read_into_the_usual_tables(garden: Settings, tmp_path: Path) -> None:
    (each,) = evaluation_sets(garden)
    assert (each.key, each.kind, each.split, each.gallery) == ("garden", "plants", "all", "all")
    queries = load_queries(garden, "garden")
    assert queries.schema == QUERIES
    assert queries["captions"].to_list() == [["with flowers"], ["in a pot"]]
    gallery = load_gallery(garden, "garden")
    assert gallery["image_id"].to_list() == NAMES
    assert inspect_gallery(gallery)["status"].to_list() == ["ok"] * len(NAMES)


def test_it_is_measured_and_stands_on_the_leaderboard(garden: Settings) -> None:
    each, queries = evaluation_set(garden, "garden"), load_queries(garden, "garden")
    gallery = inspect_gallery(load_gallery(garden, "garden"))
    rankings = random_rankings(queries, gallery, k=12)
    rows = pl.concat(
        [
            metric_rows(each, queries, rankings, gallery, row=Row("mine")),
            floor_rows(each, queries, gallery),
        ]
    )
    assert rows["metric"].unique(maintain_order=True).to_list() == ["R@1", "R@5", "R@10"]
    floor = dict(rows.filter(method="random").select("metric", "value").iter_rows())
    one, two = 1 / 12, 1 - (11 / 12) * (10 / 11)
    assert floor["R@1"] == pytest.approx(100 * (one + two) / 2)
    assert not rows["comparable"].any()
    assert rows["label"].str.ends_with("no official counts to compare with").all()
    assert headlines(garden) == {"garden": ("R@1", "R@5", "R@10")}
    assert leaderboard_table(rows, headlines(garden)) is not None


def test_setr_score_reads_the_usual_ranking_file(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(config), "score", "garden", "--split", "all"]
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"x": ["b.png", *NAMES[2:]], "y": ["a.png", "e.png", *NAMES[5:]]}))
    assert main([*command, str(file), "--json"]) == 0
    found = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert found["R@1"] == 50.0 and found["R@5"] == 100.0
    file.write_text(json.dumps({"x": ["z.png"], "y": ["a.png"]}))
    assert main([*command, str(file)]) == 1
    assert "the gallery of garden has no image 'z.png'" in capsys.readouterr().err


def test_setr_doctor_says_what_is_here(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--config", str(config), "doctor", "garden", "--json"])
    (found,) = json.loads(capsys.readouterr().out)["evaluation_sets"]
    assert (found["kind"], found["counts_of"], found["status"]) == ("plants", "own", "ok")
    assert (found["queries"], found["queries_with_targets"], found["images"]["ok"]) == (2, 2, len(NAMES))


def test_setr_submit_says_that_there_is_no_server(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "submit", "garden"]) == 1
    assert "only CIRCO and CIRR have test servers" in capsys.readouterr().err


class Clothes(Benchmark):
    """What a benchmark can say: splits, protocols, categories, aspects, options, records of its own."""

    kind = "clothes"
    title = "Clothes"
    splits = ("val", "test")
    hidden_splits = ("test",)
    galleries = ("whole", "half")
    categories = ("hats", "shoes")
    settings_keys = ("language",)
    removes_reference = True
    metrics = recalls(1, 2, of="first")
    aspect_metrics = ("R@1",)
    headline = ("R@2",)

    def queries(self, evaluation_set: Any) -> list[QueryRecord]:
        language = evaluation_set.options.get("language", "en")
        return [
            QueryRecord(
                f"{name}-{n}", f"{name}{n}", language, [], [f"{name}{n + 1}"], gallery=name, aspects=["dark"]
            )
            for name in self.categories
            for n in range(2)
        ]

    def gallery(self, evaluation_set: Any) -> list[ImageRecord]:
        count = 6 if evaluation_set.gallery == "whole" else 3
        return [
            ImageRecord(f"{name}{n}", f"/{name}{n}", [name]) for name in self.categories for n in range(count)
        ]

    def official_queries(self, split: str) -> int:
        return 4


CLOTHES = f"{__name__}:Clothes"


def clothes(**options: Any) -> Settings:
    return Settings.model_validate({"datasets": {"wardrobe": {"kind": CLOTHES, "root": "/w", **options}}})


def test_splits_protocols_and_options_reach_its_methods() -> None:
    settings = clothes(splits=["test", "val"], gallery="half", options={"language": "de"})
    assert [each.key for each in evaluation_sets(settings)] == ["wardrobe-val", "wardrobe-test"]
    hidden = evaluation_set(settings, "wardrobe-test")
    assert hidden.hidden and hidden.gallery_key == "wardrobe-test-half"
    assert [each.key for each in evaluation_sets(clothes())] == ["wardrobe-val"], (
        "what is not hidden by default"
    )
    assert set(load_queries(settings, "wardrobe-val")["modification"]) == {"de"}
    assert load_gallery(settings, "wardrobe-val").height == 6
    assert load_gallery(clothes(), "wardrobe-val").height == 12


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gallery": "all"}, "'all' is not one of Clothes's: use whole or half"),
        ({"splits": ["train"]}, "'train' is not a split of clothes: use val or test"),
        ({"queries": "q.csv"}, "Clothes does not read that key"),
        ({"options": {"lang": "de"}}, "Clothes has no 'lang'; there is language"),
    ],
)
def test_settings_that_it_does_not_know_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        evaluation_sets(clothes(**options))


def test_categories_and_aspects_are_broken_down(rankings_of_queries: Make) -> None:
    settings = clothes()
    queries, gallery = load_queries(settings, "wardrobe-val"), load_gallery(settings, "wardrobe-val")
    rankings = rankings_of_queries({"hats-0": 1, "hats-1": 1, "shoes-0": 2, "shoes-1": 3}, queries, gallery)
    found = evaluate(Clothes(), queries, rankings, gallery).summary
    assert found == {
        "R@1": 0.5,
        "R@2": 0.75,
        "R@1/hats": 1.0,
        "R@2/hats": 1.0,
        "R@1/shoes": 0.0,
        "R@2/shoes": 0.5,
        "R@1/dark": 0.5,
    }
    assert random_floor(CLOTHES, queries, gallery)["R@1"] == pytest.approx(1 / 5), "the reference is out"


@pytest.fixture
def rankings_of_queries() -> Make:
    """Rankings of each query's gallery without its reference, its target at the given rank."""

    def build(ranks: dict[str, int], queries: pl.DataFrame, gallery: pl.DataFrame) -> pl.DataFrame:
        rows = []
        for query in queries.iter_rows(named=True):
            target, reference = query["target_ids"][0], query["reference_id"]
            members = gallery.filter(pl.col("galleries").list.contains(query["gallery"]))["image_id"]
            order = [image for image in members if image not in (target, reference)]
            order.insert(ranks[query["query_id"]] - 1, target)
            rows += [(query["query_id"], "gallery", rank, image) for rank, image in enumerate(order, start=1)]
        columns = {"query_id": pl.String, "pool": pl.String, "rank": pl.Int32, "image_id": pl.String}
        return pl.DataFrame(rows, schema=columns, orient="row")

    return build


@dataclass(frozen=True)
class ReciprocalRank(Metric):
    """A metric of one's own: 1 / rank of the first target, as deep as the list goes."""

    @property
    def name(self) -> str:
        return "MRR"

    def values(self, ranks: TargetRanks) -> NDArray[np.float64]:
        return 1 / ranks.targets[:, 0]

    def chance(self, pools: RandomPools) -> NDArray[np.float64]:
        return np.array(
            [sum(1 / np.arange(1, size + 1)) / size if flags[0] else 0.0 for size, flags in pools.cases()]
        )


class Ranked(Clothes):
    kind = "ranked"
    categories = ()
    aspect_metrics = ()
    metrics = (ReciprocalRank(), RecallAt(3))
    headline = ("MRR",)
    stage_2_metric = "R@3"


def test_a_metric_of_ones_own_has_values_chance_and_spread(rankings_of_queries: Make) -> None:
    queries, gallery = load_queries(clothes(), "wardrobe-val"), load_gallery(clothes(), "wardrobe-val")
    rankings = rankings_of_queries({"hats-0": 1, "hats-1": 2, "shoes-0": 2, "shoes-1": 4}, queries, gallery)
    found = evaluate(Ranked(), queries, rankings)
    assert found.summary["MRR"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 4) / 4)
    assert found.left_out == {}, "it asks for no depth, and lists of five hold R@3"
    floor = random_floor(Ranked(), queries, gallery)["MRR"]
    exact = np.mean([1 / (order.index(0) + 1) for order in permutations(range(5))])
    assert floor == pytest.approx(exact)
    spread = random_intervals(Ranked(), queries, gallery, samples=500)["MRR"]
    assert spread.low < floor < spread.high
    assert Ranked().compared_metrics == ("MRR", "R@3")


class Served(Clothes):
    kind = "served"
    server = "https://example.org"
    submitted_lengths: ClassVar[Mapping[str, int]] = {"gallery": 3}


def test_a_benchmark_with_a_server_is_submitted_and_read_back(
    rankings_of_queries: Make, tmp_path: Path
) -> None:
    settings = Settings.model_validate({"datasets": {"s": {"kind": f"{__name__}:Served", "root": "/s"}}})
    each, queries = set_of_split(settings, "s", "test"), load_queries(settings, "s-val")
    gallery = load_gallery(settings, "s-val")
    rankings = rankings_of_queries(dict.fromkeys(queries["query_id"], 1), queries, gallery)
    written = write_submission(each, queries, rankings, gallery, tmp_path, "mine")
    assert [file.name for file in written.files] == ["mine.json"]
    assert json.loads(written.files[0].read_text())["hats-0"] == ["hats1", "hats2", "hats3"]
    with pytest.raises(SubmissionError, match="has 2 images, and the format takes 3"):
        write_submission(each, queries, rankings.filter(pl.col("rank") < 3), gallery, tmp_path, "mine")


class NoServer(Clothes):
    server = "https://example.org"


class Wrong(Clothes):
    headline = ("R@9",)


class Hidden(Clothes):
    hidden_splits = ("secret",)


class Nameless(Clothes):
    kind = "a name with blanks"


class Unread(Benchmark):
    kind = "unread"


NO_CLASS = {"kind": "clothes"}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("clothes", "there is no benchmark 'clothes'; known: "),
        ("nowhere_at_all:Clothes", "cannot be loaded: ModuleNotFoundError"),
        (f"{__name__}:Missing", "cannot be loaded: AttributeError"),
        (f"{__name__}:NO_CLASS", "is not a subclass of setr_lib.benchmarks.Benchmark"),
        (f"{__name__}:Wrong", "'headline' names 'R@9', which is not one of"),
        (f"{__name__}:NoServer", "'server' needs 'hidden_splits' and 'submitted_lengths'"),
        (f"{__name__}:Hidden", "'hidden_splits' names 'secret'"),
        (f"{__name__}:Nameless", "'kind' must be a name of lower-case letters"),
        (f"{__name__}:Unread", "queries"),
    ],
)
def test_what_is_no_benchmark_is_refused_with_the_settings_key(kind: str, reason: str) -> None:
    settings = Settings.model_validate({"datasets": {"mine": {"kind": kind, "root": "/m"}}})
    with pytest.raises(DatasetError, match=r"\[datasets\.mine\] kind: ") as refused:
        evaluation_sets(settings)
    assert reason in str(refused.value)


def test_a_module_that_fails_on_import_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_benchmark.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DatasetError, match=r"broken_benchmark:X' cannot be loaded: ZeroDivisionError"):
        benchmark_of("broken_benchmark:X")


def test_an_installed_entry_point_is_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "wardrobe-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wardrobe\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[setr.benchmarks]\nclothes = {CLOTHES}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert benchmark_of("clothes") is benchmark_of(CLOTHES)
    with pytest.raises(DatasetError, match=r"known: .*circo, .*clothes, .*fashioniq, "):
        benchmark_of("cloths")


class Doubled(Benchmark):
    kind = "doubled"

    def queries(self, evaluation_set: Any) -> list[QueryRecord]:
        return [QueryRecord("1", "a", "red"), QueryRecord("1", "b", "blue")]

    def gallery(self, evaluation_set: Any) -> pl.DataFrame:
        rows = [("a", "/a", ["all"]), ("b", "/b", ["all"])]
        return pl.DataFrame(rows, schema=["image_id", "path", "galleries"], orient="row")


def test_ids_are_checked_and_frames_are_taken() -> None:
    kind = f"{__name__}:Doubled"
    settings = Settings.model_validate({"datasets": {"mine": {"kind": kind, "root": "/m"}}})
    with pytest.raises(DatasetError, match="mine: doubled gives the query_id '1' more than once"):
        load_queries(settings, "mine")
    assert load_gallery(settings, "mine")["image_id"].to_list() == ["a", "b"]


class Given(Benchmark):
    """Gives the queries and images that a test asks for, or raises it."""

    kind = "given"
    records: ClassVar[list[QueryRecord]] = []
    images: ClassVar[list[ImageRecord]] = []
    error: ClassVar[Exception | None] = None

    def queries(self, evaluation_set: Any) -> list[QueryRecord]:
        if self.error is not None:
            raise self.error
        return self.records

    def gallery(self, evaluation_set: Any) -> list[ImageRecord]:
        return self.images


def given(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> Settings:
    for name, value in attributes.items():
        monkeypatch.setattr(Given, name, value)
    kind = f"{__name__}:Given"
    return Settings.model_validate({"datasets": {"mine": {"kind": kind, "root": "/m"}}})


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"target_ids": "red.png"}, r", 'q7': target_ids = 'red.png': must be a list of texts, not one text"),
        ({"subset_ids": "red.png"}, ", 'q7': subset_ids = 'red.png': must be a list of texts"),
        ({"captions": "in red"}, ", 'q7': captions = 'in red': must be a list of texts"),
        ({"target_ids": [7]}, r", 'q7': target_ids = \[7\]: .* 7 in it is of type int"),
        ({"target_ids": None}, ", 'q7': target_ids = None: must be a list of texts, not None"),
        ({"query_id": 7}, r": query_id = 7: must be a text \(str\), not of type int"),
        ({"modification": None}, ", 'q7': modification = None: must be a text"),
    ],
)
def test_a_field_of_a_query_that_holds_something_else_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], fault: str
) -> None:
    fine = QueryRecord("q1", "a.png", "red", [], ["b.png"])
    fields: dict[str, Any] = {"query_id": "q7", "reference_id": "a.png", "modification": "red", **values}
    wrong = QueryRecord(**fields)
    settings = given(monkeypatch, records=[fine, wrong])
    with pytest.raises(DatasetError, match=r"queries of mine \(given\): row 1 \(counting from 0\)" + fault):
        load_queries(settings, "mine")


def test_a_field_of_an_image_that_holds_something_else_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = given(monkeypatch, images=[ImageRecord(3, "/3.png")])  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        DatasetError, match=r"gallery of mine \(given\): row 0 .*: image_id = 3: must be a text"
    ):
        load_gallery(settings, "mine")


@pytest.mark.parametrize("error", [KeyError("text"), FileNotFoundError(2, "No such file", "/m/wishes.jsonl")])
def test_whatever_a_benchmark_raises_is_its_data_sets_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settings = given(monkeypatch, error=error)
    with pytest.raises(DatasetError) as refused:
        load_queries(settings, "mine")
    words = str(refused.value)
    assert words.startswith(f"queries of mine (given) cannot be read: {type(error).__name__}: {error} (")
    assert __file__ in words, "the line of the benchmark's file"
    assert examine(evaluation_set(settings, "mine"), inspect_gallery).problems[0] == words
    (plan,) = count_work(settings)
    assert plan.problem == words


def gallery_of(*names: str) -> list[ImageRecord]:
    return [ImageRecord(name, f"/m/{name}") for name in names]


@pytest.mark.parametrize(
    ("reference", "target", "words"),
    [
        ("a.png", "gallery/b.png", "has its reference in the gallery: query '1' names 'a.png'"),
        ("gallery/a.png", "a", "has any of its targets in the gallery: query '1' names 'a'"),
    ],
)
def test_queries_that_share_no_image_with_the_gallery_are_refused(
    monkeypatch: pytest.MonkeyPatch, reference: str, target: str, words: str
) -> None:
    images = gallery_of("gallery/b.png", "gallery/a.png")
    settings = given(monkeypatch, images=images, records=[QueryRecord("1", reference, "red", [], [target])])
    queries, gallery = load_queries(settings, "mine"), load_gallery(settings, "mine")
    with pytest.raises(DatasetError, match="mine: none of its 1 queries " + words) as refused:
        check_image_ids(evaluation_set(settings, "mine"), queries, gallery)
    assert "the gallery has e.g. 'gallery/a.png'" in str(refused.value)
    assert "[datasets.mine]" in str(refused.value)
    assert examine(evaluation_set(settings, "mine"), inspect_gallery).problems[0] == str(refused.value)
    assert count_work(settings)[0].problem == str(refused.value)


def test_ids_are_said_to_be_paths_where_the_gallery_is_a_folder(garden: Settings, tmp_path: Path) -> None:
    rows = [{"id": "x", "reference": "plants/a.png", "wish": "with flowers", "targets": ["b.png"]}]
    (tmp_path / "plants" / "plants.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DatasetError, match=rf"its path below image_root \({tmp_path / 'plants'}\)"):
        read_and_check_image_ids(evaluation_set(garden, "garden"))


def test_some_unknown_images_are_counted_in_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        QueryRecord("1", "a", "red", [], ["b", "x"], ["y"]),
        QueryRecord("2", "z", "blue", [], ["w"]),
        QueryRecord("3", "", "no reference", [], []),
    ]
    settings = given(monkeypatch, images=gallery_of("a", "b"), records=records)
    found = examine(evaluation_set(settings, "mine"), find_images)
    assert found.warnings == (
        "1 of the 2 references of queries are not in the gallery, first 'z' of query '2'",
        "2 of the 3 targets of queries are not in the gallery, first 'x' of query '1'",
        "1 of the 1 subset members of queries are not in the gallery, first 'y' of query '1'",
    )
    assert not any("reference" in problem for problem in found.problems)
    assert count_work(settings)[0].queries == 3


@pytest.mark.parametrize("kind", ["cirr", "fashioniq", "circo", "genecis", "folder"])
def test_the_benchmarks_that_come_with_setr_say_what_a_report_needs(kind: str) -> None:
    benchmark = benchmark_of(kind)
    assert "**R@K**" in benchmark.protocol_text
    assert benchmark.removes_reference == ("taken out of every ranking" in benchmark.protocol_text)
    assert (
        benchmark.compared_metrics
        == {
            "cirr": ("R@10", "R@1"),
            "fashioniq": ("R@10", "R@10"),
            "circo": ("mAP@10", "mAP@5"),
            "genecis": ("R@1", "R@1"),
            "folder": ("R@10", "R@1"),
        }[kind]
    )
