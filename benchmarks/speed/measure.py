"""The process of one benchmark module: measures its figures and writes each to standard output, a line of
JSON.

What libraries print goes to standard error, so that the lines of standard output are figures alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, TextIO, cast

from benchmarks.speed.figure import BenchSetting
from benchmarks.speed.results import figure_entry, unmeasurable
from setr_lib.commands.console import ProgressLines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.speed.figure import Benchmark


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    out = _only_for_figures()
    setting = BenchSetting(
        folder=options.folder,
        full=options.full,
        threads=options.threads,
        photos=options.photos,
        device=options.device,
        progress=ProgressLines(sys.stderr),
    )
    if os.getsid(0) == os.getpid():
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    benchmark = cast("Benchmark", importlib.import_module(options.module))
    begun = monotonic()
    for figure in benchmark.figures(setting, options.names):
        if fault := unmeasurable(figure):
            raise ValueError(f"{options.module}: {figure.name}: {fault}")
        line = {"took_s": monotonic() - begun, "figure": figure_entry(figure)}
        print(json.dumps(line), file=out, flush=True)
        begun = monotonic()
    return 0


def _end_with(parent: int) -> None:
    """End this process and those that it has started when the run that measures is killed."""
    while os.getppid() == parent:
        sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _only_for_figures() -> TextIO:
    """Standard output as it is; from now on, what is printed goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
