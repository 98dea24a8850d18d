"""GeneCIS in its official layout, small: what is read, its protocol with the trap of ties, its crops, and the
commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_lib.benchmarks.kinds.genecis import crop
from setr_lib.cli import main
from setr_lib.commands.plan_work import count_work
from setr_lib.datasets import (
    DatasetError,
    evaluation_set,
    evaluation_sets,
    inspect_gallery,
    load_gallery,
    load_queries,
)
from setr_lib.evaluation.floor import expected_per_query, random_floor, random_intervals
from setr_lib.evaluation.metrics import evaluate
from setr_lib.evaluation.row import Row
from setr_lib.evaluation.summary import metric_rows
from setr_lib.methods.inputs import GalleryIndex, MethodInputs, encode_queries
from setr_lib.methods.method import Method
from setr_lib.methods.ranking import rank
from setr_lib.settings import Settings

Build = Callable[..., Settings]
TASKS = ["focus_attribute", "change_attribute", "focus_object", "change_object"]


def coco(number: int) -> dict[str, int]:
    return {"val_image_id": number}


def instance(number: int, *box: float) -> dict[str, Any]:
    return {"image_id": number, "instance_bbox": list(box)}


OBJECTS = [
    {
        "reference": coco(100 + row),
        "target": coco(10 + row),
        "gallery": [coco(1000 * (row + 1) + other) for other in range(1, 15)],
        "condition": f" kettle {row}",
    }
    for row in range(4)
]
ATTRIBUTES = [
    {
        "reference": instance(7, 10, 20, 10, 5),
        "target": instance(7, 0, 0, 8, 4),
        "gallery": [instance(8, 1.5, 2, 3, 4), instance(9, 0, 0, 10, 10)],
        "condition": "wooden",
    },
    {
        "reference": instance(9, 0, 0, 10, 10),
        "target": instance(8, 1.5, 2, 3, 4),
        "gallery": [instance(7, 10, 20, 10, 5), instance(7, 10, 20, 10, 5)],
        "condition": "red",
    },
]


def write(root: Path, task: str, rows: object) -> Path:
    path = root / "genecis" / f"{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for task in TASKS:
        write(folder, task, OBJECTS if task.endswith("object") else ATTRIBUTES)
    return folder


@pytest.fixture
def genecis(settings_for: Build, root: Path) -> Settings:
    return settings_for("genecis", root)


@pytest.fixture
def config(genecis: Settings, tmp_path: Path) -> Path:  # after `genecis`, which clears the environment
    path = tmp_path / "setr.toml"
    path.write_text('[storage]\nroot = "var"\n[datasets.genecis]\nkind = "genecis"\nroot = "data"\n')
    return path


def candidates(row: dict[str, Any]) -> list[str]:
    return [str(image["val_image_id"]) for image in (row["target"], *row["gallery"])]


def test_each_task_is_an_evaluation_set_and_each_query_has_its_own_gallery(
    genecis: Settings, root: Path
) -> None:
    assert [each.key for each in evaluation_sets(genecis)] == [f"genecis-{task}" for task in TASKS]
    queries = load_queries(genecis, "genecis-focus_object")
    assert queries.select("query_id", "reference_id", "modification", "gallery").row(2) == (
        "2",
        "102",
        "kettle 2",
        "2",
    )
    assert queries["captions"].to_list()[2] == [" kettle 2"]
    assert queries["target_ids"].to_list() == [["10"], ["11"], ["12"], ["13"]]
    gallery = load_gallery(genecis, "genecis-focus_object")
    for number, row in enumerate(OBJECTS):
        own = gallery.filter(pl.col("galleries").list.contains(str(number)))
        assert sorted(own["image_id"]) == sorted(candidates(row))
    everything = gallery.filter(pl.col("galleries").list.contains("all"))
    assert everything.height == gallery.height == 4 * 16
    paths = dict(gallery.select("image_id", "path").iter_rows())
    assert paths["13"] == str(root / "val2017" / "000000000013.jpg")


def test_images_of_attribute_tasks_are_instances(genecis: Settings, root: Path) -> None:
    queries = load_queries(genecis, "genecis-change_attribute")
    assert queries["reference_id"].to_list() == ["7_10_20_10_5", "9_0_0_10_10"]
    assert queries["target_ids"].to_list() == [["7_0_0_8_4"], ["8_1.5_2_3_4"]]
    gallery = load_gallery(genecis, "genecis-change_attribute")
    assert dict(gallery.select("image_id", "galleries").iter_rows()) == {
        "7_10_20_10_5": ["all", "1"],
        "7_0_0_8_4": ["all", "0"],
        "8_1.5_2_3_4": ["all", "0", "1"],
        "9_0_0_10_10": ["all", "0"],
    }
    assert gallery["path"][2] == str(root / "crops" / "8_1.5_2_3_4.png")


class NoTexts:
    dimension = 1

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.zeros((len(texts), 1), np.float32)

    def count_truncated(self, texts: Sequence[str]) -> int:
        return 0


class Likes(Method):
    """Scores by a number that each image has: a vector of one dimension."""

    name, source = "likes", "this test"

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return np.repeat(np.asarray(inputs.gallery.vectors).T, len(inputs.queries.frame), axis=0)


def ranked(settings: Settings, score: Callable[[str], float], k: int = 50) -> tuple[pl.DataFrame, ...]:
    """Queries, gallery and rankings of the focus on objects, by a score of the image's id."""
    key = "genecis-focus_object"
    queries, gallery = load_queries(settings, key), load_gallery(settings, key)
    ids = gallery["image_id"].to_list()
    vectors = np.array([[score(image)] for image in ids], dtype=np.float32)
    encoded = encode_queries(queries, NoTexts(), ids, vectors)
    rankings = rank(Likes(), encoded, gallery, GalleryIndex(ids, vectors), k, remove_reference=False)
    return queries, gallery, rankings


