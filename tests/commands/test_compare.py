"""``setr compare`` on a small world: from annotation files to the table, without Dagster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from setr_lib.cli import main
from setr_lib.errors import SetrError
from setr_lib.evaluation.row import Row
from setr_lib.models.multimodal import MultimodalModel
from setr_lib.settings import load_settings

METHODS = ("sum", "intersection", "cotmr", "basic")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.assets.tiny_world import write_world

    return write_world(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def compared(config: Path) -> Iterator[Path]:
    arguments = [
        "compare",
        *METHODS,
        "--set",
        "cirr",
        "--rerank",
        "intersection",
        "--limit",
        "3",
        "--sample",
        "2",
    ]
    assert main(["--config", str(config), *arguments]) == 0
    yield config


def rows(config: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["--config", str(config), "compare", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_row_has_metrics_and_costs(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(compared, capsys)
    by_row = {Row.of(row): row for row in found}
    assert set(by_row) == {
        Row("random"),
        Row("sum"),
        Row("intersection"),
        Row("intersection", "base judge"),
        Row("cotmr"),
    }
    assert {(row["dataset"], row["split"]) for row in found} == {("cirr", "val")}
    free, composed, judged = (
        by_row[row] for row in (Row("sum"), Row("intersection"), Row("intersection", "base judge"))
    )
    assert free["llm_calls"] == 0 and composed["llm_calls"] == 1
    assert judged["llm_calls"] == 1 + 6, "a composition, and as many candidates as are re-ranked"
    assert by_row[Row("cotmr")]["llm_calls"] == 1, "its texts are derived from the composition"
    assert free["ms_per_query"] > 0 and composed["ms_per_query"] < judged["ms_per_query"]
    assert "derived" in by_row[Row("cotmr")]["label"]
    assert by_row[Row("random")]["ms_per_query"] is None


def test_values_are_those_of_the_same_rankings(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from setr_lib.pipeline.comparison import FOLDER, last_comparison

    settings = load_settings(compared)
    report = pl.read_parquet(settings.table_path("evaluation_report", "cirr-val", FOLDER))
    frame, record = last_comparison(settings)
    told = {(row["method"], row["reranker"], row["metric"]): row["value"] for row in frame.to_dicts()}
    assert told == {
        (row["method"], row["reranker"], row["metric"]): row["value"] for row in report.to_dicts()
    }
    assert record.sets == ["cirr-val"] and record.limit == 3
    assert [(one.what, one.on) for one in record.left_out] == [("basic", None), ("adapter", None)]
    assert "subjects" in record.left_out[0].why and "promoted" in record.left_out[1].why
    assert not (settings.storage_root / "tables" / "coarse_rankings").exists(), (
        "the evaluation's tables are its own"
    )


def test_a_second_comparison_asks_no_model_for_what_is_kept(
    compared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from setr_lib.pipeline import comparison, query_costs

    before = rows(compared, capsys)

    def refuse(self: MultimodalModel, *arguments: object) -> None:
        raise AssertionError("the model was asked")

    class Free(query_costs.QueryCosts):
        def of_set(self, key: str, rows: object, progress: object = None) -> dict[Row, query_costs.Cost]:
            return {}

    monkeypatch.setattr(query_costs, "QueryCosts", Free)
    monkeypatch.setattr(MultimodalModel, "answers", refuse)
    limited = load_settings(compared)
    evaluation = limited.evaluation.model_copy(update={"limit": 3})
    limited = limited.model_copy(update={"evaluation": evaluation})
    chosen = comparison.choose(limited, METHODS, ["intersection"], ["cirr-val"])
    frame, _ = comparison.compare(chosen)
    again = {(row["method"], row["reranker"], row["metric"]): row["value"] for row in frame.to_dicts()}
    assert again == {(row["method"], row["reranker"], row["metric"]): row["value"] for row in before}


FAULTY = """
import numpy as np

from setr_lib.methods.method import Method
from setr_lib.reranking.reranker import Reranker
from setr_lib.texts.answers import Answer
from setr_lib.texts.kind import TextKind


class Raising(Method):
    name = "raising"

    def scores(self, inputs):
        raise ValueError("no such luck")


class NotFinite(Method):
    name = "not_finite"

    def scores(self, inputs):
        found = inputs.queries.modification_vectors @ inputs.gallery.vectors.T
        return found * (np.nan if inputs.queries.dataset_kind == "cirr" else 1)


class Line(Answer):
    line: str


class Unwritten(Method):
    name = "unwritten"
    texts = (TextKind("line", "line", "query", Line),)

    def scores(self, inputs):
        return inputs.queries.modification_vectors @ inputs.gallery.vectors.T


class Failing(Reranker):
    name = "failing"
    id = "failing"

    def score(self, queries):
        raise RuntimeError("out of luck")
