"""Every file that docs/extending.md shows is run (that of a trained space in
``tests/assets/test_trained_parts.py``): its methods, text, re-rankers and benchmark reach the
leaderboard, page and commands.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from setr_assets.jobs import EVALUATION
from setr_lib.cli import main
from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.evaluation import assess
from setr_lib.records import CoarseRecord, EmbeddingsRecord, RerankedRecord
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import RANKINGS

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "extending.md"
OWN = ("photo_of", "leaning_sum", "intersection_elsewhere", "headline", "by_colour", "mapped_text")
RERANKED, RERANKERS = ("intersection", "photo_of"), ("base judge", "same colours", "my question")
RUN = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {assets!r}]
from tiny_world import run_job
from setr_lib.settings import load_settings
run = run_job(load_settings(Path("setr.toml")), {job!r}, {keys!r})
assert run.failures == {{}}, run.failures
plots = run.metadata["evaluation_report", "wishes-dev"]
assert all(f"R@1 {{name}}" in plots for name in ("photo_of", "photo_of · same colours")), plots
"""


def shown_files() -> dict[str, str]:
    """The Python files that the page shows, by name."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A world whose settings name what the page shows, evaluated once in a process that knows only its
    folder.
    """
    from tests.assets.tiny_world import write_world

    folder = tmp_path_factory.mktemp("world")
    path = write_world(folder)
    for name, text in shown_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    strategies = [
        "sum",
        "intersection",
        "my_methods:PhotoOf",
        "my_vector:LEANING",
        "my_filter:AWAY",
        "my_texts:ByHeadline",
        "my_space:ByColour",
        "my_encoder:MappedText",
    ]
    np.save(folder / "my_encoder.npy", np.eye(16))
    text = path.read_text(encoding="utf-8").replace(
        "[coarse]", f"[coarse]\nstrategies = {json.dumps(strategies)}"
    )
    reranking = {
        "top_k": 6,
        "fusion": "cosine_judge",
        "methods": ["intersection", "my_methods:PhotoOf"],
        "rerankers": ["base judge", "adapter", "my_reranker:SameColours", "my_judge:Question"],
    }
    keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in reranking.items())
    text = text.replace("[reranking]\ntop_k = 6", f"[reranking]\n{keys}")
    text += '\n[spaces.colours]\nkind = "my_space:Colours"\noptions = { bins = 4 }\n'
    text += "\n[methods.leaning_sum]\ntext_share = 0.8\n"
    text += '\n[datasets.wishes]\nkind = "my_benchmark:Wishes"\nroot = "wishes"\n'
    path.write_text(text, encoding="utf-8")
    write_wishes(folder)
    code = RUN.format(
        tests=str(REPOSITORY / "tests"),
        assets=str(REPOSITORY / "tests" / "assets"),
        job=EVALUATION,
        keys=["circo-val", "wishes-dev", "wishes-test"],
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return load_settings(path)


def write_wishes(folder: Path) -> None:
    """A few images of the drawn world, and wishes about them."""
    pictures = sorted((folder / "data" / "circo").rglob("*.jpg"))[:6]
    (folder / "wishes").mkdir()
    for picture in pictures:
        (folder / "wishes" / picture.name).write_bytes(picture.read_bytes())
    names = [picture.name for picture in pictures]
    rows = [{"reference": names[n], "text": f"make it number {n}", "target": names[n + 1]} for n in range(4)]
    for split, wanted in (("dev", rows), ("test", rows[:2])):
        lines = "\n".join(json.dumps(row) for row in wanted)
        (folder / "wishes" / f"{split}.jsonl").write_text(lines + "\n", encoding="utf-8")


def test_every_class_of_the_page_is_short() -> None:
    files = shown_files()
    methods = {"my_methods.py", "my_vector.py", "my_filter.py", "my_encoder.py"}
    rerankers = {"my_reranker.py", "my_judge.py"}
    spaces = {"my_space.py", "my_trained_space.py"}
    assert files.keys() == {*methods, *rerankers, *spaces, "my_texts.py", "my_benchmark.py"}
    assert all(len(text.splitlines()) <= 45 for text in files.values())


@pytest.mark.parametrize("key", ["circo-val", "wishes-dev", "wishes-test"])
def test_methods_of_ones_own_reach_the_report_and_the_leaderboard(settings: Settings, key: str) -> None:
    rows = pl.read_parquet(settings.table_path("evaluation_report", key))
    assert {*OWN, "sum", "intersection", "random"} == set(rows["method"])
    every = {(method, reranker) for method in RERANKED for reranker in RERANKERS}
    pairs = set(rows.filter(pl.col("reranker") != "").select("method", "reranker").unique().iter_rows())
    assert pairs == every, "no adapter was promoted, so it is left out"
    page = (settings.report_root / key / "index.html").read_text(encoding="utf-8")
    assert all(name.split("_")[-1] in page for name in OWN)
    board = pl.read_parquet(settings.table_path("leaderboard"))
    assert {*OWN} <= set(board["method"]) and {*RERANKERS} <= set(board["reranker"])


def test_a_re_ranker_of_ones_own_orders_candidates_and_is_compared(settings: Settings) -> None:
    context = pipeline_context(settings)
    record = context.tables.read_record("reranked_rankings", RerankedRecord, "wishes-dev")
    fusions = {row.reranker: row.fusion for row in record.rows}
    assert fusions["base judge"] == "cosine_judge, w = 1 (by the settings)"
    assert fusions["same colours"].startswith(
        "reciprocal_rank (by the settings; not cosine_judge: the scores of"
    )
    page = (settings.report_root / "wishes-dev" / "index.html").read_text(encoding="utf-8")
    assert "are not the log-odds of a Yes" in page and "photo_of · same colours" in page
    made = context.tables.read(
        context.tables.reranked("wishes-dev", Row("photo_of", "same colours")), RANKINGS
    )
    scored = made.drop_nulls("judge_score")
    assert scored.height and scored["judge_score"].is_between(0, 1).all()
    compared = {(c.a, c.b) for c in assess(context, "wishes-dev").comparisons}
    colours = "photo_of · same colours"
    assert {(colours, "photo_of"), (colours, "photo_of · base judge")} <= compared
    assert not any(a.startswith("photo_of ·") and b.startswith("intersection") for a, b in compared)


def test_a_benchmark_of_ones_own_has_its_own_metrics(settings: Settings) -> None:
    rows = pl.read_parquet(settings.table_path("evaluation_report", "wishes-dev"))
    assert rows["metric"].unique(maintain_order=True).to_list() == ["R@1", "R@10"]
    assert set(rows.filter(metric="R@10", method="sum")["value"]) == {100.0}, (
        "six images, all among the first ten"
    )


def test_splits_that_share_a_gallery_share_its_vectors(settings: Settings) -> None:
    tables = PipelineContext(settings).tables
    dev, test = (
        tables.read_record("gallery_embeddings", EmbeddingsRecord, f"wishes-{split}")
        for split in ("dev", "test")
    )
    assert (dev.table, dev.version) == (test.table, test.version)
    queries = {
        split: pl.read_parquet(settings.table_path("queries", f"wishes-{split}")).height
        for split in ("dev", "test")
    }
    assert queries == {"dev": 4, "test": 2}


def test_texts_of_a_method_are_a_table_with_counted_failures(settings: Settings) -> None:
    path = settings.storage_root / "tables" / "method_texts" / "wishes-dev" / "headlines.parquet"
    texts = pl.read_parquet(path)
    assert texts.height == 4 and set(texts["status"]) <= {"ok", "fallback"}
    fallen = texts.filter(status="fallback")
    assert all(text.startswith("make it number") for text in fallen["headline"])


def test_a_space_of_ones_own_has_a_table_for_each_gallery(settings: Settings) -> None:
    context = PipelineContext(settings)
    for key in ("circo-val", "wishes-dev"):
        record = context.tables.read_record("gallery_embeddings", EmbeddingsRecord, key)
        colours = record.vectors(key, "colours")
        assert (colours.encoder, colours.table) != (record.encoder, record.table)
        ids, vectors = context.gallery_store.read(colours.table, colours.version)
        assert vectors.shape == (record.rows, 64) and len(ids) == record.rows
        ranked = context.tables.read_record(context.tables.coarse(key, "by_colour"), CoarseRecord)
        assert (ranked.space, ranked.table) == ("colours", colours.table)
        assert context.tables.read_record(context.tables.coarse(key, "sum"), CoarseRecord).space is None


def test_a_query_with_a_colour_finds_it(settings: Settings) -> None:
    """The method sees the reference's pixels and the text: both are in its first answers."""
    context = PipelineContext(settings)
    colours = context.models.space("colours")
    black, red = (Image.new("RGB", (8, 8), colour) for colour in ("black", "red"))
    (query,) = colours.embed_queries([black], ["make it RED"])
    assert query @ colours.embed_images([red])[0] == pytest.approx(0.5**0.5, abs=1e-6)


def test_search_takes_a_method_of_ones_own(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    image = next((settings.base_dir / "wishes").glob("*.jpg"))
    config = ["--config", str(settings.base_dir / "setr.toml")]
    for method in ("photo_of", "leaning_sum", "my_texts:ByHeadline", "by_colour"):
        arguments = [
            "search",
            str(image),
            "make it red",
            "--dataset",
            "wishes",
            "--k",
            "3",
            "--method",
            method,
        ]
        assert main([*config, *arguments]) == 0
        assert "base judge" in capsys.readouterr().out


def test_a_plan_counts_and_times_every_space(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "plan", "--sample", "2"]) == 0
    page = capsys.readouterr().out
    counted = re.search(r"images to embed in colours: ([\d,]+)", page)
    assert counted is not None and f"images to embed in clip: {counted[1]}" in page
    assert "embed the galleries (colours)" in page and "embed the training images" in page
    assert "embed the training images (colours)" not in page, "only the default method is calibrated"


def test_search_and_submit_and_score_take_a_re_ranker_of_ones_own(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ["--config", str(settings.base_dir / "setr.toml")]
    image = next((settings.base_dir / "wishes").glob("*.jpg"))
    search = ["search", str(image), "make it red", "--dataset", "wishes", "--k", "3"]
    for name in ("same colours", "same-colours", "my_reranker:SameColours"):
        assert main([*config, *search, "--reranker", name]) == 0
        printed = capsys.readouterr().out
        assert "wishes-dev · intersection · same colours\n" in printed and "re-ranker" in printed
    for name in ("none", "coarse"):
        assert main([*config, *search[:-1], "7", "--method", "photo_of", "--reranker", name]) == 0
        printed = capsys.readouterr().out
        assert "wishes-dev · photo_of · stage 1 alone\n" in printed and "judge" not in printed
        assert f"{image.stem}-make-it-red-photo-of-none.png" in "".join(printed.split())
    assert main([*config, *search, "--reranker", "adapter"]) == 1
    assert "nothing was promoted" in capsys.readouterr().err
    submit = ["submit", "circo", "--split", "val", "--method", "photo_of", "--reranker", "same colours"]
    assert main([*config, *submit, "--output", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    assert file.name == "circo-val-photo_of-same-colours.json"
    capsys.readouterr()
    assert main([*config, "score", "circo", "--split", "val", str(file), "--json"]) == 0
    scored = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    rows = pl.read_parquet(settings.table_path("evaluation_report", "circo-val"))
    reported = rows.filter(method="photo_of", reranker="same colours", metric="mAP@5")["value"].item()
    assert scored["mAP@5"] == pytest.approx(reported)


def test_score_takes_a_benchmark_of_ones_own(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rankings = {
        str(number): [path.name]
        for number, path in enumerate(sorted((settings.base_dir / "wishes").glob("*.jpg"))[1:5])
    }
    (tmp_path / "mine.json").write_text(json.dumps(rankings), encoding="utf-8")
    config = ["--config", str(settings.base_dir / "setr.toml")]
    assert main([*config, "score", "wishes", "--split", "dev", str(tmp_path / "mine.json"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["metric"]: row["value"] for row in rows}["R@1"] == 100.0