def test_equal_scores_find_no_target_though_it_stands_first(genecis: Settings) -> None:
    queries, gallery, rankings = ranked(genecis, lambda image: 0.5)
    assert rankings.group_by("query_id").len()["len"].to_list() == [15] * 4
    assert rankings.filter(rank=1)["image_id"].to_list() == ["10", "11", "12", "13"], (
        "the targets' ids come first"
    )
    assert evaluate("genecis", queries, rankings, gallery).summary == {"R@1": 0, "R@2": 0, "R@3": 0}


def test_recalls_by_hand_with_a_tie_in_the_middle(genecis: Settings) -> None:
    scores = {
        **{"10": 9.0},  # first of its 15
        **{"11": 5.0, "2001": 7.0, "2002": 6.0},  # third
        **{"12": 5.0, "3001": 5.0, "3002": 5.0, "3003": 5.0},  # one of the four best: fourth
        **{"13": 5.0, "4001": 5.0},  # one of the two best: second
    }
    queries, gallery, rankings = ranked(genecis, lambda image: scores.get(image, 0.0))
    found = evaluate("genecis", queries, rankings, gallery)
    assert found.summary == {"R@1": 1 / 4, "R@2": 2 / 4, "R@3": 3 / 4}
    assert found.left_out == {}
    # The same order as a list without scores: what stands where is what counts.
    files = evaluate("genecis", queries, rankings.drop("score", "coarse_score", "judge_score"), gallery)
    order = rankings.filter(query_id="3").sort("rank")["image_id"].to_list()
    assert order[:2] == ["13", "4001"]
    assert files.summary["R@1"] > found.summary["R@1"]


