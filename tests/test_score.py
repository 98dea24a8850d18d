"""``setr score`` as a person meets it: files of any system in, official metrics out; nothing else needed or
written.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.cli import main
from setr_lib.tables import METRICS
from tests.small_benchmarks import (
    cirr_names,
    ranked_circo,
    ranked_cirr,
    ranked_fashioniq,
    write_benchmarks,
    write_image_list,
    write_json,
)

Output = pytest.CaptureFixture[str]


class Terminal:
    """Runs ``setr --config ... score`` and takes what it prints apart."""

    def __init__(self, folder: Path, output: Output) -> None:
        self.folder, self.config, self._output = folder, write_benchmarks(folder), output

    def file(self, name: str, content: object) -> Path:
        return write_json(self.folder / name, content)

    def score(self, *arguments: object) -> tuple[int, str, str]:
        status = main(["--config", str(self.config), "score", *map(str, arguments)])
        printed = self._output.readouterr()
        return status, printed.out, printed.err

    def rows(self, *arguments: object) -> tuple[list[dict[str, Any]], str]:
        status, out, err = self.score(*arguments, "--json")
        assert status == 0, err
        return json.loads(out), err

    def refusal(self, *arguments: object) -> str:
        status, out, err = self.score(*arguments, "--json")
        assert (status, out) == (1, ""), err
        assert "Traceback" not in err
        return err


@pytest.fixture
def terminal(tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("SETR_EVALUATION__BOOTSTRAP_SAMPLES", "100")
    return Terminal(tmp_path, capsys)


def values(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def test_circo_rows_have_the_keys_of_the_leaderboard(terminal: Terminal) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    rows, err = terminal.rows("circo", "--split", "val", file)
    assert all(list(row) == [*METRICS, "strategy", "stage", "adapter_version"] for row in rows)
    assert {(row["dataset"], row["split"], row["strategy"], row["stage"]) for row in rows} == {
        ("circo", "val", "file", "external")
    }
    metrics = [f"{name}@{k}" for name in ("mAP", "R") for k in (5, 10, 25, 50)]
    assert values(rows) == dict.fromkeys([*metrics, "mAP@10/addition"], 100.0)
    assert rows[0]["label"].startswith("mine.json; 3 queries (official: 220)")
    assert "image list is absent" in err


def test_the_key_of_an_evaluation_set_stands_for_data_set_and_split(terminal: Terminal) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    rows, _ = terminal.rows("circo-val", file)
    assert rows == terminal.rows("circo", "--split", "val", file)[0] != []
    refused = terminal.refusal("circo", file)
    assert "several splits" in refused and "circo-val or circo-test" in refused
    assert "did you mean 'circo-val'" in terminal.refusal("circo-vall", file)


def test_circo_with_its_image_list_refuses_other_images(terminal: Terminal) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    write_image_list(terminal.folder, range(1, 1000))
    rows, err = terminal.rows("circo", "--split", "val", file)
    assert values(rows)["mAP@50"] == 100.0
    assert err == ""
    write_image_list(terminal.folder, range(50, 1000))
    refused = terminal.refusal("circo", "--split", "val", file)
    assert "query '0': the gallery of circo-val has no image '1'" in refused
    assert "mine.json: 141 faults:\n  images that there are not: 141\n" in refused


@pytest.mark.parametrize(
    ("metrics", "there", "left_out"),
    [
        (["recall"], {"R@1", "R@5", "R@10", "R@50"}, ["R_subset@1", "Avg"]),
        (["recall_subset"], {"R_subset@1", "R_subset@2", "R_subset@3"}, ["R@1", "R@50", "Avg"]),
        (["recall_subset", "recall"], {"R@1", "R@5", "R@10", "R@50", "R_subset@1", "Avg"}, []),
    ],
)
def test_cirr_takes_one_file_or_two_told_apart_by_their_metric(
    terminal: Terminal, metrics: list[str], there: set[str], left_out: list[str]
) -> None:
    root = terminal.folder / "cirr"
    files = [terminal.file(f"{metric}.json", ranked_cirr(root, "val", metric)) for metric in metrics]
    rows, err = terminal.rows("cirr", "--split", "val", *files)
    assert there <= values(rows).keys()
    assert set(values(rows).values()) == {100.0}
    assert not values(rows).keys() & set(left_out)
    said = " ".join(line for line in err.splitlines() if "left out" in line)
    assert all(metric in said for metric in left_out)
    assert bool(said) == bool(left_out)
    assert "without a ranking" not in rows[0]["label"]


@pytest.mark.parametrize("split", ["test1", "test"])
def test_a_hidden_split_is_validated_and_gives_an_empty_array(terminal: Terminal, split: str) -> None:
    name = "cirr" if split == "test1" else "circo"
    root = terminal.folder / name
    content = ranked_cirr(root, split, "recall") if name == "cirr" else ranked_circo(root, split)
    file = terminal.file("mine.json", content)
    assert terminal.rows(name, "--split", split, file)[0] == []
    status, out, _ = terminal.score(name, "--split", split, file)
    assert status == 0
    assert f"{name}-{split}: valid" in out
    content[list(content)[-1]].pop()
    terminal.file("mine.json", content)
    assert "has 49 images, and the format takes 50" in terminal.refusal(name, "--split", split, file)


def test_fashioniq_test_split_is_hidden_too(terminal: Terminal) -> None:
    file = terminal.file("mine.json", ranked_fashioniq(terminal.folder / "fashioniq", "test", depth=7))
    assert terminal.rows("fashioniq", "--split", "test", file)[0] == []


def test_fashioniq_with_fewer_categories_has_no_mean(terminal: Terminal) -> None:
    ranked = ranked_fashioniq(terminal.folder / "fashioniq", "val")
    file = terminal.file("mine.json", ranked)
    rows, err = terminal.rows("fashioniq", "--split", "val", file)
    assert (len(rows), set(values(rows).values()), err) == (8, {100.0}, "")
    shirts = terminal.file(
        "shirts.json", {query: ids for query, ids in ranked.items() if query < "toptee" and query > "e"}
    )
    rows, err = terminal.rows("fashioniq", "--split", "val", shirts)
    assert set(values(rows)) == {"R@10/shirt", "R@50/shirt"}
    assert "left out: R@10, R@50: it is the mean of 3 categories; there is only shirt" in err


def test_fashioniq_categories_may_come_in_files_of_their_own(terminal: Terminal) -> None:
    ranked = ranked_fashioniq(terminal.folder / "fashioniq", "val")
    files = [
        terminal.file(f"{name}.json", {query: ids for query, ids in ranked.items() if query.startswith(name)})
        for name in ("toptee", "dress", "shirt")
    ]
    rows, _ = terminal.rows("fashioniq", "--split", "val", *files)
    assert values(rows)["R@10"] == 100.0
    refused = terminal.refusal("fashioniq", "--split", "val", files[1], terminal.file("all.json", ranked))
    assert (
        "all.json: 3 faults:\n  queries that another file answers already: 3\n    query 'dress-0'" in refused
    )
    assert "dress.json has its gallery ranking already" in refused


def test_metrics_deeper_than_a_list_are_left_out_and_said(terminal: Terminal) -> None:
    root = terminal.folder / "fashioniq"
    ranked = ranked_fashioniq(root, "val", depth=20)
    rows, err = terminal.rows("fashioniq", "--split", "val", terminal.file("20.json", ranked))
    assert set(values(rows)) == {"R@10", "R@10/dress", "R@10/shirt", "R@10/toptee"}
    assert "left out: R@50, R@50/dress, R@50/shirt, R@50/toptee: a ranking is only 20 long" in err
    dresses = {query: ids for query, ids in ranked.items() if query.startswith("dress")}
    rows, err = terminal.rows("fashioniq", "--split", "val", terminal.file("d.json", dresses))
    assert set(values(rows)) == {"R@10/dress"}
    assert "left out: R@10: it is the mean" in err
    assert "left out: R@50, R@50/dress: a ranking is only 20 long" in err
    circo = {q: ids[:10] for q, ids in ranked_circo(terminal.folder / "circo", "val").items()}
    rows, err = terminal.rows("circo", "--split", "val", terminal.file("10.json", circo))
    assert set(values(rows)) == {"mAP@5", "mAP@10", "R@5", "R@10", "mAP@10/addition"}
    assert "every list has 10 images" in err


def test_short_lists_of_one_category_leave_the_other_categories_alone(terminal: Terminal) -> None:
    ranked = ranked_fashioniq(terminal.folder / "fashioniq", "val")
    ranked |= {query: ids[:10] for query, ids in ranked.items() if query.startswith("dress")}
    rows, err = terminal.rows("fashioniq", "--split", "val", terminal.file("mine.json", ranked))
    categories = {f"R@10/{name}" for name in ("dress", "shirt", "toptee")}
    assert set(values(rows)) == {"R@10", *categories, "R@50/shirt", "R@50/toptee"}
    assert "left out: R@50, R@50/dress: a ranking is only 10 long" in err


def test_a_file_name_that_is_no_text_is_scored_all_the_same(terminal: Terminal) -> None:
    good = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    try:
        odd = good.rename(terminal.folder / os.fsdecode(b"\xff.json"))
    except OSError:
        pytest.skip("this file system takes names of UTF-8 only")
    rows, _ = terminal.rows("circo", "--split", "val", odd)
    assert rows[0]["label"].startswith("\\udcff.json; ")


def test_fashioniq_over_references_and_targets_only(terminal: Terminal) -> None:
    pairs = ranked_fashioniq(terminal.folder / "fashioniq", "val", depth=2)
    ranked = {
        query: [
            *ids,
            *(each for other in pairs if other[0] == query[0] for each in pairs[other] if each not in ids),
        ]
        for query, ids in pairs.items()
    }
    file = terminal.file("mine.json", ranked)
    rows, err = terminal.rows("fashioniq", "--split", "val", file, "--gallery", "val")
    assert {row["gallery"] for row in rows} == {"val"}
    assert values(rows)["R@50"] == 100.0  # six images are all that there is to rank
    assert err == ""
    ranked["shirt-1"].append("S059")
    terminal.file("mine.json", ranked)
    refused = terminal.refusal("fashioniq", "--split", "val", file, "--gallery", "val")
    assert "query 'shirt-1'" in refused
    assert "original" in refused
    rows, err = terminal.rows("fashioniq", "--split", "val", file, "--gallery", "original")
    assert rows == []
    assert "left out: R@10, R@50" in err
    status, out, _ = terminal.score("fashioniq", "--split", "val", file)
    assert (status, "every metric is left out" in out) == (0, True)


def test_parquet_rankings_are_scored_like_submissions(terminal: Terminal) -> None:
    root = terminal.folder / "cirr"
    rows = [
        (query, pool, rank, image)
        for pool, metric in (("gallery", "recall"), ("subset", "recall_subset"))
        for query, images in list(ranked_cirr(root, "val", metric).items())[2:]
        for rank, image in enumerate(images, start=1)
    ]
    frame = pl.DataFrame(rows, schema=["query_id", "pool", "rank", "image_id"], orient="row")
    path = terminal.folder / "rankings.parquet"
    frame.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(path)
    assert set(values(terminal.rows("cirr", "--split", "val", path)[0]).values()) == {100.0}
    frame.filter(pl.col("rank") != 2).write_parquet(path)
    assert "query '30': ranks must run 1, 2, 3" in terminal.refusal("cirr", "--split", "val", path)


def test_without_json_a_table_is_printed(terminal: Terminal) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    status, out, _ = terminal.score("circo", "--split", "val", file)
    assert status == 0
    assert "circo val" in out
    assert "mAP@10/addition" in out
    assert "not comparable" in out
    assert "a small set, " in out and "points, so rows that lie closer" in " ".join(out.split())


def test_no_hit_in_a_few_queries_has_wilsons_interval_and_no_precision_has_none(terminal: Terminal) -> None:
    annotations = json.loads((terminal.folder / "circo" / "annotations" / "val.json").read_text())
    others = {
        str(query["id"]): [image for image in range(1, 100) if image not in query["gt_img_ids"]][:50]
        for query in annotations
    }
    rows, _ = terminal.rows("circo", "--split", "val", terminal.file("worse.json", others))
    at = {row["metric"]: row for row in rows}
    queries = at["R@5"]["n_queries"]
    assert at["R@5"]["value"] == at["mAP@5"]["value"] == at["R@5"]["ci_low"] == 0.0
    square = 3.841458820694124
    assert at["R@5"]["ci_high"] == pytest.approx(100 * square / (queries + square))
    assert at["mAP@5"]["ci_low"] is at["mAP@5"]["ci_high"] is None
    status, out, _ = terminal.score("circo", "--split", "val", terminal.file("worse.json", others))
    assert status == 0 and "no interval where every query has the same value: mAP@5" in " ".join(out.split())


@pytest.mark.parametrize(
    "settings", ["", '[datasets.circo]\nkind = "circo"\nroot = "elsewhere"\nsplits = ["test"]\n']
)
def test_the_root_from_the_environment_wins_and_will_do(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    terminal.config.write_text(settings, encoding="utf-8")
    monkeypatch.setenv("SETR_DATASETS__CIRCO__ROOT", str(terminal.folder / "circo"))
    assert values(terminal.rows("circo", "--split", "val", file)[0])["mAP@5"] == 100.0


def test_scoring_writes_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(terminal.folder)
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    before = sorted(terminal.folder.rglob("*"))
    terminal.rows("circo", "--split", "val", file)
    assert sorted(terminal.folder.rglob("*")) == before
    assert "DAGSTER_HOME" not in os.environ


def with_(query: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[dict[str, Any]], object]:
    return lambda content: {**content, query: change(content[query])}


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: {each: value for each, value in content.items() if each != key}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_("31", lambda ids: [*ids[:-1], ids[0]]), "query '31': 'val-3-img0' is ranked twice"),
        (
            with_("31", lambda ids: [*ids[:-1], "nobody"]),
            "query '31': the gallery of cirr-val has no image 'nobody'",
        ),
        (
            with_("31", lambda ids: [*ids[:-1], f"{ids[0]}.png"]),
            "query '31': 'val-3-img0.png' must be written without",
        ),
        (
            with_("31", lambda ids: [*ids[:-1], "val-1-img0"]),
            "query '31': the reference 'val-1-img0' is in the list",
        ),
        (with_("31", lambda ids: [*ids[:-1], 7]), "query '31': an image name must be text, not 7"),
        (with_("31", lambda ids: ids[:-1]), "query '31': has 49 images, and the format takes 50"),
        (
            with_("31", lambda ids: [*ids, "val-59-img0"]),
            "query '31': has 51 images, and the format takes 50",
        ),
        (with_("31", lambda ids: []), "query '31': the list is empty"),
        (lambda content: {**content, "31": "val-3-img0"}, "query '31': must have a list of images"),
        (without("31"), "query '31': is missing: a ranking answers every query of cirr-val"),
        (lambda content: {**content, "99": content["31"]}, "query '99': cirr-val has no such query"),
        (without("version"), "the key 'version' is missing: it must say 'rc2'"),
        (without("metric"), "the key 'metric' is missing: it must say 'recall' or 'recall_subset'"),
        (lambda content: {**content, "version": "rc1"}, "'version' must be 'rc2', not 'rc1'"),
        (lambda content: {**content, "version": 2}, "'version' must be 'rc2', not 2"),
        (
            lambda content: {**content, "metric": "recal"},
            "'metric' must be 'recall' or 'recall_subset', not 'recal'",
        ),
        (lambda content: [content], "must hold a submission of CIRR's (or be Parquet), not a list of 1"),
    ],
)
def test_cirr_refusals_name_file_query_and_reason(
    terminal: Terminal, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    content = ranked_cirr(terminal.folder / "cirr", "val", "recall")
    path = terminal.file("bad.json", change(content))
    assert f"setr: {path}: {said}" in terminal.refusal("cirr", "--split", "val", path)


def test_cirr_subset_refusals(terminal: Terminal) -> None:
    content = ranked_cirr(terminal.folder / "cirr", "val", "recall_subset")
    recall = terminal.file("recall.json", ranked_cirr(terminal.folder / "cirr", "val", "recall"))
    outsider = {**content, "32": [*content["32"][:2], cirr_names("val")[40]]}
    file = terminal.file("bad.json", outsider)
    assert "bad.json: query '32': 'val-40-img0' is not a member of the query's subset" in terminal.refusal(
        "cirr", "--split", "val", recall, file
    )
    file = terminal.file("bad.json", {**content, "32": content["32"][:2]})
    assert "query '32': has 2 images, and the format takes 3" in terminal.refusal(
        "cirr", "--split", "val", file
    )
    again = terminal.file("again.json", json.loads(recall.read_text()))
    refused = terminal.refusal("cirr", "--split", "val", recall, again)
    assert f"{again}: 4 faults:" in refused
    assert "    query '30': " in refused
    assert "give one file per metric" in refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_("1", lambda ids: [*ids[:-1], ids[0]]), "query '1': '102' is ranked twice"),
        (with_("1", lambda ids: [*ids[:-1], str(ids[0])]), "query '1': '102' is ranked twice"),
        (
            with_("1", lambda ids: [*ids[:-1], 0]),
            "query '1': an image id must be a positive whole number, not 0",
        ),
        (
            with_("1", lambda ids: [*ids[:-1], -5]),
            "query '1': an image id must be a positive whole number, not -5",
        ),
        (
            with_("1", lambda ids: [*ids[:-1], 1.0]),
            "query '1': an image id must be a positive whole number, not 1.0",
        ),
        (
            with_("1", lambda ids: [*ids[:-1], True]),
            "query '1': an image id must be a positive whole number, not True",
        ),
        (
            with_("1", lambda ids: [*ids[:-1], "x"]),
            "query '1': an image id must be a positive whole number, not 'x'",
        ),
        (
            with_("1", lambda ids: [*ids[:-1], None]),
            "query '1': an image id must be a positive whole number, not None",
        ),
        (with_("1", lambda ids: ids[:-1]), "query '1': has 49 images, and the format takes 50"),
        (without("1"), "query '1': is missing: a ranking answers every query of circo-val"),
        (lambda content: {**content, "3": content["1"]}, "query '3': circo-val has no such query"),
        (
            lambda content: {"a": content["1"]},
            "query 'a': circo-val has no such query: is it for another data set",
        ),
        (lambda content: {"version": "rc2", "metric": "recall"}, "has the keys 'version' and 'metric'"),
        (lambda content: {}, "3 faults:\n  queries that are not answered: 3\n    query '0': is missing"),
    ],
)
def test_circo_refusals_name_file_query_and_reason(
    terminal: Terminal, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    content = ranked_circo(terminal.folder / "circo", "val")
    path = terminal.file("bad.json", change(content))
    assert f"setr: {path}: {said}" in terminal.refusal("circo", "--split", "val", path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("shirt-1"), "query 'shirt-1': is missing: a ranking answers every query of its category"),
        (
            with_("shirt-1", lambda ids: [*ids, "D000"]),
            "query 'shirt-1': the gallery 'shirt' of fashioniq-val has no",
        ),
        (with_("shirt-1", lambda ids: [*ids, ids[3]]), "query 'shirt-1': 'S002' is ranked twice"),
        (
            lambda content: {**content, "skirt-0": ["D000"]},
            "query 'skirt-0': fashioniq-val has no such query",
        ),
        (
            lambda content: {**content, "dress-3": ["D000"]},
            "query 'dress-3': fashioniq-val has no such query",
        ),
        (
            lambda content: {**content, "dress-00": ["D000"]},
            "query 'dress-00': fashioniq-val has no such query",
        ),
    ],
)
def test_fashioniq_refusals_name_file_query_and_reason(
    terminal: Terminal, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    content = ranked_fashioniq(terminal.folder / "fashioniq", "val")
    path = terminal.file("bad.json", change(content))
    assert f"setr: {path}: {said}" in terminal.refusal("fashioniq", "--split", "val", path)


def test_what_is_not_there_is_said(terminal: Terminal) -> None:
    assert "none.json: cannot be read: No such file" in terminal.refusal(
        "circo", "--split", "val", terminal.folder / "none.json"
    )
    file = terminal.file("mine.json", {})
    assert "'train' is not a split of circo" in terminal.refusal("circo", "--split", "train", file)
    assert "no data set 'coco' in the settings, only circo, cirr, fashioniq" in terminal.refusal(
        "coco", "--split", "val", file
    )
    (terminal.folder / "circo/annotations/val.json").unlink()
    assert "annotations/val.json" in terminal.refusal("circo", "--split", "val", file)


def test_what_the_command_line_asks_for_is_not_blamed_on_the_settings(terminal: Terminal) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    refused = terminal.refusal("circo", "--split", "test1", file)
    assert refused == "setr: 'test1' is not a split of circo: use val or test; did you mean 'test'?\n"
    refused = terminal.refusal("circo", "--split", "val", file, "--gallery", "val")
    assert refused == "setr: 'val' is not a gallery of circo: it has one only, 'all'\n"


def test_circo_takes_one_file(terminal: Terminal) -> None:
    ranked = ranked_circo(terminal.folder / "circo", "val")
    files = [terminal.file(name, ranked) for name in ("a.json", "b.json")]
    refused = terminal.refusal("circo", "--split", "val", *files)
    assert refused.startswith(f"setr: {files[1]}: 3 faults:\n  queries that another file answers already: 3")
    assert f"    query '0': {files[0]} has its gallery ranking already\n" in refused


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (gzip.compress, "is a compressed file: unpack it first"),
        (lambda content: content.decode().encode("utf-16-le"), "is UTF-16 without a byte-order mark"),
        (lambda content: b"\xff" + content, "not UTF-8 text"),
    ],
)
def test_bytes_that_are_no_plain_json_are_named(
    terminal: Terminal, encode: Callable[[bytes], bytes], said: str
) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    file.write_bytes(encode(file.read_bytes()))
    assert f"mine.json: {said}" in terminal.refusal("circo", "--split", "val", file)


@pytest.mark.parametrize(
    "encode",
    [lambda content: codecs.BOM_UTF8 + content, lambda content: content.decode().encode("utf-16")],
)
def test_a_byte_order_mark_says_how_a_file_is_read(
    terminal: Terminal, encode: Callable[[bytes], bytes]
) -> None:
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    plain, _ = terminal.rows("circo", "--split", "val", file)
    file.write_bytes(encode(file.read_bytes()))
    assert terminal.rows("circo", "--split", "val", file)[0] == plain


def test_an_official_data_set_without_settings_is_told_its_variable(terminal: Terminal) -> None:
    terminal.config.write_text("", encoding="utf-8")
    refused = terminal.refusal("circo", "--split", "val", terminal.file("mine.json", {}))
    assert "SETR_DATASETS__CIRCO__ROOT" in refused


@pytest.mark.parametrize(
    "arguments",
    [["circo"], ["circo", "--split", "val"]],
)
def test_wrong_command_lines_exit_with_2(terminal: Terminal, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        terminal.score(*arguments)
    assert stopped.value.code == 2


def test_subset_rankings_called_recall_are_refused(terminal: Terminal) -> None:
    content = ranked_cirr(terminal.folder / "cirr", "val", "recall_subset") | {"metric": "recall"}
    err = terminal.refusal("cirr", "--split", "val", terminal.file("mine.json", content))
    assert "recall_subset" in err


def test_a_ranking_of_fashioniqs_small_gallery_is_not_comparable_on_the_original_one(
    terminal: Terminal,
) -> None:
    content: dict[str, list[str]] = {}
    for category in ("dress", "shirt", "toptee"):
        folder = terminal.folder / "fashioniq"
        names = json.loads((folder / "image_splits" / f"split.{category}.val.json").read_text())
        pairs = list(zip(names[0:16:2], names[1:16:2], strict=True))
        queries = [{"target": t, "candidate": c, "captions": ["red", "long"]} for t, c in pairs]
        terminal.file(f"fashioniq/captions/cap.{category}.val.json", queries)
        content |= {f"{category}-{number}": names[:16] for number in range(len(queries))}
    rows, err = terminal.rows("fashioniq", "--split", "val", terminal.file("small.json", content))
    assert "--gallery val" in err
    assert rows and not any(row["comparable"] for row in rows)
    whole = terminal.file("whole.json", ranked_fashioniq(terminal.folder / "fashioniq", "val"))
    _, err = terminal.rows("fashioniq", "--split", "val", whole)
    assert "--gallery val" not in err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_once(terminal: Terminal) -> None:
    pipe, content = terminal.folder / "pipe", ranked_circo(terminal.folder / "circo", "val")
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(content),))
    writer.start()
    rows, _ = terminal.rows("circo", "--split", "val", pipe)
    writer.join()
    assert values(rows)["mAP@5"] == 100


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_other_compressed_files_are_named_too(terminal: Terminal, pack: Callable[[bytes], bytes]) -> None:
    file = terminal.folder / "packed"
    file.write_bytes(pack(json.dumps(ranked_circo(terminal.folder / "circo", "val")).encode()))
    assert "unpack it first" in terminal.refusal("circo", "--split", "val", file)


def test_rows_whose_query_contains_shared_concept_say_so_however_it_is_known(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "query contains shared_concept"
    with terminal.config.open("a") as settings:
        settings.write(
            '[datasets.concept]\nkind = "circo"\nroot = "circo"\n'
            'options = { query = "with_shared_concept" }\n'
        )
    monkeypatch.setenv("COLUMNS", "200")
    file = terminal.file("mine.json", ranked_circo(terminal.folder / "circo", "val"))
    ways = (("concept", "--split", "val", file), ("circo", "--split", "val", file, "--caveat", words))
    plain, _ = terminal.rows("circo", "--split", "val", file)
    assert not any(words in row["label"] for row in plain)
    for way in ways:
        rows, _ = terminal.rows(*way)
        assert [(row["comparable"], words in row["label"].split("; ")) for row in rows] == [
            (False, True)
        ] * len(plain)
        assert values(rows) == values(plain)
        assert f"not comparable with published numbers: {words}" in terminal.score(*way)[1]
    hidden = terminal.file("test.json", ranked_circo(terminal.folder / "circo", "test"))
    for data_set, caveat in (("concept", ()), ("circo", ("--caveat", words))):
        assert words in terminal.score(data_set, "--split", "test", hidden, *caveat)[1]
    assert words not in terminal.score("circo", "--split", "test", hidden)[1]
    assert "--caveat is empty" in terminal.refusal("circo", "--split", "val", file, "--caveat", " ")
