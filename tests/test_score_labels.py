"""``setr score --labels``: every metric for the queries of each label, matched by id or by image and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.cli import main
from tests.small_benchmarks import (
    Json,
    ranked_circo,
    ranked_cirr,
    ranked_fashioniq,
    write_benchmarks,
    write_json,
)

Output = pytest.CaptureFixture[str]


class Scored:
    """Runs ``setr score`` on a ranking file of one data set's val split."""

    def __init__(self, folder: Path, output: Output) -> None:
        self.folder, self._output, self._config = folder, output, write_benchmarks(folder)

    def run(self, dataset: str, ranking: Json, *labels: object) -> tuple[int, str, str]:
        file = write_json(self.folder / "mine.json", ranking)
        options = [option for label in labels for option in ("--labels", str(label))]
        command = ["score", dataset, "--split", "val", str(file), *options, "--json"]
        status = main(["--config", str(self._config), *command])
        said = self._output.readouterr()
        return status, said.out, said.err

    def values(
        self, dataset: str, ranking: Json, *labels: object
    ) -> tuple[dict[str, tuple[float, int]], str]:
        status, out, err = self.run(dataset, ranking, *labels)
        assert status == 0, err
        return {row["metric"]: (row["value"], row["n_queries"]) for row in json.loads(out)}, err

    def refusal(self, dataset: str, ranking: Json, *labels: object) -> str:
        status, out, err = self.run(dataset, ranking, *labels)
        assert (status, out) == (1, "")
        return err

    def lines(self, name: str, *rows: dict[str, Any]) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path