def test_intervals_and_the_floor_are_of_queries_not_of_galleries(genecis: Settings) -> None:
    queries, gallery, rankings = ranked(genecis, lambda image: float(image in ("10", "11")))
    each = evaluation_set(genecis, "genecis-focus_object")
    rows = metric_rows(each, queries, rankings, gallery, row=Row("likes"))
    value, low, high = rows.filter(metric="R@1").select("value", "ci_low", "ci_high").row(0)
    assert (value, low, high) == pytest.approx((50.0, 15.0039, 84.9961)), "Wilson's of 2 in 4"
    assert "4 queries (official: 1,960)" in rows["label"][0]
    floor = random_floor("genecis", queries, gallery)
    assert floor == pytest.approx({"R@1": 1 / 15, "R@2": 2 / 15, "R@3": 3 / 15})
    assert expected_per_query("genecis", queries, gallery)["stratum"].unique().to_list() == ["all"]
    assert random_intervals("genecis", queries, gallery)["R@1"].low == 0.0


def test_a_target_that_is_the_reference_itself_is_noted(
    genecis: Settings, config: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [OBJECTS[0], {**OBJECTS[1], "target": coco(101)}, *OBJECTS[2:]]
    write(root, "focus_object", rows)
    assert load_queries(genecis, "genecis-focus_object")["target_ids"][1].to_list() == ["101"]
    note = "1 queries of genecis-focus_object have their own reference as target, first 1"
    for task, expected in (("focus_object", [note]), ("change_object", [])):
        each = evaluation_set(genecis, f"genecis-{task}")
        assert each.benchmark.query_notes(each) == expected
    assert note in " ".join(map(str, doctor(config, capsys)["focus_object"].values()))


def test_numbers_of_visual_genome_may_be_text(genecis: Settings, root: Path) -> None:
    def as_text(image: dict[str, Any]) -> dict[str, Any]:
        return {**image, "image_id": str(image["image_id"])}

    before = (
        load_queries(genecis, "genecis-focus_attribute"),
        load_gallery(genecis, "genecis-focus_attribute"),
    )
    rows = [
        {
            **row,
            **{key: as_text(row[key]) for key in ("reference", "target")},
            "gallery": [*map(as_text, row["gallery"])],
        }
        for row in ATTRIBUTES
    ]
    file = write(root, "focus_attribute", rows)
    after = load_queries(genecis, "genecis-focus_attribute"), load_gallery(genecis, "genecis-focus_attribute")
    assert all(first.equals(second) for first, second in zip(before, after, strict=True))
    for text in ("07", "7.0", "", " 7", "seven", "-7", "\u0667"):
        write(root, "focus_attribute", [{**rows[0], "target": {**rows[0]["target"], "image_id": text}}])
        with pytest.raises(DatasetError, match="'image_id' must be a number of Visual Genome's") as refused:
            load_queries(genecis, "genecis-focus_attribute")
        assert (refused.value.file, refused.value.row) == (file, "row 0 (counting from 0), target")


def test_a_few_candidates_that_are_named_twice_are_noted(genecis: Settings, root: Path) -> None:
    each = evaluation_set(genecis, "genecis-focus_object")
    twice = {**OBJECTS[0], "gallery": [*OBJECTS[0]["gallery"][:13], OBJECTS[0]["target"]]}
    note = "1 queries of genecis-focus_object name a candidate more than once, which is ranked once, first 2"
    for rows, caveats in (
        ([*OBJECTS[:2], twice], ["1 queries with other than 15 different candidates"]),  # a third of them
        ([*OBJECTS[:2], twice, *(OBJECTS[3] for _ in range(497))], []),  # 0.2 %
        (
            [*OBJECTS[:2], twice, *(OBJECTS[3] for _ in range(496))],
            ["1 queries with other than 15 different candidates"],
        ),
    ):
        write(root, "focus_object", rows)
        assert each.benchmark.caveats(each) == caveats
        assert each.benchmark.query_notes(each) == [note]
    short = {**OBJECTS[0], "gallery": OBJECTS[0]["gallery"][:13]}
    write(root, "focus_object", [*(OBJECTS[3] for _ in range(999)), short])
    assert each.benchmark.caveats(each) == ["1 queries with other than 15 different candidates"]
    assert each.benchmark.query_notes(each) == []


def test_other_numbers_of_candidates_do_not_compare(genecis: Settings) -> None:
    found = (
        evaluation_set(genecis, "genecis-focus_object"),
        evaluation_set(genecis, "genecis-change_attribute"),
    )
    caveats = [each.benchmark.caveats(each) for each in found]
    assert caveats == [[], ["2 queries with other than 15 different candidates"]]


def test_setr_score(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--config", str(config), "score", "genecis", "--split", "focus_object"]
    others = [candidates(row)[1:] for row in OBJECTS]
    lists = {
        "0": ["10", *reversed(others[0])],
        "1": [others[1][5], "11", *others[1][6:]],
        "2": [*others[2][:2], "12", *others[2][2:]],
        "3": [*others[3], "13"],
    }
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(lists))
    assert main([*command, str(file), "--json"]) == 0
    said = capsys.readouterr()
    found = {row["metric"]: row["value"] for row in json.loads(said.out)}
    assert found == {"R@1": 25.0, "R@2": 50.0, "R@3": 75.0}
    assert "order of the file" not in said.err

    file.write_text(json.dumps({**lists, "1": ["3", "11"]}))
    assert main([*command, str(file)]) == 1
    assert "query '1': the gallery '1' of genecis-focus_object has no image '3'" in capsys.readouterr().err


def scored_file(path: Path, scores: dict[str, Any]) -> Path:
    """A Parquet ranking file of each task row's candidates, the target first, with these scores."""
    frames = [
        pl.DataFrame({"image_id": images[: len(scores[str(row)])], "score": scores[str(row)]})
        .with_row_index("rank", offset=1)
        .with_columns(query_id=pl.lit(str(row)))
        for row, images in enumerate(map(candidates, OBJECTS))
    ]
    pl.concat(frames).write_parquet(path)
    return path


def score_of(config: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, float], str]:
    command = ["--config", str(config), "score", "genecis", "--split", "focus_object", str(file), "--json"]
    assert main(command) == 0
    said = capsys.readouterr()
    return {row["metric"]: row["value"] for row in json.loads(said.out)}, said.err


