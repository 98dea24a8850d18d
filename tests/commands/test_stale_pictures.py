"""A picture that is replaced after its gallery was made: ``setr search`` says it, and no result of the other
one stays; ``setr cache check`` finds what is wrong among the kept results.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from setr_lib.cli import main
from setr_lib.content_cache import ContentCache
from setr_lib.datasets import evaluation_set
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.evaluating import prepare, rank, read_set
from setr_lib.pipeline.held_gallery import HeldGallery
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.pipeline.retriever import Retriever
from setr_lib.settings import Settings, load_settings
from setr_lib.tables import GALLERY
from tests.tiny_encoder import write_tiny_clip
from tests.tiny_judges import tiny_picture, write_tiny_judge

SETTINGS = """
[datasets.mine]
kind = "folder"
root = "pictures"

[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"

[models.judge]
name = "judge"
max_new_tokens = 4

[coarse]
strategies = ["intersection"]
top_k = 6

[reranking]
rerankers = ["base judge"]
top_k = 6
fusion = "judge"

[evaluation]
baselines = []
"""
CHANGED = "changed since gallery_images was made"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``setr.toml`` and a gallery of seven pictures, searched by two queries through both
    stages.
    """
    folder = tmp_path_factory.mktemp("project")
    (folder / "pictures").mkdir()
    for number in range(7):
        (folder / "pictures" / f"{number}.png").write_bytes(tiny_picture(number))
    (folder / "pictures" / "queries.csv").write_text(
        "reference,modification,target\n0.png,red,1.png\n1.png,blue,2.png\n"
    )
    (folder / "setr.toml").write_text(SETTINGS, encoding="utf-8")
    write_tiny_clip(folder / "clip")
    write_tiny_judge("llava", folder / "judge")
    settings = load_settings(folder / "setr.toml")
    context = PipelineContext(settings)
    read_set(context, "mine")
    prepare(context, "mine")
    rank(context, "mine")
    RerankingRun(context, {}).rerank("mine")
    yield folder


@pytest.fixture
def settings(project: Path) -> Settings:
    return load_settings(project / "setr.toml")


@pytest.fixture
def replaced(project: Path) -> Iterator[Path]:
    """A file of the gallery that is another picture during a test."""
    file = project / "pictures" / "3.png"
    content = file.read_bytes()
    yield file
    file.write_bytes(content)


def searched(settings: Settings, text: str) -> dict[str, float | None]:
    """The scores of a search in models that have seen nothing yet."""
    context = PipelineContext(settings)
    images = context.tables.read("gallery_images", GALLERY, "mine")
    retriever = Retriever(HeldGallery(context, evaluation_set(settings, "mine"), images))
    found = retriever.search(settings.base_dir / "pictures" / "0.png", text, k=6)
    return {hit.image_id: hit.judge_score for hit in found}


def test_no_score_of_a_picture_that_was_there_for_a_while_stays(
    settings: Settings, replaced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = replaced.read_bytes()
    replaced.write_bytes(tiny_picture(40))
    meanwhile = searched(settings, "a text of this test")
    assert meanwhile["3.png"] is None and list(meanwhile)[-1] == "3.png", "not scored, and last"
    replaced.write_bytes(content)
    found = searched(settings, "a text of this test")
    empty = tmp_path / "empty.sqlite"
    monkeypatch.setattr(PipelineContext, "cache", lambda _, kind: ContentCache(empty, kind))
    truth = searched(settings, "a text of this test")
    assert found["3.png"] == pytest.approx(truth["3.png"], abs=1e-4)


def search(project: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    arguments = ["--config", str(project / "setr.toml"), "search", str(project / "pictures" / "0.png"), "red"]
    assert main([*arguments, "--k", "3", *options]) == 0
    return capsys.readouterr().err


def test_a_search_says_in_one_line_that_its_gallery_is_stale(
    project: Path, replaced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "stale" not in search(project, capsys)
    replaced.write_bytes(tiny_picture(40))
    for options in ((), ("--reranker", "none")):
        (line,) = [line for line in search(project, capsys, *options).splitlines() if "stale" in line]
        assert line.startswith(
            "setr: warning: the gallery of mine is stale: 1 of 6 candidates are not the pictures"
        )
        assert f"3.png ({CHANGED})" in line
        assert line.endswith(" run mine --until gallery_embeddings`")
    replaced.unlink()
    assert "3.png (there is no such file)" in search(project, capsys)


def test_a_search_says_that_vectors_are_of_another_table_of_images(
    project: Path, settings: Settings, replaced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context, content = PipelineContext(settings), replaced.read_bytes()
    replaced.write_bytes(tiny_picture(40))
    read_set(context, "mine")
    try:
        (line,) = [line for line in search(project, capsys).splitlines() if "stale" in line]
        assert "1 of 6 candidates" in line and "3.png (gallery_images was made again" in line
    finally:
        replaced.write_bytes(content)
        read_set(context, "mine")
    assert "stale" not in search(project, capsys)


def test_a_search_reads_its_image_as_the_data_set_is_read(
    settings: Settings, project: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(project / "pictures" / "5.png") as picture:
        picture.convert("RGB").rotate(90, expand=True).save(tmp_path / "lying.png", exif=exif)
    retriever = Retriever.from_evaluation_set("mine", settings)
    (found,) = retriever.search(tmp_path / "lying.png", "red", k=1, method="image", reranker=None)
    assert (found.image_id, found.score) == ("5.png", pytest.approx(1, abs=1e-5))


def check(project: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    status = main(["--config", str(project / "setr.toml"), "cache", "check", *options])
    return status, capsys.readouterr().out


def changed(settings: Settings, statement: str, *values: object) -> None:
    connection = sqlite3.connect(settings.cache_path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.fixture
def kept(settings: Settings) -> Iterator[Path]:
    """The cache, as it was after a test."""
    connection = sqlite3.connect(settings.cache_path)
    before = connection.serialize()
    connection.close()
    yield settings.cache_path
    for name in ("", "-wal", "-shm"):
        settings.cache_path.with_name(settings.cache_path.name + name).unlink(missing_ok=True)
    settings.cache_path.write_bytes(before)


class TestCacheCheck:
    def test_of_a_sound_cache(self, project: Path, capsys: pytest.CaptureFixture[str], kept: Path) -> None:
        status, page = check(project, capsys)
        assert status == 0
        assert re.search(r"judge_scores: \d+ entries, 0 at fault$", page, re.MULTILINE)
        assert re.search(r"composing: \d+ entries, 0 at fault$", page, re.MULTILINE)

    def test_of_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "setr.toml").write_text("")
        status, page = check(tmp_path, capsys)
        assert status == 0 and "nothing is kept yet" in page
        assert not (tmp_path / "var").exists(), "looking makes nothing"

    @pytest.mark.parametrize(
        ("kind", "column", "value", "words"),
        [
            ("judge_scores", "value", "nan", "its score is not finite"),
            ("judge_scores", "value", "yes", "its score is not a number"),
            ("judge_scores", "value", b"\xff", "its text is not UTF-8"),
            ("judge_scores", "key", "abc", "its key is no digest"),
            ("composing", "value", b"\xff\xfe", "its text is not UTF-8"),
            ("composing", "value", "a\0b", "its text holds a null character"),
            ("composing", "made_at", "today", "it does not say when it was made"),
        ],
    )
    def test_names_what_is_at_fault_and_deletes_it(
        self,
        project: Path,
        settings: Settings,
        kept: Path,
        capsys: pytest.CaptureFixture[str],
        kind: str,
        column: str,
        value: object,
        words: str,
    ) -> None:
        changed(
            settings, f"UPDATE {kind} SET {column} = ? WHERE rowid = (SELECT MIN(rowid) FROM {kind})", value
        )
        status, page = check(project, capsys)
        assert status == 1 and words in page and "1 entries are at fault" in page
        status, page = check(project, capsys, "--drop")
        assert status == 0 and "1 entries deleted" in page
        assert check(project, capsys)[0] == 0

    def test_counts_the_keys_of_earlier_versions(
        self, project: Path, settings: Settings, kept: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        changed(settings, "ALTER TABLE judge_scores DROP COLUMN key_version")
        count = len(sqlite3.connect(kept).execute("SELECT key FROM judge_scores").fetchall())
        words = f"judge_scores: {count} entries, 0 at fault; {count} with keys of an earlier version"
        assert words in check(project, capsys)[1]
        ContentCache(kept, "judge_scores").put_numbers({"0" * 32: 1.0})
        status, page = check(project, capsys)
        assert status == 0 and f"{count + 1} entries, 0 at fault; {count} with keys of an earlier" in page

    def test_of_a_file_that_is_no_database(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "setr.toml").write_text("")
        path = load_settings(tmp_path / "setr.toml").cache_path
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no database at all" * 100)
        assert main(["--config", str(tmp_path / "setr.toml"), "cache", "check"]) == 1
        assert f"{path}: is not a readable cache of model calls" in capsys.readouterr().err

    def test_a_sample_comes_out_as_it_was(
        self, project: Path, kept: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, page = check(project, capsys, "--sample", "1000")
        # 2 queries of 5 or 6 candidates, 2 captions, 2 compositions
        found = re.search(
            r"(\d+) of (\d+) entries that can be computed again were: 0 came out otherwise", page
        )
        assert status == 0 and found is not None
        assert found[1] == found[2] and int(found[1]) >= 12
        assert "3 of " in check(project, capsys, "--sample", "3")[1]

    def test_a_sample_finds_a_score_and_a_text_that_were_made_of_something_else(
        self, project: Path, settings: Settings, kept: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        changed(settings, "UPDATE judge_scores SET value = '99.5'")
        changed(settings, "UPDATE composing SET value = 'another answer'")
        status, page = check(project, capsys, "--sample", "1000")
        assert status == 1
        assert re.search(r"base judge: query \d, image \d\.png: the kept score is 99\.5, now -?\d", page)
        assert check(project, capsys)[0] == 0, "their form is right"

    def test_a_sample_leaves_out_pictures_that_have_changed(
        self, project: Path, kept: Path, replaced: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        replaced.write_bytes(tiny_picture(40))
        status, page = check(project, capsys, "--sample", "1000")
        assert status == 0 and re.search(
            r"\d could not be: their pictures cannot be read, or have changed", page
        )