@pytest.fixture
def scored(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> Scored:
    monkeypatch.setenv("SETR_EVALUATION__BOOTSTRAP_SAMPLES", "100")
    return Scored(tmp_path, capsys)


def cirr(scored: Scored) -> Json:
    """A ranking that finds the targets of 30 and 31 at once, and those of 32 and 33 at the sixth place."""
    ranking = ranked_cirr(scored.folder / "cirr", "val", "recall")
    for query in ("32", "33"):
        images = ranking[query]
        ranking[query] = [*images[1:6], images[0], *images[6:]]
    return ranking


def row(query: str, label: str) -> dict[str, str]:
    return {"query_id": query, "label": label}


def test_each_label_has_the_metrics_of_its_queries(scored: Scored) -> None:
    file = scored.lines(
        "labels.jsonl", row("30", "needed"), row("31", "solvable"), row("32", "solvable"), row("32", "odd")
    )
    plain, _ = scored.values("cirr", cirr(scored))
    found, err = scored.values("cirr", cirr(scored), file)
    assert {name: value for name, value in found.items() if "/" not in name} == plain
    assert plain["R@1"] == (50.0, 4) and plain["R@10"] == (100.0, 4)
    assert {name: value for name, value in found.items() if "/" in name} == {
        **{f"R@{k}/needed": (100.0, 1) for k in (1, 5, 10, 50)},
        **{f"R@{k}/odd": (0.0 if k < 6 else 100.0, 1) for k in (1, 5, 10, 50)},
        **{f"R@{k}/solvable": (50.0 if k < 6 else 100.0, 2) for k in (1, 5, 10, 50)},
    }
    assert "1 of 4 queries have no label" in err


def published(image: str, text: str, **fields: object) -> dict[str, Any]:
    """A row with M-BEIR's fields."""
    return {"qid": "7:99", "query_img_path": image, "query_txt": text, "pos_cand_list": ["7:1"], **fields}


def test_published_files_are_matched_by_reference_and_text(scored: Scored) -> None:
    folder = "mbeir_images/cirr_images/dev"
    required = scored.lines(
        "composition_required/queries.jsonl",
        published(f"{folder}/val-0-img0.png", "Edit 0."),
        published(f"{folder}/val-0-img0.png", "Edit 1."),  # another text
        published(f"{folder}/val-2-img0.png", "edit 2"),
    )
    solvable = scored.lines("solvable.jsonl", published(f"{folder}/val-3-img0.png", " EDIT  3 "))
    found, err = scored.values(
        "cirr", cirr(scored), f"composition_required={required}", f"shortcut_solvable={solvable}"
    )
    assert found["R@1/composition_required"] == (50.0, 2)
    assert found["R@1/shortcut_solvable"] == (0.0, 1)
    assert f"{required}: 1 of 3 rows are no query of this data set and split" in err


@pytest.mark.parametrize("text", ["Is red and is longer.", "is red, is longer"])
def test_fashioniq_labels_are_the_mean_of_categories(scored: Scored, text: str) -> None:
    ranking = ranked_fashioniq(scored.folder / "fashioniq", "val")
    ranking["dress-1"] = [*ranking["dress-1"][1:], ranking["dress-1"][0]]
    names = ("D000.jpg", "D001.jpg", "S001.png")
    file = scored.lines("a.jsonl", *(published(f"fashioniq_images/{name}", text) for name in names))
    found, _ = scored.values("fashioniq", ranking, f"free={file}")
    assert found["R@10/free"] == (75.0, 3), "50 % of two dresses, 100 % of one shirt"


def test_circo_ids_are_numbers_and_parquet_is_read(scored: Scored) -> None:
    file = scored.folder / "labels.parquet"
    images = ["coco/000000000901.jpg", "coco/000000000902.jpg"]
    pl.DataFrame(
        {"query_img_path": images, "query_txt": ["Is larger."] * 2, "label": ["a", "b"]}
    ).write_parquet(file)
    ranking = ranked_circo(scored.folder / "circo", "val")
    ranking["2"] = [*ranking["2"][3:], *ranking["2"][:3]]
    found, err = scored.values("circo", ranking, file)
    assert (found["R@10/a"], found["R@10/b"], found["mAP@10/b"]) == ((100.0, 1), (0.0, 1), (0.0, 1))
    assert "mAP@10/addition" in found and "mAP@10/addition/a" not in found
    assert "1 of 3 queries have no label" in err


def test_a_label_without_a_metric_is_told(scored: Scored) -> None:
    ranking = ranked_fashioniq(scored.folder / "fashioniq", "val")
    dresses = {query: images for query, images in ranking.items() if query.startswith("dress")}
    file = scored.lines("labels.jsonl", row("dress-0", "a"))
    found, err = scored.values("fashioniq", ranking, file)
    assert found["R@10/a"] == (100.0, 1) and "no metric" not in err
    found, err = scored.values("fashioniq", dresses, file)
    assert "R@10/dress" in found and "R@10/a" not in found, "the mean of one category is left out"
    assert "no metric for the label 'a'" in err


CIRCO_IMAGES = "/home/me/CIRCO/COCO2017_unlabeled/unlabeled2017"


@pytest.mark.parametrize(
    "fields",
    [
        ("query_id", "query_img_path", "query_text", "label"),  # as CIRCUS converts CIRCO and LaSCo
        ("", "query_image_path", "query_text", "hidden_category"),  # its validated queries
        ("", "query_image_ref", "query_text", "aggregate_label"),  # its tables
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_names_and_foreign_ids_are_read_too(scored: Scored, fields: Any, kind: str) -> None:
    rows = [
        dict(
            zip(
                fields,
                (f"circo_q_test_{n}", f"{CIRCO_IMAGES}/{900 + n:012d}.jpg", "Is larger", label),
                strict=True,
            )
        )
        for n, label in ((0, "a"), (2, "b"))
    ]
    rows = [{name: value for name, value in row.items() if name} for row in rows]
    file = scored.lines("labels.jsonl", *({"query_id": None, **row} for row in rows))
    if kind == "parquet":
        file = file.with_suffix(".parquet")
        pl.DataFrame(rows).write_parquet(file)
    ranking = ranked_circo(scored.folder / "circo", "val")
    ranking["2"] = [*ranking["2"][3:], *ranking["2"][:3]]
    found, err = scored.values("circo", ranking, file)
    assert (found["R@10/a"], found["R@10/b"]) == ((100.0, 1), (0.0, 1))
    assert "1 of 3 queries have no label" in err and "are no query" not in err


def test_an_id_of_the_set_counts_before_image_and_text(scored: Scored) -> None:
    foreign = {"query_img_path": "nowhere.jpg", "query_txt": "is larger"}
    file = scored.lines("labels.jsonl", {"query_id": "1", "label": "a", **foreign})
    found, _ = scored.values("circo", ranked_circo(scored.folder / "circo", "val"), file)
    assert found["R@10/a"] == (100.0, 1)
    file = scored.lines("labels.jsonl", {"query_id": "circo_q_test_1", "label": "a", **foreign})
    said = scored.refusal("circo", ranked_circo(scored.folder / "circo", "val"), file)
    assert "none of its 1 rows is a query of this data set and split, first 'nowhere'" in said


@pytest.mark.parametrize(
    ("dataset", "query", "label"), [("fashioniq", "dress-0", "shirt"), ("circo", "1", "addition")]
)
@pytest.mark.parametrize("of_file", [True, False])
def test_a_label_that_is_a_part_of_the_data_set_already_is_refused(
    scored: Scored, dataset: str, query: str, label: str, of_file: bool
) -> None:
    file = scored.lines("labels.jsonl", row(query, label))
    rankings = {"fashioniq": ranked_fashioniq, "circo": ranked_circo}
    ranking = rankings[dataset](scored.folder / dataset, "val")
    said = scored.refusal(dataset, ranking, f"{label}={file}" if of_file else file)
    assert f"line 1: the label {label!r} is a part of the data set itself" in said


@pytest.mark.parametrize(
    ("rows", "label", "words"),
    [
        (
            [{"query_id": "99", "label": "a"}],
            "",
            "labels.jsonl: none of its 1 rows is a query of this data set",
        ),
        ([], "", "labels.jsonl: has no rows"),
        ([{"query_id": "30"}], "", "labels.jsonl: line 1: the key 'label' is missing"),
        ([{"query_id": "30", "label": "a/b"}], "", "line 1: 'label' must be of letters"),
        ([row("30", "a"), {"label": "a"}], "", "line 2: has neither 'query_id' nor 'query_img_path'"),
        ([{"query_id": 30}], "a=", "line 1: 'query_id' must be text, not 30"),
        ([{"query_img_path": "val-0-img0.png"}], "a=", "line 1: the key 'query_txt' is missing"),
    ],
)
def test_what_is_wrong_with_labels_is_told_with_file_and_line(
    scored: Scored, rows: list[dict[str, Any]], label: str, words: str
) -> None:
    file = scored.lines("labels.jsonl", *rows)
    assert words in scored.refusal("cirr", cirr(scored), f"{label}{file}")


def test_a_file_of_labels_that_is_not_there_is_named(scored: Scored) -> None:
    for name in ("nowhere.jsonl", "nowhere.parquet"):
        assert f"{name}: there is no such file (labels of queries" in scored.refusal(
            "cirr", cirr(scored), scored.folder / name
        )
    assert "'.csv' files are not read" in scored.refusal("cirr", cirr(scored), scored.folder / "labels.csv")