def test_equal_scores_of_a_ranking_file_count_against_its_targets(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [0.0] * 12
    scores = {
        "0": [3.0, 2.0, 1.0, *rest],
        "1": [2.0, 2.0, 1.0, *rest],
        "2": [2.0] * 3 + rest,
        "3": [0.5] * 15,
    }
    found, _ = score_of(config, scored_file(tmp_path / "scored.parquet", scores), capsys)
    assert found == {"R@1": 25.0, "R@2": 50.0, "R@3": 75.0}
    whole = {row: [int(score) for score in each] for row, each in scores.items()}
    found, _ = score_of(config, scored_file(tmp_path / "whole.parquet", whole), capsys)
    assert found == {"R@1": 25.0, "R@2": 50.0, "R@3": 75.0}, "whole numbers are scores, too"
    none = {row: [None] * len(each) for row, each in scores.items()}
    found, _ = score_of(config, scored_file(tmp_path / "none.parquet", none), capsys)
    assert found["R@1"] == 100.0, "without scores the order is all that is known"


def test_what_ties_with_the_last_of_a_short_list_is_not_known(
    genecis: Settings, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"0": [3.0, 2.0, 1.0], "1": [1.0, 1.0, 1.0], "2": [2.0, 1.0, 1.0], "3": [2.0, 2.0, 1.0]}
    found, said = score_of(config, scored_file(tmp_path / "short.parquet", scores), capsys)
    assert found == {"R@1": 50.0, "R@2": 75.0}
    assert "R@3: a ranking is only 3 long: whether the next score is equal is not seen" in said
    # A method's own ranking that settings cut after three: constant scores find nothing, and not all.
    queries, gallery, rankings = ranked(genecis, lambda image: 0.5, k=3)
    assert evaluate("genecis", queries, rankings, gallery).summary == {"R@1": 0, "R@2": 0}


def test_ids_of_cocos_images_may_be_numbers(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lists: dict[str, list[Any]] = {
        str(row): [*map(int, reversed(candidates(each)))] for row, each in enumerate(OBJECTS)
    }
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(lists))
    assert score_of(config, file, capsys)[0] == {"R@1": 0.0, "R@2": 0.0, "R@3": 0.0}
    file.write_text(json.dumps({**lists, "2": [True, *lists["2"][1:]]}))
    assert main(["--config", str(config), "score", "genecis", "--split", "focus_object", str(file)]) == 1
    assert "query '2': an image id must be a number or text, not True" in capsys.readouterr().err


@pytest.mark.parametrize("depth", [15, 3])
def test_setr_score_says_that_lists_in_the_order_of_the_file_are_ties(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], depth: int
) -> None:
    file = tmp_path / "ties.json"
    file.write_text(json.dumps({str(row): candidates(each)[:depth] for row, each in enumerate(OBJECTS)}))
    command = ["--config", str(config), "score", "genecis", "--split", "focus_object"]
    assert main([*command, str(file), "--json"]) == 0
    said = capsys.readouterr()
    assert "4 of 4 lists name the candidates in the order of the file, target first" in said.err
    assert not any(row["comparable"] for row in json.loads(said.out))


