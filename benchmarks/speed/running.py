"""Runs benchmark modules, each in a process of its own, and keeps each figure as soon as it is measured."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.speed.figure import BenchSetting
from benchmarks.speed.machine import Machine
from benchmarks.speed.results import (
    Measured,
    figure_of,
    in_order,
    read_results,
    replaced,
    write_results,
)
from setr_lib.errors import SetrError
from setr_lib.hashing import fingerprint_bytes, fingerprint_file

REPOSITORY = Path(__file__).parents[2]
MODULES = tuple(
    f"benchmarks.speed.{name}"
    for name in (
        "search",
        "embed",
        "judge",
        "generate",
        "lora",
        "orchestration",
        "imports",
        "search_start",
        "one_query",
        "real_sizes",
    )
)
"""The modules that measure, in the order in which they run."""
NOT_MEASURED = frozenset({"page.py", "picture.py"})
"""Files of this folder that no figure depends on."""
LIMITS = {False: 600.0, True: 3600.0}
"""Seconds after which the process of a module is ended, by whether the run is a full one."""
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LANCE_CPU_THREADS",
    "RAYON_NUM_THREADS",
)
_PERSONAL = ("SETR_", "DAGSTER_", "MLFLOW_", "PYTHONDONTWRITEBYTECODE")
"""How the variables begin that no measured process gets; without compiled modules, every import compiles."""


@dataclass(frozen=True)
class Place:
    """Where a run keeps what it measures.

    Attributes:
        results: The list of figures, ``var/bench.json``.
        folder: For the figures that are kept one by one, and for what benchmarks draw.
    """

    results: Path
    folder: Path

    def kept(self, full: bool, name: str) -> Path:
        """Where a figure is kept alone; a short run and a full one do not replace each other's.

        Args:
            full: Whether the sizes are those of `make bench-full`.
            name: The figure.

        Returns:
            The file.
        """
        return self.folder / "figures" / ("full" if full else "short") / f"{name}.json"


@dataclass
class Run:
    """One run of some figures.

    Attributes:
        setting: How they are run.
        place: Where they are kept.
        machine: What they are measured on.
        digest: Of code and setting.
        limit_s: Seconds after which a module's process is ended.
        results: All figures so far, those of earlier runs among them.
    """

    setting: BenchSetting
    place: Place
    machine: Machine
    digest: str
    limit_s: float
    results: list[Measured] = field(default_factory=list)

    def keep(self, measured: Measured) -> None:
        """Keep a figure, alone and in the list.

        Args:
            measured: The figure.
        """
        if not measured.failed:
            write_results(self.place.kept(measured.full, measured.name), [measured])
        self.results = replaced(self.results, measured)
        write_results(self.place.results, self.results)

    def finished(self, name: str) -> Measured | None:
        """A figure that was measured earlier, with the same code, setting and machine.

        Args:
            name: The figure.

        Returns:
            It; None where there is none.
        """
        try:
            found = read_results(self.place.kept(self.setting.full, name))
        except SetrError:
            return None
        return next((each for each in found if each.digest == self.digest and not each.failed), None)


def names_by_module(modules: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The figures of each module.

    Args:
        modules: Names of modules.

    Returns:
        Module -> figures.

    Raises:
        SetrError: A module is not there, or two measure a figure of the same name.
    """
    if absent := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise SetrError(f"there is no module {', '.join(absent)}, whose figures a run has")
    found = {module: tuple(importlib.import_module(module).NAMES) for module in modules}
    names = [name for each in found.values() for name in each]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SetrError(f"two modules measure {', '.join(twice)}")
    return found


def tree_digest(root: Path = REPOSITORY) -> str:
    """Digest of the code and the locked packages that figures depend on.

    Args:
        root: The checkout.

    Returns:
        32 hexadecimal digits.
    """
    folders = ("setr_lib", "setr_assets", "benchmarks/speed")
    files = [
        path
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name not in NOT_MEASURED
    ]
    known = [
        (str(path.relative_to(root)), fingerprint_file(path)) for path in [*files, root / "requirements.lock"]
    ]
    return fingerprint_bytes(json.dumps(known).encode())


def run_digest(setting: BenchSetting, machine: Machine, tree: str) -> str:
    """Digest of what a figure depends on: code, sizes, threads, pictures, device and machine.

    Args:
        setting: How figures are run.
        machine: What they are measured on.
        tree: Digest of the code.

    Returns:
        32 hexadecimal digits.
    """
    known = [
        tree,
        setting.full,
        setting.threads,
        setting.photos is not None,
        setting.device,
        [machine.processor, machine.cores, machine.accelerator, dict(machine.versions)],
    ]
    return fingerprint_bytes(json.dumps(known, sort_keys=True).encode())


def environment(threads: int) -> dict[str, str]:
    """The environment of every measured process: fixed threads, none of a person's own settings, no network.

    Args:
        threads: Threads that it may use.

    Returns:
        Name -> value.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_PERSONAL)}
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **kept,
        **dict.fromkeys(_THREADS, str(threads)),
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }


def machine_now(threads: int) -> Machine:
    """This machine with its rates, measured in a process of its own.

    Args:
        threads: Threads that it may use.

    Returns:
        The machine.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.machine"],
        env=environment(threads),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Machine(**json.loads(done.stdout))


