"""``python -m tests.docs`` (``make docs-test``): the commands of README and of ``docs/`` that are marked so,
run as printed, in their order, in a fresh clone of this repository.

The clone uses this folder's ``.venv`` and, where there is one, a copy of this folder's finished demo. Each
page is read by one person: a home folder of its own, variables and current folder that last from command to
command. Servers are asked over HTTP, then ended. Exit status 1 where a page promises what does not happen.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.docs.carrying_out import Outcome, Session
from tests.docs.steps import PageError, Step, steps_of

REPOSITORY = Path(__file__).parents[2]
FIRST = ("README.md", "docs/datasets/folder.md", "docs/real-data.md", "docs/scaling.md")
"""The pages in the order in which a newcomer reads them; others come behind, by name."""
_BEFORE = Step("before all pages", 0, "given", "make demo", minutes=10)
"""What pages build on that no page among those that are run makes."""
_OF_PROJECTS = (
    "SETR_",
    "DAGSTER_",
    "MLFLOW_",
    "MAKE",
    "ARGS",
    "PYTEST_",
    "VIRTUAL_ENV",
    "PYTHONDONTWRITEBYTECODE",
)
"""What variables begin with that no newcomer has: those of another project, and of some machines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the pages.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit status: 0 where every step does what its page promises.
    """
    options = _parser().parse_args(arguments)
    # A shell lets what it starts behind "&" ignore interruptions, by which servers are ended.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        pages = pages_with_steps(options.pages or None)
    except (PageError, OSError) as error:
        print(f"docs-test: {error}", file=sys.stderr)
        return 2
    steps = [step for found in pages.values() for step in found]
    if options.list:
        for step in steps:
            print(f"{step.page}:{step.line}: {_shown(step)}")
        return 0
    demo = None if options.anew else _finished_demo(options.demo)
    if demo is None and not any(step.text.startswith("make demo") for step in steps):
        pages = {_BEFORE.page: [_BEFORE], **pages}
        steps = [_BEFORE, *steps]
    begun = time.monotonic()
    print(f"{len(steps)} steps of {len(pages)} pages, about {_minutes(steps, demo):.0f} minutes")
    with tempfile.TemporaryDirectory(prefix="setr-docs-") as name:
        outcomes = _run(pages, Path(name), demo, shows=options.show)
    wrong = [outcome for outcome in outcomes if outcome.problem]
    told = f"{len(outcomes) - len(wrong)} of {len(steps)} steps do what their pages promise"
    print(f"\n{told}, after {(time.monotonic() - begun) / 60:.1f} minutes")
    for outcome in wrong:
        print(f"  {outcome.step.page}:{outcome.step.line}: {outcome.problem}")
    return 1 if wrong else 0


def pages_with_steps(names: Sequence[str] | None = None) -> dict[str, list[Step]]:
    """The pages that have marked blocks, in their order.

    Args:
        names: Pages, relative to the repository; by default README and all of ``docs/``.

    Returns:
        Steps by page.

    Raises:
        PageError: A mark cannot be followed.
    """
    if names is None:
        every = sorted(
            path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "docs").rglob("*.md")
        )
        names = [*FIRST, *(page for page in ("CONTRIBUTING.md", *every) if page not in FIRST)]
    found = {name: steps_of((REPOSITORY / name).read_text(encoding="utf-8"), name) for name in names}
    return {name: steps for name, steps in found.items() if steps}


def _run(pages: dict[str, list[Step]], work: Path, demo: Path | None, *, shows: bool) -> list[Outcome]:
    clone = work / "setr"
    _clone(clone, demo)
    outcomes: list[Outcome] = []
    for number, (page, steps) in enumerate(pages.items()):
        home = work / f"home-{number}"
        home.mkdir()
        session = Session(clone, _variables(clone, home), work / f"session-{number}")
        print(f"\n{page}")
        for step in steps:
            outcome = session.carry_out(step)
            outcomes.append(outcome)
            _tell(outcome, shows=shows)
            if outcome.problem:
                break  # what follows on the page builds on it
    return outcomes


def _clone(clone: Path, demo: Path | None) -> None:
    """A fresh clone with this folder's environment, and with a copy of a finished demo where there is one."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    (clone / ".venv").symlink_to((REPOSITORY / ".venv").resolve())
    if demo is not None:
        for name in ("var", "dagster_home"):
            subprocess.run(["cp", "-r", "--reflink=auto", str(demo / name), str(clone)], check=True)
        print(f"the demo is a copy of that in {demo}")


def _variables(clone: Path, home: Path) -> dict[str, str]:
    """The environment of a newcomer: the clone's code, nothing of another project, an environment that is
    installed already.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_PROJECTS)}
    return {
        **kept,
        "HOME": str(home),
        "PYTHONPATH": str(clone),
        "PATH": f"{clone / '.venv' / 'bin'}:{os.environ.get('PATH', '')}",
        "MAKEFLAGS": "STAMP=.venv/bin/python",
        "DO_NOT_TRACK": "true",
    }


def _finished_demo(folder: Path) -> Path | None:
    return folder.resolve() if any((folder / "var" / "reports").glob("*/index.html")) else None


def _minutes(steps: Sequence[Step], demo: Path | None) -> float:
    makes = [step for step in steps if demo is not None and step.text.strip().startswith("make demo")]
    return sum(step.minutes for step in steps if step not in makes) + 0.2 * len(steps)


def _tell(outcome: Outcome, *, shows: bool) -> None:
    step = outcome.step
    print(f"  {'FAILED' if outcome.problem else 'ok':6} {outcome.seconds:6.1f} s  {_shown(step)}", flush=True)
    if outcome.problem:
        print(f"         line {step.line}: {outcome.problem}; its output ends in")
    if outcome.output and (outcome.problem or shows):
        print("\n".join(f"         | {line}" for line in outcome.output.splitlines()[-40:]), flush=True)


def _shown(step: Step) -> str:
    if step.kind == "file":
        return f"(the file {step.name})"
    if step.kind == "python":
        return "(a Python program)"
    first = step.text.strip().splitlines()[0]
    return f"(given) {first}" if step.kind == "given" else first


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make docs-test", description="The marked commands of README and docs, as printed."
    )
    parser.add_argument("pages", nargs="*", help="some pages, e.g. README.md; by default all")
    parser.add_argument("--list", action="store_true", help="print the steps; run nothing")
    parser.add_argument("--show", action="store_true", help="print the end of every command's output")
    parser.add_argument(
        "--demo",
        type=Path,
        default=REPOSITORY,
        metavar="FOLDER",
        help="a checkout with a finished demo; by default this one",
    )
    parser.add_argument("--anew", action="store_true", help="let the clone make its own demo")
    return parser


if __name__ == "__main__":
    sys.exit(main())