def test_setr_plan_counts_a_querys_own_candidates(genecis: Settings) -> None:
    pairs = {plan.key: plan.pairs for plan in count_work(genecis)}
    attributes = 3 + 2  # of the second query, two candidates are one instance
    assert pairs == dict(
        zip((f"genecis-{task}" for task in TASKS), (attributes, attributes, 60, 60), strict=True)
    )


def doctor(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    main(["--config", str(config), "doctor", "genecis", "--json"])
    return {found["split"]: found for found in json.loads(capsys.readouterr().out)["evaluation_sets"]}


def test_setr_doctor_counts_and_says_where_things_come_from(
    config: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "genecis" / "focus_attribute.json").unlink()
    found = doctor(config, capsys)
    official = {task: each["files"][0]["official_entries"] for task, each in found.items()}
    assert official == dict(zip(TASKS, (2000, 2112, 1960, 1960), strict=True))
    assert (
        "focus_attribute.json is missing (queries): it comes from github.com/facebookresearch/genecis"
        in (found["focus_attribute"]["problems"][0])
    )
    objects, attributes = found["focus_object"], found["change_attribute"]
    assert objects["problems"][0].endswith("focus_object.json: 4 entries, officially 1,960")
    assert "64 of 64 images are missing: they come from cocodataset.org" in objects["problems"][1]
    assert objects["images"]["galleries"] == {"all": 64}
    assert "they come from `setr crop genecis`" in attributes["problems"][1]
    assert "score genecis --split focus_object" in objects["can"][0]["detail"]


def pattern(width: int, height: int) -> Image.Image:
    """An image whose every pixel is told from every other: red is the column, green the row, blue 255."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, 255)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    ("box", "span"),
    [
        ((50, 40, 10, 20), (43, 26, 60, 60)),  # 0.7 to the left and the top, nothing to the right and below
        ((2, 1, 10, 20), (0, 0, 17, 34)),  # stopped at the image's edge: 1.7 of width and height from there
        ((90, 70, 40, 40), (62, 42, 100, 80)),  # stopped at the right and lower edges
    ],
)
def test_a_crop_is_dilated_as_officially_and_padded_to_a_square(
    box: tuple[float, ...], span: tuple[int, int, int, int]
) -> None:
    found = np.asarray(crop(pattern(100, 80), box))
    left, top, right, bottom = span
    side = max(right - left, bottom - top)
    assert found.shape == (side, side, 3)
    across, down = (side - (right - left)) // 2, (side - (bottom - top)) // 2
    inside = found[down : down + bottom - top, across : across + right - left]
    assert (inside == np.asarray(pattern(100, 80))[top:bottom, left:right]).all()
    assert found[..., 2].sum() == 255 * (right - left) * (bottom - top), "the rest is black"


def test_setr_crop_writes_the_crops_once(
    config: Path, genecis: Settings, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(config), "crop", "genecis"]
    for number, folder in ((7, "VG_100K"), (8, "VG_100K_2")):
        (root / folder).mkdir()
        pattern(40, 30).save(root / folder / f"{number}.jpg")
    assert main(command) == 1
    said = capsys.readouterr()
    assert "genecis-focus_attribute: 3 crops were written, 1 of 4 could not be" in said.err
    assert f"{root}: no 9.jpg in VG_100K, VG_100K_2, VG_All" in said.err
    assert "genecis-focus_object: 0 images cut" in said.out
    pattern(40, 30).convert("L").save(root / "VG_100K" / "9.jpg")
    kept = (root / "crops" / "7_0_0_8_4.png").stat().st_mtime_ns
    assert main(command) == 0
    assert "genecis-change_attribute: 0 images cut" in capsys.readouterr().out, "the tasks share crops"
    assert (root / "crops" / "7_0_0_8_4.png").stat().st_mtime_ns == kept
    gallery = inspect_gallery(load_gallery(genecis, "genecis-change_attribute"))
    assert gallery["status"].to_list() == ["ok"] * 4
    assert gallery["width"].to_list() == [17, 14, 7, 17] == gallery["height"].to_list()


def test_a_box_outside_of_its_image_is_named(
    config: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "VG_All").mkdir()
    for number in (7, 8, 9):
        Image.new("RGB", (5, 5)).save(root / "VG_All" / f"{number}.jpg")
    assert main(["--config", str(config), "crop", "genecis-focus_attribute"]) == 1
    assert f"{root / 'VG_All' / '7.jpg'}: no pixel of it is in the box (10.0, 20.0, 10.0, 5.0)" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("task", "change", "where", "reason"),
    [
        ("focus_object", {"condition": "  "}, "row 1 (counting from 0)", "'condition' is empty"),
        ("focus_object", {"reference": 5}, "row 1 (counting from 0)", "'reference' must be an object, not 5"),
        ("focus_object", {"gallery": []}, "row 1 (counting from 0)", "'gallery' is empty"),
        ("focus_object", {"gallery": {}}, "row 1 (counting from 0)", "'gallery' must be a list, not {}"),
        (
            "focus_object",
            {"gallery": [coco(1), coco(0)]},
            "row 1 (counting from 0), gallery, entry 1",
            "'val_image_id' must be a whole number of at least 1, not 0",
        ),
        (
            "focus_object",
            {"target": instance(1, 0, 0, 1, 1)},
            "row 1 (counting from 0), target",
            "the key 'val_image_id' is missing",
        ),
        (
            "focus_attribute",
            {"gallery": [3]},
            "row 1 (counting from 0), gallery, entry 0",
            "must be an object with named values, not 3",
        ),
        (
            "focus_attribute",
            {"reference": instance(1, 0, 0, 1)},
            "row 1 (counting from 0), reference",
            "'instance_bbox' must have 4 entries, not 3",
        ),
        (
            "focus_attribute",
            {"reference": instance(1, 0, 0, 1, True)},
            "row 1 (counting from 0), reference",
            "'instance_bbox' must hold 4 numbers (coordinates), not True",
        ),
        (
            "focus_attribute",
            {"reference": instance(1, 0, 0, 0, 4)},
            "row 1 (counting from 0), reference",
            "'instance_bbox' has the width and height (0.0, 4.0): both must be above 0",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_and_row(
    genecis: Settings, root: Path, task: str, change: dict[str, Any], where: str, reason: str
) -> None:
    rows = OBJECTS if task.endswith("object") else ATTRIBUTES
    file = write(root, task, [rows[0], {**rows[1], **change}])
    with pytest.raises(DatasetError) as refused:
        load_queries(genecis, f"genecis-{task}")
    assert (refused.value.file, refused.value.row) == (file, where)
    assert refused.value.reason.startswith(reason)
