"""What went wrong with single images, queries and texts is told where scores are, and listed whole by
``setr faults``: a small folder with broken pictures and a text that the encoder cuts.
"""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.methods.inputs import TextVectors
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.evaluating import read_set
from setr_lib.pipeline.faults import fault_lines, faults_of
from setr_lib.settings import load_settings
from setr_lib.tables import COMPOSITIONS
from tests.tiny_project import BROKEN, LONG, make_tiny_project

CUT = "1 text cut at the context of the text encoder: a red dress with very very"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_project(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def context(config: Path) -> PipelineContext:
    return pipeline_context(load_settings(config))


def test_a_line_for_each_kind_has_the_first_three_and_the_command_for_the_rest(
    context: PipelineContext,
) -> None:
    lines = fault_lines(context, "mine")
    broken = next(line for line in lines if "broken" in line)
    assert broken.startswith(f"5 gallery images broken: {BROKEN[0]} (")
    assert BROKEN[2] in broken and BROKEN[3] not in broken
    assert broken.endswith(", ...; all: setr faults mine")
    (cut,) = (line for line in lines if "cut" in line)
    assert cut.startswith(CUT) and "setr faults" not in cut
    (without,) = (line for line in lines if "has no vector" in line)
    assert without.startswith("1 query whose reference image has no vector: ")


def test_the_leaderboard_s_foot_tells_them(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "leaderboard"]) == 0
    printed = capsys.readouterr().out
    assert f"mine: 5 gallery images broken: {BROKEN[0]}" in printed and f"mine: {CUT}" in printed


def test_the_report_tells_them(config: Path) -> None:
    page = (load_settings(config).report_root / "mine" / "index.html").read_text(encoding="utf-8")
    assert CUT in page and BROKEN[4] in page


def test_the_command_lists_all(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "faults", "mine"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}: " in printed for name in BROKEN) and LONG in printed
    assert f"[{config.parent / 'pictures' / BROKEN[4]}]" in printed and "[query 0, " in printed
    assert main(["--config", str(config), "faults", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["item"] for row in rows if row["kind"] == "gallery images broken"} == set(BROKEN)
    assert all(row["set"] == "mine" for row in rows)
    broken = next(row for row in rows if row["item"] == BROKEN[4])
    assert broken["file"] == str(config.parent / "pictures" / BROKEN[4]) and broken["row"] is None
    (cut,) = (row for row in rows if "cut" in row["kind"])
    assert (cut["item"], cut["queries"], cut["row"]) == (LONG, ["0"], 1)
    assert cut["file"] == str(config.parent / "pictures" / "0.png")
    (without,) = (row for row in rows if "has no vector" in row["kind"])
    assert (without["queries"], without["row"]) == (["2"], 3)


def test_a_row_that_cannot_be_used_is_a_fault_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    (pictures / "queries.csv").write_text("reference,modification\na.png,darker\nb.png,lighter\n")
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.mine]\nkind = "folder"\nroot = "pictures"\n')
    assert main(["--config", str(config), "faults", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["file"] == str(pictures / "queries.csv") and row["row"] == "line 3"
    assert "unknown image 'b.png'" in row["detail"]


def test_a_search_tells_what_it_could_not_look_at(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = str(config.parent / "pictures" / "5.png")
    assert main(["--config", str(config), "search", image, LONG, "--k", "2"]) == 0
    printed = capsys.readouterr().out
    assert f"5 gallery images broken: {BROKEN[0]}" in printed
    assert "cut at the context of the text encoder, its end was not read: a red dress" in printed
    assert main(["--config", str(config), "search", image, "darker", "--k", "2"]) == 0
    assert "was not read" not in capsys.readouterr().out


def test_a_comparison_tells_them(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "sum", "--set", "mine", "--sample", "1"]
    assert main(["--config", str(config), *arguments]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"mine: 5 gallery images broken: {BROKEN[0]}" in printed and CUT in printed
    assert "mine: a small set, 3 queries" in printed
    assert main(["--config", str(config), "compare", "--markdown"]) == 0
    assert "setr faults mine" in capsys.readouterr().out


def test_texts_that_are_no_good_answer_are_among_them(context: PipelineContext) -> None:
    table = pl.DataFrame(
        {
            **{name: [[], []] for name in ("keep", "add", "remove", "drop")},
            "query_id": ["7", "8"],
            "target_caption": ["red", "blue"],
            "status": ["fallback", "ok"],
            "detail": ["no JSON", ""],
            "model": ["m", "m"],
            "prompt_hash": ["h", "h"],
        },
        schema=COMPOSITIONS,
    )
    before = context.tables.read("query_compositions", COMPOSITIONS, "mine")
    try:
        context.tables.write("query_compositions", table, COMPOSITIONS, "mine")
        found = faults_of(context, "mine").filter(kind="compositions replaced")
    finally:
        context.tables.write("query_compositions", before, COMPOSITIONS, "mine")
    assert found.select("item", "detail").rows() == [("7", "no JSON")]


class Counting:
    """A text encoder that reads five characters, and says how often it was asked to count."""

    dimension = 2
    asked = 0

    def embed_texts(self, texts):
        import numpy as np

        return np.ones((len(texts), 2), dtype=np.float32)

    def count_truncated(self, texts):
        self.asked += 1
        return sum(len(text) > 5 for text in texts)


def test_the_texts_that_are_cut_are_known_one_by_one() -> None:
    texts = [f"{number}" * (9 if number in (3, 4, 40) else 1) for number in range(64)]
    encoder = Counting()
    vectors = TextVectors(encoder)
    vectors(texts)
    assert vectors.cut == [text for text in texts if len(text) > 5] and vectors.truncated == len(vectors.cut)
    assert encoder.asked < 40, "halves are counted, not every text"
    vectors(["short", *texts])
    assert len(vectors.cut) == vectors.truncated == 3


def test_queries_whose_targets_are_all_broken_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_tiny_project(tmp_path)
    lines = ["reference,modification,targets", f"0.png,a,{BROKEN[0]}", f"1.png,b,{BROKEN[0]}|{BROKEN[1]}"]
    lines += [f"2.png,c,{BROKEN[0]}|3.png", "4.png,d,"]
    (tmp_path / "pictures/queries.csv").write_text("\n".join(lines), encoding="utf-8")
    read_set(pipeline_context(load_settings(config)), "mine")
    assert main(["--config", str(config), "faults", "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out) if "target" in row["kind"]]
    assert [(row["item"], row["detail"], row["row"]) for row in rows] == [
        ("0", BROKEN[0], 1),
        ("1", f"{BROKEN[0]}, {BROKEN[1]}", 2),
    ], "one target that can be read is enough, and none is no fault"