def measure(run: Run, modules: Mapping[str, Sequence[str]], *, again: bool) -> list[str]:
    """Measure figures, module by module; one that fails is told, and the others go on.

    Args:
        run: The run; its results are filled.
        modules: Module -> figures.
        again: Whether figures are measured that were finished earlier with the same code and setting.

    Returns:
        What failed, in sentences.
    """
    modules = {module: _measurable(run, module, names) for module, names in modules.items()}
    asked = {name for names in modules.values() for name in names}
    broken: list[str] = []
    # A figure of an earlier run does not stand for one that is asked for and may now fail.
    run.results = [each for each in read_results(run.place.results) if each.name not in asked]
    for module, names in modules.items():
        open_names = list(names)
        if not again:
            finished = [found for name in names if (found := run.finished(name)) is not None]
            for found in finished:
                _tell(f"{found.name}: finished on {found.measured_at}, not measured again")
                run.keep(found)
            open_names = [name for name in names if name not in {found.name for found in finished}]
        if open_names and (fault := _measure_module(run, module, open_names)):
            broken.append(fault)
    write_results(run.place.results, run.results)
    return [*broken, *faults_of([each for each in run.results if each.name in asked])]


def _measurable(run: Run, module: str, names: Sequence[str]) -> list[str]:
    """Those that this device can measure; the others are told. A module says what its figures need."""
    needs, device = getattr(importlib.import_module(module), "NEEDS", {}), run.setting.device
    for name in names:
        if needs.get(name, device) != device:
            _tell(f"{name}: skipped: it needs --device {needs[name]}")
    return [name for name in names if needs.get(name, device) == device]


def faults_of(results: Sequence[Measured]) -> list[str]:
    """What went wrong with figures: not measured, or with another output than the alternative.

    Args:
        results: The figures.

    Returns:
        A sentence each.
    """
    return [
        f"{each.name}: {each.failed or 'the outputs differ: ' + (each.figure.checked if each.figure else '')}"
        for each in in_order(results)
        if each.failed or (each.figure is not None and not each.figure.equal)
    ]


def _measure_module(run: Run, module: str, names: Sequence[str]) -> str:
    """Measure figures of one module; why its process failed, else nothing."""
    _tell(f"{module}: {', '.join(names)}")
    begun = monotonic()
    left = list(names)
    with _process(run, module, names) as process:
        assert process.stdout is not None
        for line in process.stdout:
            measured = _measured(run, module, json.loads(line))
            run.keep(measured)
            left = [name for name in left if name != measured.name]
            _tell(f"{measured.name}: {told(measured)} (measured in {measured.took_s:.0f} s)")
        status = process.wait()
    why = _ending(run, module, status, monotonic() - begun)
    for name in left:
        run.keep(_failure(run, module, name, why or f"{module} did not give it"))
    return why


def _ending(run: Run, module: str, status: int, seconds: float) -> str:
    """Why a module's process failed; empty where it did not."""
    if not status:
        return ""
    if status == -signal.SIGKILL and seconds >= run.limit_s:
        return f"{module} was ended after its limit of {run.limit_s:.0f} s"
    return f"{module} ended with status {status} after {seconds:.0f} s; what it printed says why"


@contextlib.contextmanager
def _process(run: Run, module: str, names: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A module's process, in a group of its own: it is ended as a whole, after the limit or with this one."""
    setting = run.setting
    command = [sys.executable, "-m", "benchmarks.speed.measure", module, *names]
    command += [
        "--folder",
        str(setting.folder),
        "--threads",
        str(setting.threads),
        "--device",
        setting.device,
    ]
    command += ["--full"] if setting.full else []
    command += ["--photos", str(setting.photos)] if setting.photos is not None else []
    process = subprocess.Popen(
        command,
        env=environment(setting.threads),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    limit = threading.Timer(run.limit_s, _end, [process])
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        _end(process)
        process.wait()


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _measured(run: Run, module: str, line: Mapping[str, Any]) -> Measured:
    figure = figure_of(line["figure"], module)
    return Measured(
        name=figure.name,
        module=module,
        figure=figure,
        failed="",
        full=run.setting.full,
        device=run.setting.device,
        measured_at=_now(),
        took_s=float(line["took_s"]),
        digest=run.digest,
        machine=run.machine,
    )


def _failure(run: Run, module: str, name: str, why: str) -> Measured:
    setting = run.setting
    return Measured(
        name, module, None, why, setting.full, setting.device, _now(), 0.0, run.digest, run.machine
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def told(measured: Measured) -> str:
    """A figure in a line.

    Args:
        measured: The figure.

    Returns:
        The line.
    """
    figure = measured.figure
    if figure is None:
        return f"FAILED: {measured.failed}"
    parts = [f"{figure.ours_s:.3g} s"]
    if figure.alternative_s is not None:
        times = figure.ours_s / figure.alternative_s
        parts.append(f"{times:.3g} x {figure.alternative} ({figure.alternative_s:.3g} s)")
    if figure.bound_s is not None:
        parts.append(f"{figure.bound_s / figure.ours_s:.0%} of the bound")
    if figure.target:
        parts.append(f"{figure.target}: {'reached' if figure.met else 'MISSED'}")
    if not figure.equal:
        parts.append("OUTPUTS DIFFER")
    return ", ".join(parts)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
