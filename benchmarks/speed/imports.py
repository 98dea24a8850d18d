"""How long a person waits before anything begins: for Dagster to import the code location, and for `setr` to
answer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.speed.figure import BenchSetting, Figure

NAMES = ("import", "help")
ROUNDS = 5
LOCATION_LIMIT, HELP_LIMIT = 1.25, 0.25
"""At most this many times `import dagster`, and `import torch`."""
_LOCATION, _DAGSTER = "import setr_assets.definitions", "import dagster"
_TORCH = "import torch"
_HELP = "import sys; sys.argv = ['setr', '--help']; from setr_lib.cli import main; main()"
_MEASURED = """
import contextlib, io, time
begun = time.process_time()
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    exec({code!r})
print(time.process_time() - begun)
"""


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the named figures in processor seconds of fresh interpreters, taken in turns.

    Args:
        setting: How they are run.
        names: Of :data:`NAMES`.

    Yields:
        The figures.
    """
    if "import" in names:
        best = _best({"ours": _LOCATION, "dagster": _DAGSTER})
        yield Figure(
            "import",
            "importing the code location, all settings read and every asset defined, in a fresh interpreter",
            best["ours"],
            "`import dagster`",
            best["dagster"],
            equal=True,
            checked="no output is compared: the code location defines every asset, or the import fails",
            target=f"at most {LOCATION_LIMIT} x `import dagster`",
            met=best["ours"] <= LOCATION_LIMIT * best["dagster"],
            note="the code location imports Dagster, too, and collects no garbage meanwhile; by itself, "
            "Dagster is imported with the usual collections",
            profile=_slowest() if best["ours"] > LOCATION_LIMIT * best["dagster"] else (),
        )
    if "help" in names:
        best = _best({"ours": _HELP, "torch": _TORCH})
        yield Figure(
            "help",
            "`setr --help` in a fresh interpreter",
            best["ours"],
            "`import torch`",
            best["torch"],
            equal=True,
            checked="no output is compared",
            target="below a quarter of `import torch`",
            met=best["ours"] < HELP_LIMIT * best["torch"],
        )


def _best(ways: Mapping[str, str]) -> dict[str, float]:
    """The least processor seconds of each code, in turns: other work on the machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, code in ways.items():
            times[name].append(_seconds(code))
    return {name: min(found) for name, found in times.items()}


def _seconds(code: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED.format(code=code)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _slowest(count: int = 12) -> list[tuple[str, float]]:
    """The modules outside of Dagster that importing the code location spends most time in, by themselves."""
    known = dict(_imported(_DAGSTER))
    found = [each for each in _imported(_LOCATION) if each[0] not in known]
    return sorted(found, key=lambda each: -each[1])[:count]


def _imported(code: str) -> list[tuple[str, float]]:
    """Every module that is imported, and the seconds that it took by itself."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True
    )
    found: list[tuple[str, float]] = []
    for line in done.stderr.splitlines():
        itself, _, rest = line.removeprefix("import time:").partition("|")
        if line.startswith("import time:") and itself.strip().isdigit():
            found.append((rest.partition("|")[2].strip(), int(itself) / 1e6))
    return found
