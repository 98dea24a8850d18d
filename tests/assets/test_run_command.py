"""``setr run`` and ``setr status`` on folders of pictures, for real: small pictures, tiny models of real
architectures, the persistent Dagster instance of the project.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from setr_assets.graph import build_definitions
from setr_assets.jobs import EVALUATION
from setr_lib.cli import main
from setr_lib.commands.env import environment
from setr_lib.settings import Settings, load_settings
from tests.tiny_encoder import write_tiny_clip
from tests.tiny_judges import tiny_picture, write_tiny_judge

SETTINGS = """
[datasets.mine]
kind = "folder"
root = "mine"

[datasets.album]
kind = "folder"
root = "album"

[datasets.more]
kind = "folder"
root = "more"

[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"

[models.judge]
name = "judge"
max_new_tokens = 4

[coarse]
top_k = 4

[reranking]
top_k = 2

[evaluation]
bootstrap_samples = 100
contact_sheet_queries = 1
"""
QUERIES = "reference,modification,targets\n0.png,make it red,1.png\n2.png,is striped,3.png\n"
Output = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Done:
    """What a command gave."""

    status: int
    out: str
    err: str


Setr = Callable[..., Done]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of two folders with queries and one without; no variable of Dagster or MLflow is set."""
    folder = tmp_path_factory.mktemp("project")
    for number, name in enumerate(("mine", "album", "more")):
        (folder / name).mkdir()
        for picture in range(5):
            (folder / name / f"{picture}.png").write_bytes(tiny_picture(10 * number + picture))
    for name in ("mine", "more"):
        (folder / name / "queries.csv").write_text(QUERIES, encoding="utf-8")
    (folder / "setr.toml").write_text(SETTINGS, encoding="utf-8")
    write_tiny_clip(folder / "clip")
    write_tiny_judge("llava", folder / "judge")
    with pytest.MonkeyPatch.context() as patch:
        for name in environment(Settings(base_dir=folder)):
            patch.setenv(name, "")  # so that what a run sets is taken back after these tests
            del os.environ[name]
        yield folder


@pytest.fixture
def setr(folder: Path, capsys: Output) -> Setr:
    """The command, on the project."""

    def call(*arguments: str) -> Done:
        status = main(["--config", str(folder / "setr.toml"), *arguments])
        printed = capsys.readouterr()
        return Done(status, printed.out, printed.err)

    return call


def status_of(setr: Setr) -> dict[str, Any]:
    done = setr("status", "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)


def states(status: dict[str, Any]) -> dict[str, str]:
    return {each["set"]: each["state"] for each in status["sets"]}


def test_before_any_run_everything_is_missing_and_nothing_is_written(setr: Setr, folder: Path) -> None:
    status = status_of(setr)
    assert states(status) == {"mine": "missing", "album": "missing", "more": "missing"}
    assert status["last_run"] is None and status["champions"] == {}
    assert status["next"].endswith(" run")
    assert not (folder / "dagster_home").exists() and not (folder / "var").exists()


def test_a_run_makes_all_of_the_set_that_is_named_and_says_what_comes_next(setr: Setr, folder: Path) -> None:
    done = setr("run", "mine")
    assert done.status == 0, done.out + done.err
    assert f"wrote {folder / '.env'}" in done.err
    assert "left out, for the settings have no [training]: training_images" in done.err
    assert "step 1 of 10: queries ..." in done.err and "step 10 of 10: leaderboard ..." in done.err
    assert "no adapter, for the settings have no [training]: only the base judge re-ranks" in done.err
    assert "WARNING left out" not in done.err, "nobody has asked for an adapter"
    assert "step " not in done.out
    assert "base judge" in done.out and "more" not in done.out
    page = folder / "var" / "reports" / "mine" / "index.html"
    shown = page.read_text(encoding="utf-8")
    assert str(page) in done.out and ("make it red" in shown or "is striped" in shown)
    assert 'search IMAGE "TEXT" --dataset mine' in done.out
    with dg.DagsterInstance.from_config(str(folder / "dagster_home")) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags["setr/sets"] == "mine"
    status = status_of(setr)
    assert states(status) == {"mine": "current", "album": "missing", "more": "missing"}
    assert status["last_run"]["status"] == "success" and status["last_run"]["sets"] == ["mine"]
    assert status["next"].endswith(" run album more")


def test_a_second_run_finds_its_work_done_and_prints_the_scores_alone_where_it_is_to_be_quiet(
    setr: Setr, folder: Path
) -> None:
    done = setr("run", "mine", "--quiet")
    assert done.status == 0 and done.err == ""
    assert "base judge" in done.out and "step " not in done.out and "finished" not in done.out
    with dg.DagsterInstance.from_config(str(folder / "dagster_home")) as instance:
        for asset, counted in (
            ("gallery_embeddings", "embedded"),
            ("reranked_rankings", "base judge: judged now"),
        ):
            first, second = (
                record.asset_materialization
                for record in reversed(instance.fetch_materializations(dg.AssetKey(asset), limit=2).records)
            )
            assert first is not None and second is not None
            assert first.metadata[counted].value and second.metadata[counted].value == 0


def test_until_stops_after_a_step_and_a_gallery_without_queries_can_be_searched(
    setr: Setr, folder: Path
) -> None:
    done = setr("run", "album", "--until", "gallery_embeddings")
    assert done.status == 0, done.out + done.err
    assert "step 2 of 2: gallery_embeddings ..." in done.err
    assert "album has no queries" in done.err
    found = setr("search", str(folder / "album" / "0.png"), "make it red", "--dataset", "album", "--k", "2")
    assert found.status == 0, found.err
    assert states(status_of(setr))["album"] == "current"
    told = setr("leaderboard", "--dataset", "album").err
    assert "there are no queries in album" in told and "materialize" not in told


def test_a_trial_is_called_one_and_all_queries_come_next(setr: Setr, folder: Path) -> None:
    assert setr("run", "mine", "--until", "queries", "--limit", "1").status == 0
    lines = setr("status").out.splitlines()
    assert "          queries: made by a trial on 1 query of each set" in lines
    assert lines[-1].endswith("all queries: the last run was a trial on 1 query of each set")
    assert setr("run", "album", "--limit", "1").status == 0
    assert status_of(setr)["last_run"]["limit"] is None, "it has no queries that could have been left out"
    assert setr("run", "mine", "--until", "queries").status == 0
    assert states(status_of(setr))["mine"] == "current"


def test_dagsters_own_evaluation_passes_over_a_gallery_without_queries(folder: Path) -> None:
    job = build_definitions(load_settings(folder / "setr.toml")).resolve_job_def(EVALUATION)
    with dg.DagsterInstance.ephemeral() as instance:
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        done = job.execute_in_process(instance=instance, partition_key="album", run_config=quiet)
    assert done.success
    assert not (folder / "var" / "tables" / "evaluation_report" / "album.parquet").exists()


def test_all_sets_are_run_in_two_runs_and_those_without_queries_are_embedded(
    setr: Setr, folder: Path
) -> None:
    done = setr("run")
    assert done.status == 0, done.out + done.err
    assert "step 20 of 20: leaderboard" not in done.err  # what is no set's is made once
    assert not (folder / "var" / "tables" / "coarse_rankings" / "album").exists()
    board = pl.read_parquet(folder / "var" / "tables" / "leaderboard.parquet")
    assert set(board["dataset"]) == {"mine", "more"}
    status = status_of(setr)
    assert set(states(status).values()) == {"current"}
    assert status["next"].endswith(" leaderboard")
    lines = setr("status").out.splitlines()
    assert any(line.startswith("album") and "can be searched" in line for line in lines)
    assert any(line.startswith("mine") and "current; " in line for line in lines)


def test_a_changed_setting_picture_or_query_is_seen(setr: Setr, folder: Path) -> None:
    config = folder / "setr.toml"
    config.write_text(SETTINGS.replace("top_k = 2", "top_k = 3"), encoding="utf-8")
    status = status_of(setr)
    (mine,) = [each for each in status["sets"] if each["set"] == "mine"]
    stale = {step["step"]: step["why"] for step in mine["steps"] if step["state"] == "stale"}
    assert stale == {
        "reranked_rankings": "settings, prompts or models are others",
        "evaluation_report": "reranked_rankings is stale",
    }
    assert status["next"].endswith(" run mine more"), "the album is not re-ranked"
    config.write_text(SETTINGS, encoding="utf-8")
    assert status_of(setr)["next"].endswith(" leaderboard")

    (folder / "more" / "9.png").write_bytes(tiny_picture(99))
    (folder / "more" / "4.png").unlink()
    later = time.time() + 60
    os.utime(folder / "mine" / "queries.csv", (later, later))
    (folder / "album" / "0.png").write_bytes(tiny_picture(98))
    os.utime(folder / "album" / "0.png", (later, later))
    os.utime(folder / "album" / "1.png", (later, later))  # the same bytes, copied again
    changed = {each["set"]: each["changed"] for each in status_of(setr)["sets"]}
    assert changed["more"] == ["1 picture new", "1 picture gone"]
    assert changed["album"] == ["1 picture changed"]
    assert changed["mine"] == [f"{folder / 'mine' / 'queries.csv'} is newer than what was read"]
    assert status_of(setr)["next"].endswith(" run")


def test_what_failed_is_told_once_more_at_the_end_and_by_status(setr: Setr, folder: Path) -> None:
    queries = folder / "mine" / "queries.csv"
    queries.write_text(QUERIES.replace("1.png", "nowhere.png"), encoding="utf-8")
    done = setr("run", "mine", "more")
    assert done.status == 1
    told = [line for line in done.err.splitlines() if "nowhere.png" in line]
    assert told[0].startswith("    WARNING ") and told[-1].startswith("FAILED queries of mine: ")
    assert "run mine more` goes on from there" in done.err
    board = pl.read_parquet(folder / "var" / "tables" / "gallery_images" / "more.parquet")
    assert "9.png" in board["image_id"].to_list(), "the other set was run all the same"
    last = status_of(setr)["last_run"]
    assert (last["status"], last["sets"]) == ("failure", ["mine", "more"])
    assert "nowhere.png" in last["failed"]["queries of mine"]


def test_the_environment_that_was_written_is_that_of_the_project(folder: Path) -> None:
    from dotenv import dotenv_values

    assert dotenv_values(folder / ".env") == environment(Settings(base_dir=folder))


def test_steps_of_sets_that_are_not_there_are_refused(setr: Setr) -> None:
    done = setr("run", "nosuch", "--steps")
    assert (done.status, done.out) == (1, "") and "no evaluation set or data set 'nosuch'" in done.err


def test_steps_are_those_that_a_run_of_the_sets_would_take(setr: Setr) -> None:
    done = setr("run", "album", "--steps")
    steps = [line.split()[1] for line in done.out.splitlines() if line.split()[0].isdecimal()]
    assert steps == ["gallery_images", "gallery_embeddings"], "there are no queries"


@pytest.mark.parametrize("more", [[], ["--steps"]])
def test_a_step_of_queries_is_nothing_to_do_where_there_are_none(
    setr: Setr, folder: Path, more: list[str]
) -> None:
    done = setr("run", "album", "--until", "queries", *more)
    assert (done.status, done.out) == (1, "")
    assert "nothing to do up to queries: album has no queries; " in done.err
    assert "step 1 of" not in done.err and "FAILED" not in done.err