"""
BROKEN = """
[datasets.broken]
kind = "cirr"
root = "nowhere"
splits = ["val"]
"""


@pytest.fixture
def faulty(config: Path) -> Path:
    from tests.assets.tiny_world import SETTINGS

    (config.parent / "faulty.py").write_text(FAULTY)
    own = config.with_name("faulty.toml")
    rerankers = 'rerankers = ["faulty:Failing", "base judge"]'
    text = SETTINGS.replace("[reranking]\n", f"[reranking]\n{rerankers}\n", 1)
    own.write_text(
        '[storage]\nroot = "faulty"\n' + text.replace("[datasets.circo]", BROKEN + "[datasets.circo]")
    )
    shutil.rmtree(config.with_name("faulty"), ignore_errors=True)
    return own


FAULTY_METHODS = ["faulty:Raising", "faulty:Unwritten", "faulty:NotFinite"]
COMPARED = ["compare", *FAULTY_METHODS, "sum", "--limit", "2", "--sample", "2"]
SETS = ["--set", "cirr", "--set", "broken", "--set", "circo"]


def test_what_fails_is_left_out_with_the_reason_and_the_others_go_on(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from setr_lib.pipeline.comparison import last_comparison

    assert main(["--config", str(faulty), *COMPARED, *SETS, "--rerank", "sum"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "raising: left out on cirr-val, circo-val: raised ValueError" in told
    assert "unwritten: left out on cirr-val, circo-val: generated text 'line' needs the prompt" in told
    assert "not_finite: left out on cirr-val: gave scores that are not" in told
    assert "sum · failing: left out on cirr-val, circo-val: re-ranker 'failing' raised RuntimeError" in told
    assert "broken-val: left out: " in told and "nowhere" in told
    frame, record = last_comparison(load_settings(faulty))
    found = set(frame.select("dataset", "method", "reranker").iter_rows())
    everywhere = {("random", ""), ("sum", ""), ("sum", "base judge")}
    assert found == {
        *(("cirr", *row) for row in everywhere),
        *(("circo", *row) for row in everywhere),
        ("circo", "not_finite", ""),
    }
    assert record.sets == ["cirr-val", "circo-val"] and not record.pending


def test_where_everything_fails_the_reasons_are_told(
    faulty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = ["compare", "faulty:Raising", "--set", "cirr", "--set", "broken", "--rerank", "none"]
    assert main(["--config", str(faulty), *failing, "--limit", "2", "--sample", "2"]) == 1
    told = capsys.readouterr().err
    assert "nothing could be compared" in told and "no such luck" in told and "broken-val: left out" in told
    assert main(["--config", str(faulty), "compare", "--json"]) == 1


def test_a_comparison_that_is_stopped_keeps_the_sets_that_are_done(
    faulty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from setr_lib.pipeline import evaluating

    whole = evaluating.evaluate

    def until_circo(run: Any, key: str, *rest: Any, **named: Any) -> Any:
        if key == "circo-val":
            raise KeyboardInterrupt
        return whole(run, key, *rest, **named)

    arguments = ["--config", str(faulty), *COMPARED, *SETS, "--rerank", "none"]
    with monkeypatch.context() as stopped:
        stopped.setattr(evaluating, "evaluate", until_circo)
        assert main(arguments) == 130
    assert {row["dataset"] for row in rows(faulty, capsys)} == {"cirr"}
    assert main(["--config", str(faulty), "compare", "--markdown"]) == 0
    assert "not compared yet: circo-val" in capsys.readouterr().out
    assert main(arguments) == 0
    assert {row["dataset"] for row in rows(faulty, capsys)} == {"cirr", "circo"}


def test_a_comparison_of_few_queries_says_so(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["--config", str(compared), "compare", "--markdown"]) == 0
    assert "only the first 3 queries of each set" in capsys.readouterr().out


def test_names_that_are_not_there_are_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["slurp"], "no retrieval method 'slurp'"),
        (["sum", "--set", "circa"], "no evaluation set 'circa'"),
        (["sum", "--set", "cirr-test1"], "targets of cirr-test1 are not public"),
        (["sum", "--rerank", "intersection"], "'intersection' is to be re-ranked and is not compared"),
        (["basic"], "none of the methods can run"),
        (["all", "slurp"], "no retrieval method 'slurp'"),
        (["sum", "no_such_module:NAME"], "No module named 'no_such_module'"),
        (["sum", "setr_lib.methods.method:get_method"], "is not a retrieval method"),
        (["sum", "captions_text", "--rerank", "captions_text"], "'captions_text' searches captions"),
        (["sum", "--rerank", "none", "--rerank", "sum"], "contradict each other"),
    ):
        assert main(["--config", str(config), "compare", *arguments]) == 1
        assert words in capsys.readouterr().err


def test_two_methods_of_one_name_are_refused(config: Path) -> None:
    from setr_lib.pipeline.comparison import choose

    (config.parent / "another.py").write_text(
        "from setr_lib.methods.method import VectorMethod\n"
        'ANOTHER = VectorMethod("sum", lambda inputs: inputs.queries.modification_vectors)\n'
    )
    with pytest.raises(SetrError, match="'sum' and 'another:ANOTHER' are both called 'sum'"):
        choose(load_settings(config), ["sum", "another:ANOTHER"])


def test_without_re_rankers_no_method_can_be_re_ranked(config: Path) -> None:
    from setr_lib.pipeline.comparison import choose

    settings = load_settings(config)
    nobody = settings.reranking.model_copy(update={"rerankers": []})
    settings = settings.model_copy(update={"reranking": nobody})
    with pytest.raises(SetrError, match="rerankers is empty"):
        choose(settings, ["sum"], ["sum"])
    assert choose(settings, ["sum"]).sets


def test_a_data_set_of_hidden_targets_alone_is_refused(config: Path) -> None:
    from setr_lib.pipeline.comparison import choose

    settings = load_settings(config)
    hidden = {"cirr": settings.datasets["cirr"].model_copy(update={"splits": ["test1"]})}
    settings = settings.model_copy(update={"datasets": {**settings.datasets, **hidden}})
    with pytest.raises(SetrError, match="no split of cirr whose targets are public"):
        choose(settings, ["sum"], sets=["cirr"])


def test_captions_that_stand_in_for_images_are_compared(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = captioned(config, tmp_path, with_images=False)
    arguments = ["compare", "sum", "captions_text", "--rerank", "none", "--limit", "2", "--sample", "2"]
    assert main(["--config", str(own), *arguments]) == 0
    printed = capsys.readouterr()
    told = " ".join(printed.out.split())
    assert "captioned-val: captions and no images" in " ".join(printed.err.split())
    assert "sum: left out on captioned-val: there are captions only, and no image" in told
    assert {row["method"] for row in rows(own, capsys)} == {"captions_text", "random"}


def captioned(config: Path, folder: Path, with_images: bool) -> Path:
    """Settings of CIRR with a caption of every image, with or without the images."""
    root = config.parent / "data" / "cirr"
    if with_images:
        shutil.copytree(root, folder / "captioned")
    else:
        for name in ("captions", "image_splits"):
            shutil.copytree(root / name, folder / "captioned" / name)
    names = json.loads((root / "image_splits" / "split.rc2.val.json").read_text())
    captions = [{"candidate": name, "captions": [f"picture {name}"]} for name in names]
    (folder / "captioned" / "image_captions.json").write_text(json.dumps(captions))
    own = folder / "setr.toml"
    own.write_text(
        '[datasets.captioned]\nkind = "cirr"\nroot = "captioned"\nsplits = ["val"]\n'
        f'[models]\ndevice = "cpu"\nencoder = {{ name = "local-dir:{config.parent / "clip"}" }}\n'
        '[spaces.sentences]\nkind = "open_clip"\n'
        f'options = {{ name = "local-dir:{config.parent / "clip"}" }}\n'
    )
    return own


@pytest.mark.parametrize("with_images", [True, False])
def test_methods_over_captions_are_compared_without_one_over_vectors(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], with_images: bool
) -> None:
    own = captioned(config, tmp_path, with_images)
    methods = ["captions_text", "captions_text_dense"]
    assert main(["--config", str(own), "compare", *methods, "--limit", "2", "--sample", "2"]) == 0
    found = rows(own, capsys)
    assert {row["method"] for row in found} == {*methods, "random"}
    assert all(row["ms_per_query"] > 0 for row in found if row["method"] in methods)


def test_the_estimate_is_of_what_a_comparison_does(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = ["compare", "intersection", "--set", "cirr", "--limit", "2", "--sample", "2", "--plan"]
    assert main(["--config", str(config), *arguments]) == 0
    told = capsys.readouterr().out
    assert "re-rank: base judge" in told
    assert "re-rank: adapter" not in told, "no version of it is promoted, and none is trained"
    assert "training" not in told


def test_before_any_comparison_there_is_nothing_to_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "setr.toml"
    config.write_text("")
    assert main(["--config", str(config), "compare", "--csv"]) == 1
    assert "nothing is compared yet" in capsys.readouterr().err


def test_the_profile_names_every_method_that_can_run_on_the_miniature() -> None:
    from setr_lib.methods.method import get_method, lacking_files, method_names, ranks_captions

    repository = Path(__file__).parents[2]
    profile, demo = (load_settings(repository / name) for name in ("setr.compare.toml", "setr.toml"))
    runnable = {
        name
        for name in method_names()
        if not ranks_captions(method := get_method(name))
        and not lacking_files(method, {})
        and method.trained is None
        and method.space == "clip"
    }
    assert set(profile.coarse.strategies) == runnable
    same = {"coarse": demo.coarse, "reranking": demo.reranking}
    assert profile.model_copy(update=same) == demo, "all else is the demo's, so that what it kept serves"
