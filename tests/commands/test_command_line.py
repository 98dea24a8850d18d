"""What holds for every ``setr`` command: help with true examples, nearest names, the project that it works
on, what goes to which stream, and the exit status.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from setr_lib.cli import main, parser
from setr_lib.commands.arguments.parser import leaves, subparsers_of
from setr_lib.commands.console import terminal
from setr_lib.commands.streams import GuardedOutput, OutputError, escaped
from setr_lib.evaluation.leaderboard import leaderboard_table
from setr_lib.settings import load_settings
from tests.evaluation.report_data import metric_rows

REPOSITORY = Path(__file__).parents[2]
ANYWHERE = ("list", "doctor", "completion", "init")
"""The commands that make sense without a project."""


def examples_of(text: str | None) -> list[list[str]]:
    lines = (text or "").partition("example")[2].splitlines()[1:]
    return [shlex.split(line.partition(">")[0]) for line in lines if line.strip()]


COMMANDS = {leaf.prog.removeprefix("setr "): examples_of(leaf.epilog) for leaf in leaves(parser())}


def program(
    *arguments: str, after: str = "", variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``setr`` as a process; ``after`` is what follows it on the line of a shell."""
    return subprocess.run(
        ["bash", "-c", f"{shlex.join([sys.executable, '-m', 'setr_lib.cli', *arguments])} {after}"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(variables or {})},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "setr.toml"
    path.write_text('[datasets.cirr]\nkind = "cirr"\nroot = "cirr"\nsplits = ["val"]\n', encoding="utf-8")
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with no settings file in it or above."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_they_are_true(command: str) -> None:
    sets = load_settings(REPOSITORY / "setr.toml").datasets
    assert COMMANDS[command], "no example"
    for words in COMMANDS[command]:
        assert words[0] == "setr" and " ".join(words[1:]).startswith(command)
        options = parser().parse_args(words[1:])
        named = getattr(options, "dataset", None)
        assert named is None or named.partition("-")[0] in sets


def test_help_lists_every_command_once_and_prints_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    for name in subparsers_of(parser()):
        assert sum(line.split()[:1] == [name] for line in printed.splitlines()) == 1, name
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    assert "setr search --queries" in capsys.readouterr().out


def test_version_names_setr_and_python(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("lst", "did you mean 'list'?"),
        (
            "list method",
            "there is methods, rerankers, systems, benchmarks, spaces, texts; did you mean 'methods'?",
        ),
        ("repair vector", "did you mean 'vectors'?"),
        ("captions imprt x.jsonl", "did you mean 'import'?"),
        ("leaderboard --jsn", "there is no option --jsn; did you mean '--json'?"),
        ("leaderboard here", "unexpected argument: here"),
        (f"init {'x' * 300}", "is too long for a path or a name"),
        ("completion bsh", "did you mean 'bash'?"),
        ("help", "did you mean '--help'?"),
        (
            "search a.png -red",
            "there is no option -red; a name or a text that begins with a dash is written after",
        ),
        ("init -x", "there is no option -x; a name or a text that begins with a dash is written after"),
        ("init --querys x photos", "there is no option --querys; did you mean '--queries'?"),
        ("init --queries x", "required: PHOTOS"),
    ],
)
def test_what_is_not_known_on_the_command_line_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    assert told in printed.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("leaderboard --dataset cir", "there is cirr, cirr-val; did you mean 'cirr'?"),
        ("faults circ-val", "there is cirr, cirr-val; did you mean 'cirr-val'?"),
        ("score cir --split val x.json", "did you mean 'cirr'?"),
        (
            "score cirr --split vals x.json",
            "use train or val or test1; did you mean 'val'?",
        ),
        ("submit cir", "did you mean 'cirr'?"),
        ("search a.png x --dataset cir-val", "did you mean 'cirr-val'?"),
        ("compare sumn --set cirr", "did you mean 'sum'?"),
        ("compare sum --set cirr-vall", "did you mean 'cirr-val'?"),
    ],
)
def test_names_that_are_not_known_are_answered_with_the_nearest(
    config: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    assert main(["--config", str(config), *words.split()]) == 1
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_project_a_command_says_how_to_name_one(
    nowhere: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    if command in ANYWHERE:
        pytest.skip("makes sense anywhere")
    status = main(COMMANDS[command][0][1:])
    printed = capsys.readouterr()
    assert (status, printed.out) == (1, "")
    assert f"no setr.toml was found in {nowhere} or above it" in printed.err
    for remedy in (f"`setr {command} --config FILE`", "export SETR_CONFIG=FILE", "`setr init PHOTOS`"):
        assert remedy in printed.err
    assert not any(nowhere.iterdir()), "nothing is made"


def test_what_makes_sense_without_a_project_works_and_says_that_there_is_none(
    nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "benchmarks", "--json"]) == 0
    printed = capsys.readouterr()
    assert "circo" in {row["name"] for row in json.loads(printed.out)}
    assert "no setr.toml was found" in printed.err
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().err == ""
    main(["doctor", "--quick"])
    assert capsys.readouterr().err.startswith("setr: no setr.toml was found")
    assert not any(nowhere.iterdir()), "nothing is made"


def test_variables_that_name_data_stand_in_for_a_settings_file(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SETR_MODELS__DEVICE", "cpu")
    assert main(["leaderboard", "--json"]) == 1, "says nothing of what to work on"
    monkeypatch.setenv("SETR_DATASETS__CIRR__ROOT", "cirr")
    assert main(["leaderboard", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_settings_file_that_the_variable_names_and_is_not_there_is_told_with_the_variable(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SETR_CONFIG", "/none.toml")
    assert main(["leaderboard"]) == 1
    assert "/none.toml: there is no such settings file (SETR_CONFIG names it)" in capsys.readouterr().err


def test_config_and_quiet_may_stand_on_both_sides(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--config", str(config)]
    assert main([*named, "leaderboard", "--json"]) == 0
    assert "nothing is evaluated yet" in capsys.readouterr().err
    for words in ([*named, "--quiet", "leaderboard", "--json"], ["leaderboard", "--json", "--quiet", *named]):
        assert main(words) == 0
        printed = capsys.readouterr()
        assert (json.loads(printed.out), printed.err) == ([], "")


def test_quiet_is_over_when_the_command_is(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    before = logging.root.manager.disable
    assert main(["--config", str(config), "--quiet", "leaderboard"]) == 0
    assert logging.root.manager.disable == before
    capsys.readouterr()
    main(["--config", str(config), "leaderboard"])
    assert "nothing is evaluated yet" in capsys.readouterr().err


def test_errors_are_told_where_quiet_is_asked_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(config), "--quiet", "faults", "circo"]) == 1
    assert "there is no data set" in capsys.readouterr().err


# What cannot be printed.


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        (">&-", "setr: standard output is closed"),
        ("> /dev/full", "setr: standard output cannot be written: No space left on device"),
    ],
)
@pytest.mark.parametrize("command", ["list benchmarks", "completion bash", "--version"])
def test_output_that_cannot_be_written_ends_in_words(command: str, shell: str, words: str) -> None:
    done = program(*command.split(), after=shell)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    done = program("list", after="| true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_closed_and_full_standard_error_never_mixes_with_results(config: Path) -> None:
    for shell in ("2>&-", "2>/dev/full"):
        done = program("--config", str(config), "leaderboard", "--json", after=shell)
        assert (done.returncode, done.stdout) == (0, "[]\n")


def test_files_that_are_opened_do_not_become_standard_output(tmp_path: Path) -> None:
    """A file opened while descriptor 1 is free would get what is printed."""
    code = (
        "from setr_lib.commands.streams import open_closed\nimport os, sys\nopen_closed()\n"
        f"f = os.open({str(tmp_path / 'data')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "os.write(2, str(f).encode())"
    )
    command = f"{shlex.join([sys.executable, '-c', code])} >&- <&-"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert int(done.stderr) > 2


def test_an_encoding_that_lacks_characters_changes_no_json() -> None:
    texts = ["plain", "Größe · 38–44", "画像", "\U0001f600"]
    out = io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii")
    stream = GuardedOutput(out)
    stream.write(json.dumps(texts, ensure_ascii=False))
    stream.flush()
    assert json.loads(raw.getvalue().decode("ascii")) == texts
    assert escaped("aé", "latin-1") == "aé" and escaped("a–", "latin-1") == "a\\u2013"


def test_a_program_in_a_locale_without_utf_8_prints_its_tables() -> None:
    variables = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "40"}
    done = program("list", "benchmarks", variables=variables)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "circo" in done.stdout


def test_a_narrow_terminal_cuts_nothing_of_a_leaderboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = io.StringIO()
    terminal(file=out).print(leaderboard_table(metric_rows(), {"cirr": ("R@1",)}))
    rows = [line.split()[:3] for line in out.getvalue().splitlines()]
    assert ["intersection", "base", "judge"] in rows and "…" not in out.getvalue()


def test_a_closed_stream_says_so_and_an_empty_text_is_no_exception() -> None:
    with pytest.raises(OutputError, match="closed"):
        GuardedOutput(None).write("x")
    closed = io.StringIO()
    closed.close()
    with pytest.raises(OutputError, match="cannot be written"):
        GuardedOutput(closed).write("x")


def test_an_interruption_is_told_and_has_the_status_of_shells(tmp_path: Path) -> None:
    pipe = tmp_path / "setr.toml"
    os.mkfifo(pipe)  # a settings file that never ends: the command waits in the middle of its work
    running = subprocess.Popen(
        [sys.executable, "-m", "setr_lib.cli", "--config", str(pipe), "leaderboard"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pipe.open("w"):  # returns as soon as the command reads
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err == "setr: interrupted; what was finished is kept\n"


@pytest.mark.parametrize(
    ("command", "one"), [("repair", "vectors"), ("cache", "check"), ("miniature", "write")]
)
def test_a_missing_part_is_answered_with_those_that_there_are(
    command: str, one: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "required" in last and one in last.partition("one of ")[2]
