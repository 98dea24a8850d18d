"""``setr submit``: a materialised ranking becomes exactly what the test servers take, or nothing is
written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.cli import main
from setr_lib.commands.submit import submitted_set
from setr_lib.datasets import load_gallery, load_queries
from setr_lib.errors import SetrError
from setr_lib.evaluation.floor import random_rankings
from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext
from setr_lib.records import CoarseRecord, RerankedRecord, RerankedRow
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import RANKINGS
from tests.small_benchmarks import cirr_names, write_benchmarks, write_image_list

Output = pytest.CaptureFixture[str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = write_benchmarks(tmp_path)
    write_image_list(tmp_path, range(1, 1000))
    return load_settings(path)


def materialise(
    settings: Settings,
    key: str,
    *,
    rerankers: tuple[str, ...] = (),
    methods: tuple[str, ...] = ("intersection", "sum"),
    reranked: tuple[str, ...] = ("intersection",),
    k: int = 50,
) -> dict[tuple[str, str], pl.DataFrame]:
    """What the ranking assets would have written, each by another random ranker."""
    context, made = PipelineContext(settings), {}
    queries, gallery = load_queries(settings, key), load_gallery(settings, key)
    rankers = [(name, "coarse") for name in methods] + [
        (method, reranker) for method in reranked for reranker in rerankers
    ]
    for seed, (method, reranker) in enumerate(rankers):
        frame = random_rankings(queries, gallery, seed, k=k)
        table = (
            context.tables.coarse(key, method)
            if reranker == "coarse"
            else context.tables.reranked(key, Row(method, reranker))
        )
        context.tables.write(table, frame, RANKINGS, made_by=CoarseRecord(method=method))
        made[method, reranker] = frame
    if rerankers:
        rows = [
            RerankedRow(method=method, reranker=reranker, version="3" if reranker == "adapter" else None)
            for method in reranked
            for reranker in rerankers
        ]
        record = RerankedRecord(method="intersection", rows=rows)
        context.tables.write_record("reranked_rankings", record, key)
    return made


def submit(settings: Settings, output: Output, *arguments: str) -> tuple[int, str, str]:
    status = main(["--config", str(settings.base_dir / "setr.toml"), "submit", *arguments])
    printed = output.readouterr()
    return status, printed.out, printed.err


def first(frame: pl.DataFrame, query: str, pool: str, depth: int) -> list[str]:
    return frame.filter(query_id=query, pool=pool).sort("rank")["image_id"].head(depth).to_list()


def test_cirr_gets_its_two_files_with_exact_keys_and_types(settings: Settings, capsys: Output) -> None:
    made = materialise(settings, "cirr-test1", rerankers=("base judge", "adapter"))
    status, out, err = submit(settings, capsys, "cirr")
    assert status == 0
    folder = settings.storage_root / "submissions"
    names = {f"cirr-test1-intersection-adapter.{metric}.json" for metric in ("recall", "recall_subset")}
    assert {path.name for path in folder.iterdir()} == names
    assert all(str(folder / name) in out for name in names)
    assert "adapter v3" in out
    assert "official file 4,148" in err
    for metric, pool, depth in (("recall", "gallery", 50), ("recall_subset", "subset", 3)):
        content = json.loads((folder / f"cirr-test1-intersection-adapter.{metric}.json").read_text())
        assert list(content) == ["version", "metric", "30", "31", "32", "33"]
        assert (content["version"], content["metric"]) == ("rc2", metric)
        for query in ("30", "33"):
            assert content[query] == first(made["intersection", "adapter"], query, pool, depth)
            assert len(content[query]) == depth
            assert not set(content[query]) - set(cirr_names("test1"))


def test_circo_gets_one_file_of_whole_numbers(settings: Settings, capsys: Output, tmp_path: Path) -> None:
    made = materialise(settings, "circo-test", rerankers=("base judge",))
    status, _, _ = submit(settings, capsys, "circo", "--output", str(tmp_path / "out"))
    assert status == 0
    content = json.loads((tmp_path / "out/circo-test-intersection-base-judge.json").read_text())
    assert list(content) == ["0", "1", "2"]
    ranked = first(made["intersection", "base judge"], "2", "gallery", 50)
    assert content["2"] == [int(image) for image in ranked]
    assert all(type(image) is int for image in content["2"])


def test_a_submission_of_other_queries_than_the_official_ones_is_said(
    settings: Settings, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialise(settings, "circo-test")
    assert "shared_concept" not in submit(settings, capsys, "circo")[2]
    monkeypatch.setenv("SETR_DATASETS__CIRCO__OPTIONS", '{"query": "with_shared_concept"}')
    status, _, err = submit(settings, capsys, "circo")
    assert status == 0
    assert "not comparable" in err and "query contains shared_concept" in err


@pytest.mark.parametrize(
    ("rerankers", "arguments", "file"),
    [
        (("base judge", "adapter"), [], "intersection-adapter"),
        (("base judge",), [], "intersection-base-judge"),
        ((), [], "intersection-coarse"),
        (("base judge", "adapter"), ["--stage", "base-judge"], "intersection-base-judge"),
        (("base judge", "adapter"), ["--stage", "base judge"], "intersection-base-judge"),
        (("base judge", "adapter"), ["--stage", "coarse"], "intersection-coarse"),
        (("base judge", "adapter"), ["--strategy", "sum"], "sum-coarse"),
        (("base judge", "adapter"), ["--strategy", "intersection"], "intersection-adapter"),
        (("base judge",), ["--stage", "coarse", "--strategy", "sum"], "sum-coarse"),
    ],
)
def test_the_best_reranker_is_taken_unless_told_otherwise(
    settings: Settings, capsys: Output, rerankers: tuple[str, ...], arguments: list[str], file: str
) -> None:
    materialise(settings, "circo-test", rerankers=rerankers)
    status, _, err = submit(settings, capsys, "circo", *arguments)
    assert status == 0
    written = [path.name for path in (settings.storage_root / "submissions").iterdir()]
    assert written == [f"circo-test-{file}.json"]
    assert ("not re-ranked yet" in err) == (not rerankers)


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ([], "intersection-my-own"),  # the default method's, though another comes last
        (["--reranker", "my-own"], "intersection-my-own"),
        (["--reranker", "base judge", "--method", "sum"], "sum-base-judge"),
        (["--method", "sum"], "sum-my-own"),
        (["--method", "text"], "text-coarse"),
    ],
)
def test_any_method_and_re_ranker_can_be_submitted(
    settings: Settings, capsys: Output, arguments: list[str], file: str
) -> None:
    names = ("intersection", "sum")
    made = materialise(
        settings,
        "circo-test",
        rerankers=("base judge", "my-own"),
        methods=(*names, "text"),
        reranked=names,
    )
    status, _, _ = submit(settings, capsys, "circo", *arguments)
    assert status == 0
    (path,) = (settings.storage_root / "submissions").iterdir()
    assert path.name == f"circo-test-{file}.json"
    method, _, reranker = file.partition("-")
    ranked = first(made[method, {"base-judge": "base judge"}.get(reranker, reranker)], "1", "gallery", 50)
    assert json.loads(path.read_text())["1"] == [int(image) for image in ranked]


@pytest.mark.parametrize(
    ("rerankers", "arguments", "said"),
    [
        (
            ("base judge",),
            ["--stage", "adapter"],
            "has no ranking by re-ranker 'adapter': it has base judge, coarse",
        ),
        ((), ["--stage", "adapter"], "materialize 'reranked_rankings' first"),
        (("base judge",), ["--strategy", "product"], "materialize 'coarse_rankings' first"),
        (("base judge",), ["--strategy", "prodct"], "there is no retrieval method 'prodct'"),
        (
            ("base judge",),
            ["--strategy", "sum", "--stage", "base judge"],
            "candidates of 'intersection', not of 'sum'",
        ),
    ],
)
def test_what_is_not_materialised_is_said(
    settings: Settings, capsys: Output, rerankers: tuple[str, ...], arguments: list[str], said: str
) -> None:
    materialise(settings, "circo-test", rerankers=rerankers)
    status, out, err = submit(settings, capsys, "circo", *arguments)
    assert (status, out) == (1, "")
    assert said in err


def test_a_split_that_is_not_ranked_yet_is_answered_with_the_command_that_ranks_it(
    settings: Settings, capsys: Output
) -> None:
    (settings.base_dir / "Makefile").write_text("demo:\n\techo\n\ndemo: x\n", encoding="utf-8")
    status, _, err = submit(settings, capsys, "cirr")
    assert status == 1 and "run cirr-test1`" in err and "make demo" not in err
    file = settings.base_dir / "setr.toml"
    text = file.read_text(encoding="utf-8").replace('["val", "test1"]', '["val"]')
    file.write_text(text, encoding="utf-8")
    status, _, err = submit(settings, capsys, "cirr")
    assert status == 1 and 'Write splits = ["val", "test1"] in [datasets.cirr]' in err
    assert "run cirr-test1`" in err


def test_a_data_set_without_a_server_is_refused(settings: Settings, capsys: Output) -> None:
    assert "only CIRCO and CIRR have test servers" in submit(settings, capsys, "fashioniq")[2]
    assert "no data set 'coco'" in submit(settings, capsys, "coco")[2]


@pytest.mark.parametrize("fault", ["shallow", "limited", "without subsets"])
def test_a_ranking_that_the_server_would_refuse_leaves_nothing_behind(
    settings: Settings, capsys: Output, fault: str
) -> None:
    made = materialise(settings, "cirr-test1", k=40 if fault == "shallow" else 50)
    frame = made["intersection", "coarse"]
    if fault == "limited":
        frame = frame.filter(pl.col("query_id").is_in(["30", "31"]))
    if fault == "without subsets":
        frame = frame.filter(pool="gallery")
    context = PipelineContext(settings)
    context.tables.write(context.tables.coarse("cirr-test1", "intersection"), frame, RANKINGS)
    status, out, err = submit(settings, capsys, "cirr")
    assert (status, out) == (1, "")
    said = {"shallow": "has 40 images", "limited": "is missing", "without subsets": "is missing"}
    assert said[fault] in err
    assert "query '3" in err
    assert not (settings.storage_root / "submissions").exists()


def test_what_was_submitted_scores_as_it_was_ranked(
    settings: Settings, capsys: Output, tmp_path: Path
) -> None:
    materialise(settings, "cirr-val", rerankers=("base judge",))
    status, _, err = submit(settings, capsys, "cirr", "--split", "val", "--output", str(tmp_path / "out"))
    assert status == 0
    assert "the server does not score 'val'" in err
    config = ["--config", str(tmp_path / "setr.toml")]
    files = [str(path) for path in (tmp_path / "out").iterdir()]
    assert main([*config, "score", "cirr", "--split", "val", *files, "--json"]) == 0
    scored = _values(capsys)
    table = settings.table_path("reranked_rankings/cirr-val/intersection--base-judge")
    assert main([*config, "score", "cirr", "--split", "val", str(table), "--json"]) == 0
    assert scored == _values(capsys)
    assert {"R@50", "R_subset@3", "Avg"} <= scored.keys()


def _values(output: Output) -> dict[str, Any]:
    return {row["metric"]: row["value"] for row in json.loads(output.readouterr().out)}


def test_a_benchmark_named_by_path_runs_no_code_of_an_untrusted_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "evil_of_test.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    mine = {"x": {"kind": "evil_of_test:X", "root": "."}}
    settings = Settings.model_validate({"datasets": mine, "base_dir": tmp_path, "trusted": False})
    with pytest.raises(SetrError, match="would run code"):
        submitted_set(settings, "x", None)
