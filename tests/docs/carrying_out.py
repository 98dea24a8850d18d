"""Carrying out the steps of a page, as a reader types them: in one shell, its folder and its variables."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.docs.steps import Step

LONGEST = 300.0
"""Seconds that a step may take which says nothing of its time; one that says so has four times as long."""
_START = 180.0
"""Seconds that a server has before it must answer."""
_END = 30.0
"""Seconds that a server has to end when it is interrupted, as by Ctrl-C."""
_KEPT = 4_000
"""Characters of the output that a failure shows."""


@dataclass(frozen=True)
class Outcome:
    """What came of a step."""

    step: Step
    seconds: float
    problem: str = ""
    """Why it did not do what the page promises; empty where it did."""
    output: str = ""


class Session:
    """The shell of one reader of one page: a folder and variables that last from step to step.

    Args:
        folder: Where it begins.
        variables: The environment.
        scratch: A folder for what the session must keep.
    """

    def __init__(self, folder: Path, variables: dict[str, str], scratch: Path) -> None:
        self.folder, self._variables, self._scratch = folder, variables, scratch
        scratch.mkdir(parents=True, exist_ok=True)

    def carry_out(self, step: Step) -> Outcome:
        """Do what a step says, and compare it with what its page promises.

        Args:
            step: The step.

        Returns:
            What came of it.
        """
        begun = time.monotonic()
        if step.kind == "file":
            path = self.folder / step.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            return Outcome(step, 0.0)
        log = self._scratch / "output.txt"
        with log.open("wb") as output:
            problem = self._served(step, output) if step.serves else self._run(step, output)
        text = log.read_text(encoding="utf-8", errors="replace")
        if not problem:
            lacking = [shown for shown in step.shows if shown not in text]
            problem = f"its output lacks {lacking[0]!r}" if lacking else ""
        return Outcome(step, time.monotonic() - begun, problem, text[-_KEPT:])

    def _command(self, step: Step) -> list[str]:
        """The step as a program: in the folder and with the variables that the earlier ones left."""
        state, place = self._scratch / "variables.sh", self._scratch / "folder"
        if step.kind == "python":
            program = self._scratch / "program.py"
            program.write_text(step.text, encoding="utf-8")
            text = f"python {shlex.quote(str(program))}"
        else:
            text = step.text
        kept = f"export -p > {shlex.quote(str(state))}; pwd > {shlex.quote(str(place))}"
        begin = f"if [ -e {shlex.quote(str(state))} ]; then . {shlex.quote(str(state))}; fi"
        return ["bash", "-c", f"{begin}\ntrap {shlex.quote(kept)} EXIT\n{text}\n"]

    def _run(self, step: Step, output: IO[bytes]) -> str:
        limit = max(LONGEST, 4 * 60 * step.minutes)
        process = self._started(step, output)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            _end(process)
            return f"it was not done after {limit:.0f} s"
        except BaseException:
            _end(process)
            raise
        self._remember()
        if step.status in (None, status):
            return ""
        return f"its exit status is {status}, not {step.status}"

    def _served(self, step: Step, output: IO[bytes]) -> str:
        if _answers(step.serves):
            return f"something answers at {step.serves} already: end it first"
        process = self._started(step, output)
        try:
            until = time.monotonic() + _START
            while time.monotonic() < until:
                if (status := process.poll()) is not None:
                    return f"the server ended with status {status} before it answered"
                if _answers(step.serves):
                    return ""
                time.sleep(0.5)
            return f"{step.serves} did not answer within {_START:.0f} s"
        finally:
            _end(process)

    def _started(self, step: Step, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command(step),
            cwd=self.folder,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _remember(self) -> None:
        place = self._scratch / "folder"
        if place.exists():
            self.folder = Path(place.read_text(encoding="utf-8").strip())


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:  # noqa: S310 - an address of our pages
            return response.status == 200
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process and all that it started, then end what is left; each was started here."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    for number, patience in ((signal.SIGINT, _END), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        break
    _, alive = psutil.wait_procs(family, timeout=5)
    for each in alive:
        each.kill()
