"""``setr status`` before there is anything, and what it names next. Its reading of finished runs is tested
with them: tests/assets/test_run_command.py, tests/assets/test_staleness.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from setr_lib.cli import main
from setr_lib.commands.status import SetStatus, _lines, _set_words, next_command
from setr_lib.runners import LastRun, ProjectState, State, StepState
from setr_lib.settings import Settings


def printed(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["--config", str(config), "status", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_data_that_are_not_there_are_looked_for_by_the_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.cirr]\nkind = "cirr"\nroot = "nowhere"\n', encoding="utf-8")
    status = printed(config, capsys)
    assert [(each["set"], each["state"]) for each in status["sets"]] == [("cirr-val", "no data")]
    assert status["next"].endswith("doctor cirr-val")
    assert main(["--config", str(config), "status"]) == 0
    assert "cirr-val  no data yet" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["setr.toml"], "a look writes nothing"


def test_data_that_a_run_draws_itself_are_no_reason_not_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "setr.toml"
    text = '[datasets.cirr]\nkind = "cirr"\nroot = "var/miniature/cirr"\nsplits = ["val", "test1"]\n'
    config.write_text(text, encoding="utf-8")
    status = printed(config, capsys)
    assert {each["set"]: each["state"] for each in status["sets"]} == {
        "cirr-val": "missing",
        "cirr-test1": "missing",
    }
    assert status["next"].endswith(" run"), "hidden sets are run where they are named"


def test_settings_without_a_data_set_are_answered_with_init(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "setr.toml").write_text("", encoding="utf-8")
    assert printed(tmp_path / "setr.toml", capsys)["next"].endswith("init PHOTOS")


def status_of(key: str, state: State, *, hidden: bool = False, queries: bool = True) -> SetStatus:
    return SetStatus(key, hidden, state, [StepState("queries", state)], has_queries=queries)


def after(failed: dict[str, str]) -> ProjectState:
    return ProjectState((), {}, LastRun("id", "failure" if failed else "success", None, failed))


@pytest.mark.parametrize(
    ("trial", "words"), [("", "(sum)"), ("20 of 300 queries", "(sum, a trial on 20 of 300 queries)")]
)
def test_the_score_of_a_trial_is_called_one(trial: str, words: str) -> None:
    status = status_of("a", "current")
    status.best = {"row": "sum", "metric": "R@1", "value": 80.0, "queries": 20, "trial": trial}
    assert _set_words(status).endswith(f"; R@1 80.0 {words}")


def test_a_set_with_hidden_targets_names_the_command_that_ranks_it() -> None:
    assert "run cirr-test1` ranks it" in _set_words(status_of("cirr-test1", "missing", hidden=True))
    assert _set_words(status_of("cirr-val", "missing")) == "nothing yet"


@pytest.mark.parametrize(
    ("sets", "failed", "expected"),
    [
        ([("a", "current"), ("b", "current")], {}, "leaderboard"),
        ([("a", "current"), ("b", "stale")], {}, "run b"),
        ([("a", "missing"), ("b", "stale")], {}, "run"),
        ([("a", "stale")], {"queries": "x: is cut: run `setr repair tables`, which keeps"}, "repair tables"),
    ],
)
def test_the_next_command_is_the_one_that_helps(
    tmp_path: Path, sets: list[tuple[str, State]], failed: dict[str, str], expected: str
) -> None:
    found = [status_of(key, state) for key, state in sets]
    assert next_command(Settings(base_dir=tmp_path), found, after(failed))[0].endswith(f" {expected}")


def test_where_the_data_are_gone_no_run_helps(tmp_path: Path) -> None:
    gone = SetStatus("a", False, "current", [], changed=["there is no such image folder"], lacks_data=True)
    found = [gone, status_of("b", "stale")]
    command, why = next_command(Settings(base_dir=tmp_path), found, after({"queries": "no such file"}))
    assert command.endswith(" doctor a") and why == "says what of a is gone"


def test_while_a_run_is_under_way_no_other_is_begun(tmp_path: Path) -> None:
    known = ProjectState((), {}, LastRun("id", "started", None, {}))
    found = [status_of("a", "stale")]
    assert next_command(Settings(base_dir=tmp_path), found, known)[0].endswith(" status")


def test_the_next_command_for_galleries_and_hidden_sets(tmp_path: Path) -> None:
    settings, done = Settings(base_dir=tmp_path), after({})
    album = status_of("album", "stale", queries=False)
    assert next_command(settings, [album], done)[0].endswith(" run --until gallery_embeddings")
    searched = status_of("album", "current", queries=False)
    assert next_command(settings, [searched], done)[0].endswith(' search IMAGE "TEXT"')
    never, once = (status_of("cirr-test1", state, hidden=True) for state in ("missing", "stale"))
    assert next_command(settings, [status_of("cirr-val", "current"), never], done)[0].endswith(" leaderboard")
    assert next_command(settings, [status_of("cirr-val", "current"), once], done)[0].endswith(
        " run cirr-test1"
    )


def test_after_a_trial_all_queries_come_next(tmp_path: Path) -> None:
    known = ProjectState((), {}, LastRun("id", "success", None, {}, ("a",), limit=5))
    command, why = next_command(Settings(base_dir=tmp_path), [status_of("a", "stale")], known)
    assert command.endswith(" run")
    assert why == "all queries: the last run was a trial on 5 queries of each set"
    limited = Settings.model_validate({"base_dir": tmp_path, "evaluation": {"limit": 5}})
    assert next_command(limited, [status_of("a", "stale")], known)[1] == "makes what is due"


def test_scores_without_a_note_of_their_run_are_not_called_nothing() -> None:
    best = {"metric": "R@1", "value": 12.34, "row": "sum", "queries": 9, "trial": ""}
    status = status_of("mine", "missing")
    assert _set_words(status) == "nothing yet"
    status.best = best
    words = _set_words(status)
    assert words.startswith("R@1 12.3 (sum), but ") and "nothing" not in words and "dagster_home" in words


def test_why_the_training_is_stale_is_said(tmp_path: Path) -> None:
    shared = [
        StepState("reranker_pairs", "stale", "settings, prompts or models are others"),
        StepState("reranker_adapter", "stale", "reranker_pairs is stale"),
    ]
    lines = _lines(Settings(base_dir=tmp_path), [], ProjectState(shared, {}, None), {})
    at = next(number for number, line in enumerate(lines) if line.startswith("training"))
    assert lines[at + 1].strip() == "reranker_pairs: settings, prompts or models are others"
    assert "reranker_adapter" not in lines[at + 1] and lines[at + 2].startswith("champions")
