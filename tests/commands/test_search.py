"""``setr search`` of one query and of many, as tables and as JSON: over a small gallery, by stage 1 alone, so
that each cosine can be computed again here.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setr_lib.cli import main
from setr_lib.commands.console import progress_on_terminal
from setr_lib.errors import SetrError
from setr_lib.pipeline.asked_queries import (
    AskedQuery,
    FaultyRow,
    QueryFileError,
    read_asked_queries,
    reference_file,
)
from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.evaluating import prepare, read_set
from setr_lib.pixels import picture_files
from setr_lib.settings import load_settings
from setr_lib.tables import GALLERY
from tests.tiny_project import BROKEN, LONG, make_tiny_project


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_project(tmp_path_factory.mktemp("search"))


def by_hand(config: Path, reference: str, text: str) -> list[tuple[str, float]]:
    """The gallery by the cosine of ``sum``: the reference's vector and the text's, added."""
    context = pipeline_context(load_settings(config))
    space = context.models.space()
    images = context.tables.read("gallery_images", GALLERY, "mine").filter(status="ok")
    names = images["image_id"].to_list()
    pictures = picture_files(images)
    vectors = space.embed_images([pictures[name].read() for name in names]).astype(np.float64)
    query = vectors[names.index(reference)] + space.embed_texts([text])[0]
    cosines = vectors @ (query / np.linalg.norm(query))
    ranked = sorted(zip(names, cosines, strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [(name, score) for name, score in ranked if name != reference]


def search(config: Path, *arguments: str) -> int:
    return main(["--config", str(config), "search", *arguments])


def test_one_query_as_json(config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    image = config.parent / "pictures" / "2.png"
    sheet = tmp_path / "sheet.png"
    assert search(config, str(image), "darker", "--k", "3", "--json", "--output", str(sheet)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == {"image": str(image), "text": "darker"}
    assert (found["set"], found["gallery"], found["method"]) == ("mine", None, "sum")
    assert (found["reranker"], found["reranker_version"], found["order"]) == (None, None, "cosine")
    assert found["contact_sheet"] == str(sheet) and sheet.read_bytes().startswith(b"\x89PNG")
    expected = by_hand(config, "2.png", "darker")[:3]
    assert [hit["id"] for hit in found["images"]] == [name for name, _ in expected]
    for number, (hit, (name, score)) in enumerate(zip(found["images"], expected, strict=True), start=1):
        assert hit["rank"] == hit["rank_before"] == number
        assert hit["path"] == str(config.parent / "pictures" / name)
        assert hit["score"] == hit["coarse_score"] == pytest.approx(score, abs=1e-5)
        assert hit["judge_score"] is None


def test_json_draws_no_sheet_unasked_and_the_table_does(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(config.parent / "pictures" / "1.png")
    assert search(config, image, "greener", "--json", "--quiet") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["contact_sheet"] is None and printed.err == ""
    assert search(config, image, "greener") == 0
    printed = capsys.readouterr().out
    sheet = Path(printed.partition("contact sheet: ")[2].splitlines()[0])
    assert sheet.is_file()
    table = printed.partition("contact sheet")[0]
    heading, *rows = [line.split() for line in table.splitlines() if line.split()[:1] in (["rank"], ["1"])]
    assert heading == ["rank", "image", "cosine"]
    name, score = by_hand(config, "1.png", "greener")[0]
    assert rows == [["1", name, f"{score:.3f}"]]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_many_queries_are_answered_one_by_one_and_bad_rows_are_told(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, form: str
) -> None:
    pictures = config.parent / "pictures"
    (tmp_path / "own.png").write_bytes((pictures / "4.png").read_bytes())
    rows = [
        {"id": "a", "reference": str(pictures / "2.png"), "text": "darker"},
        {"id": "b", "reference": "9.png", "text": "darker"},
        {"id": "c", "reference": "3.png", "text": "greener"},
        {"id": "d", "reference": "3.png", "text": " "},
        {"id": "e", "reference": str(pictures / BROKEN[0]), "text": "darker"},
        {"id": "f", "reference": "own.png", "text": "a, comma"},
    ]
    file = tmp_path / f"wishes.{form}"
    if form == "csv":
        lines = ["id,reference,text", *(f'{row["id"]},{row["reference"]},"{row["text"]}"' for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    first = 2 if form == "csv" else 1

    assert search(config, "--queries", str(file), "--json", "--k", "2") == 1
    printed = capsys.readouterr()
    answers: list[dict[str, Any]] = [json.loads(line) for line in printed.out.splitlines()]
    assert [answer["id"] for answer in answers] == list("abcdef")
    assert [answer["line"] for answer in answers] == list(range(first, first + 6))
    assert [answer["id"] for answer in answers if "error" in answer] == ["b", "d", "e"]
    for at, reference, text in ((0, "2.png", "darker"), (2, "3.png", "greener"), (5, "4.png", "a, comma")):
        expected = by_hand(config, reference, text)[:2]
        assert [hit["id"] for hit in answers[at]["images"]] == [name for name, _ in expected]
        assert answers[at]["images"][0]["score"] == pytest.approx(expected[0][1], abs=1e-5)
    assert f"setr: {file}, line {first + 1} (b): the reference '9.png' is no file of" in printed.err
    assert f"setr: {file}, line {first + 3} (d): 'text' is empty" in printed.err
    assert f"setr: {file}, line {first + 4} (e): " in printed.err and BROKEN[0] in printed.err
    assert f"setr: 3 of 6 rows of {file} could not be searched" in printed.err


def test_queries_from_standard_input(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent / "pictures")
    rows = b'{"reference": "2.png", "text": "darker"}\n{"reference": "9.png", "text": "darker"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows)))
    assert search(config, "--queries", "-", "--json", "--k", "1") == 1
    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert first["images"][0]["id"] == by_hand(config, "2.png", "darker")[0][0] and "error" in second
    assert "setr: standard input, line 2: the reference '9.png'" in printed.err


def test_many_queries_as_tables_with_a_sheet_each(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "wishes.csv"
    file.write_text("reference;modification\n1.png;greener\n2.png;darker\n", encoding="utf-8")
    assert search(config, "--queries", str(file), "--output", str(tmp_path / "sheets"), "--k", "1") == 0
    printed = capsys.readouterr().out
    assert "line 2 · greener" in printed and "line 3 · darker" in printed
    assert sorted(path.name[:4] for path in (tmp_path / "sheets").iterdir()) == ["0002", "0003"]


def test_a_fault_that_is_not_a_row_s_ends_the_search(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "wishes.csv"
    file.write_text("reference,text\nnone.png,greener\n" + "1.png,greener\n" * 9, encoding="utf-8")
    assert search(config, "--queries", str(file), "--gallery", "nowhere", "--json") == 1
    printed = capsys.readouterr()
    (answer,) = map(json.loads, printed.out.splitlines())
    assert answer["line"] == 2 and "none.png" in answer["error"]
    assert printed.err.count("there is no gallery 'nowhere'") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--queries", "w.csv", "a.png", "red"], "--queries FILE alone"),
        (["a.png"], "IMAGE TEXT; or --queries FILE"),
        ([], "IMAGE TEXT; or --queries FILE"),
        (["a.png", "red", "--coarse-only", "--reranker", "none"], "not allowed with"),
    ],
)
def test_what_contradicts_itself_is_a_wrong_command_line(
    config: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        search(config, *arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_an_output_that_cannot_be_is_told_before_anything_is_read(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    for arguments in (["--queries", "no such file"], ["no such image.png", "red"]):
        assert search(config, *arguments, "--output", str(blocked)) == 1
        assert f"--output {blocked}" in capsys.readouterr().err
    assert blocked.read_text() == "mine"


def test_stage_1_alone_says_that_its_method_asks_the_llm_and_which_do_not(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The note comes before any model is loaded: here the multimodal LLM cannot be."""
    own = tmp_path / "setr.toml"
    text = config.read_text(encoding="utf-8").replace(
        'root = "pictures"', f'root = "{config.parent / "pictures"}"'
    )
    text = text.replace("local-dir:clip", f"local-dir:{config.parent / 'clip'}")
    text = text.replace('strategies = ["sum"]', 'strategies = ["sum", "image", "intersection"]')
    own.write_text(
        text
        + f'\n[storage]\nroot = "{config.parent / "var"}"\n[models.judge]\nname = "{tmp_path / "none"}"\n'
    )
    image = str(config.parent / "pictures" / "1.png")
    assert search(own, image, "redder", "--coarse-only", "--method", "intersection") == 1
    told = capsys.readouterr().err
    assert "method 'intersection' reads what the multimodal LLM writes" in told
    assert "--method sum, image ask it for nothing" in told
    assert search(own, image, "redder", "--coarse-only", "--method", "sum", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["target_caption"] is None and "multimodal" not in printed.err


def test_a_long_text_is_told_as_cut(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(config, str(config.parent / "pictures" / "5.png"), LONG, "--json") == 0
    assert json.loads(capsys.readouterr().out)["cut_texts"] == [LONG]


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_what_is_printed_beside_a_progress_bar_stays_on_standard_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, err = io.StringIO(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    with progress_on_terminal() as progress:
        progress(1, 2, "queries searched")
        print('{"line": 1}')
        progress(2, 2, "queries searched")
    assert out.getvalue() == '{"line": 1}\n'
    assert "queries searched" in err.getvalue()


# The file of queries.


def test_rows_are_read_with_the_line_that_they_begin_in(tmp_path: Path) -> None:
    file = tmp_path / "wishes.csv"
    file.write_text(
        'id;Image;other;Text\n1;a.png;x;"two\nlines"\n\n2;b.png;y\n;c.png;z;"a; b"\n3;d.png;z;"open',
        encoding="utf-8",
    )
    rows = read_asked_queries(file)
    assert rows[0] == AskedQuery(2, "a.png", "two\nlines", "1")
    assert isinstance(rows[1], FaultyRow) and rows[1].line == 5
    assert rows[1].reason.startswith("3 cells, fewer than the 4 columns")
    assert rows[2] == AskedQuery(6, "c.png", "a; b", None)
    assert isinstance(rows[3], FaultyRow) and rows[3].line == 7 and "not valid CSV" in rows[3].reason


def test_json_lines_are_read_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "wishes.jsonl"
    file.write_text(
        '{"reference": "a", "text": "b", "id": 7}\n\n{"reference": 3, "text": "b"}\n[1]\n{"text": "x"}\nno\n'
        '{"image": "a", "modification": "c"}\n'
    )
    first, *faulty, last = read_asked_queries(file)
    assert (first, last) == (AskedQuery(1, "a", "b", "7"), AskedQuery(7, "a", "c"))
    assert [row.line for row in faulty] == [3, 4, 5, 6]
    reasons = [row.reason for row in faulty if isinstance(row, FaultyRow)]
    assert reasons[:3] == ["'reference' is no text: 3", "no JSON object", "no 'reference'"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "which names none"),
        ("refernce,text\na,b\n", "rename 'refernce' to 'reference'"),
        ("reference\na\n", "no column 'text' or 'modification'"),
        ("reference,text\n", "no query follows"),
        ('[{"reference": "a", "text": "b"}]', "one JSON list"),
    ],
)
def test_a_file_that_is_none_of_queries_is_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "wishes.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(QueryFileError) as caught:
        read_asked_queries(file)
    assert words in str(caught.value) and str(file) in str(caught.value)


def test_a_reference_is_a_file_beside_the_queries_or_from_here_or_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder, names in ((beside, ["both.png", "beside.png"]), (here, ["both.png", "here.png"])):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    monkeypatch.chdir(here)
    paths = {"7": "/gallery/7.png", "both.png": "/gallery/both.png"}

    def found(name: str) -> Path:
        return reference_file(AskedQuery(1, name, "x"), beside, paths)

    assert found("both.png") == beside / "both.png"
    assert found("beside.png") == beside / "beside.png"
    assert found("here.png").resolve() == here / "here.png"
    assert found("7") == Path("/gallery/7.png")


@pytest.mark.parametrize("name", ["x" * 5000, f"{'y' * 300}.png", "a\0b"])
def test_a_reference_that_can_be_no_files_name_is_told_in_short(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetrError) as caught:
        reference_file(AskedQuery(1, name, "x"), tmp_path, {"7": "/gallery/7.png"})
    assert "no id of the gallery" in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))


