"""What ``make docs-test`` takes for a step, and what it notices."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from tests.docs.__main__ import FIRST, main, pages_with_steps
from tests.docs.carrying_out import Outcome, Session
from tests.docs.steps import PageError, Step, steps_of

PAGE = """# A page

    not run

<!-- run exit:doctor=1 shows:echo="a b" -->

    echo a b   # a comment
    # nothing
    setr doctor

<!-- file: mine/setr.toml -->
```toml
[storage]
root = "var"
```

<!-- given: mkdir photos -->
<!-- run minutes=2.5 -->
```sh
make demo \\
  ARGS=x
```

- in a list

  <!-- run -->
  ```python
  for x in range(2):
      print(x)
  ```

<!-- run serves:dev=http://127.0.0.1:3000 -->

    dagster dev
    cat > notes.txt <<'EOF'
    one
    two
    EOF

The end.
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "home").mkdir()
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}
    return Session(tmp_path / "home", variables, tmp_path / "scratch")


def outcome_of(session: Session, text: str, **promised: object) -> Outcome:
    return session.carry_out(Step("page.md", 1, "command", text, **promised))  # pyright: ignore


def test_marked_blocks_are_steps_in_their_order() -> None:
    found = steps_of(PAGE, "page.md")
    assert [(step.kind, step.text) for step in found] == [
        ("command", "echo a b   # a comment"),
        ("command", "setr doctor"),
        ("file", '[storage]\nroot = "var"\n'),
        ("given", "mkdir photos"),
        ("command", "make demo \\\n  ARGS=x"),
        ("python", "for x in range(2):\n    print(x)\n"),
        ("command", "dagster dev"),
        ("command", "cat > notes.txt <<'EOF'\none\ntwo\nEOF"),
    ]
    assert [step.status for step in found[:2]] == [0, 1]
    assert [step.shows for step in found[:2]] == [("a b",), ()]
    assert found[2].name == "mine/setr.toml" and found[4].minutes == 2.5
    (plain, _) = steps_of("<!-- run exit:ls=2 -->\n\n    ls\n    ls -l\n", "page.md")
    assert plain.status == 2
    assert steps_of("<!-- run exit=any -->\n\n    ls\n", "page.md")[0].status is None
    assert [step.serves for step in found[-2:]] == ["http://127.0.0.1:3000", ""]
    rows = PAGE.splitlines()
    assert [rows[step.line - 1].strip() for step in found if step.kind == "command"] == [
        step.text.splitlines()[0] for step in found if step.kind == "command"
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- run -->\n\nno block\n", "page.md:1: there is no block"),
        ("<!-- run -->\n", "there is no block"),
        ("<!-- run -->\n```sh\nls\n", "has no end"),
        ("<!-- run speed=1 -->\n\n    ls\n", "'speed' is none of"),
        ("<!-- run exit -->\n\n    ls\n", "'exit' is none of"),
        ("<!-- run exit:cd=1 -->\n\n    ls\n", "about 0 commands"),
        ("<!-- run minutes=1 -->\n\n    ls\n    cd\n", "about 2 commands"),
        ('<!-- run shows="a -->\n\n    ls\n', "not closed"),
    ],
)
def test_a_mark_that_cannot_be_followed_is_refused(text: str, words: str) -> None:
    with pytest.raises(PageError, match=words):
        steps_of(text, "page.md")


def test_folder_and_variables_last_from_step_to_step(session: Session) -> None:
    home = session.folder
    assert not outcome_of(session, "mkdir -p deep/er && cd deep/er").problem
    assert not outcome_of(session, "export WHO='a b'").problem
    assert session.folder == home / "deep" / "er"
    assert not outcome_of(session, 'test "$PWD" = "$HOME/deep/er" -a "$WHO" = "a b"').problem
    written = session.carry_out(Step("page.md", 1, "file", "text\n", name="x/notes.txt"))
    assert not written.problem and (home / "deep/er/x/notes.txt").read_text(encoding="utf-8") == "text\n"
    program = session.carry_out(Step("page.md", 1, "python", "import os\nprint(os.getcwd())\n"))
    assert not program.problem and program.output.strip() == str(session.folder)


def test_what_a_page_promises_is_compared(session: Session) -> None:
    assert outcome_of(session, "exit 3").problem == "its exit status is 3, not 0"
    assert not outcome_of(session, "exit 3", status=3).problem
    assert not outcome_of(session, "exit 3", status=None).problem
    assert outcome_of(session, "true", status=1).problem == "its exit status is 0, not 1"
    assert outcome_of(session, "echo one", shows=("one", "two")).problem == "its output lacks 'two'"
    assert not outcome_of(session, "echo one; echo two >&2", shows=("one", "two")).problem
    failed = session.carry_out(Step("page.md", 1, "python", "raise SystemExit('no')\n"))
    assert failed.problem == "its exit status is 1, not 0" and "no" in failed.output


def test_a_step_that_hangs_is_ended(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.carrying_out.LONGEST", 0.5)
    assert outcome_of(session, "sleep 60").problem == "it was not done after 0 s"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_server_is_asked_and_ended(session: Session) -> None:
    port = free_port()
    address, command = f"http://127.0.0.1:{port}/", f"python3 -m http.server --bind 127.0.0.1 {port}"
    assert not outcome_of(session, command, serves=address).problem
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    dead = outcome_of(session, "echo no; exit 4", serves=address)
    assert "ended with status 4" in dead.problem and "no" in dead.output


def test_a_server_of_somebody_else_is_no_answer(session: Session) -> None:
    import http.server
    import threading

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as already:
        threading.Thread(target=already.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{already.server_port}/"
        begun = time.monotonic()
        assert "answers at" in outcome_of(session, "sleep 60", serves=address).problem
        assert time.monotonic() - begun < 30
        already.shutdown()


def test_the_marks_of_all_pages_can_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    pages = pages_with_steps()
    first = [page for page in FIRST if page in pages]
    assert [*pages][: len(first)] == first and "docs/datasets/folder.md" in first
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == sum(map(len, pages.values()))