def test_half_a_character_is_the_fault_of_its_row(tmp_path: Path) -> None:
    file = tmp_path / "wishes.jsonl"
    file.write_text('{"reference": "a", "text": "\\ud800 red"}\n{"reference": "a", "text": "red"}\n')
    first, second = read_asked_queries(file)
    assert isinstance(first, FaultyRow) and "'text' holds half a character" in first.reason
    assert second == AskedQuery(2, "a", "red")


def test_a_text_of_the_command_line_that_is_no_utf_8_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(config.parent / "pictures" / "2.png")
    assert search(config, image, os.fsdecode(b"red \xff")) == 1
    assert "the modification text is no UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sheet", "sheet.bmpx", "sheet.txt"])
def test_a_sheet_that_is_no_picture_by_its_name_is_refused_before_the_search(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    image = str(config.parent / "pictures" / "2.png")
    assert search(config, image, "darker", "--output", str(tmp_path / name)) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"setr: --output {tmp_path / name}: ") and "write .png" in printed.err
    assert printed.out == "" and not (tmp_path / name).exists()


def test_a_gallery_of_nothing_but_the_reference_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_tiny_project(tmp_path)
    pictures = config.parent / "pictures"
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in ("a.png", "b.png"):
        (copies / name).write_bytes((pictures / "2.png").read_bytes())
    text = config.read_text(encoding="utf-8") + '\n[datasets.copies]\nkind = "folder"\nroot = "copies"\n'
    config.write_text(text, encoding="utf-8")
    context = pipeline_context(load_settings(config))
    read_set(context, "copies")
    prepare(context, "copies")
    image = str(copies / "a.png")
    assert search(config, image, "darker", "--dataset", "copies", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] == []
    assert "nothing is found: no picture of copies but the reference itself" in printed.err
