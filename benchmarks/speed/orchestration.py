"""What Dagster costs: the whole graph of `make demo` against the same library calls in a plain script."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.speed.figure import BenchSetting, Figure

NAMES = ("orchestration",)
REPOSITORY = Path(__file__).parents[2]
LIMIT = 1.10
"""The aim: at most this many times as long as the plain script."""
SIZE = 0.3
"""Of the miniature, in a short run."""
SHORT = {"reranking.pairs": {"groups": 100}, "reranking.adapter": {"epochs": 1.0}}
SHALLOW = {"\ntop_k = 50": "\ntop_k = 20", "rerank_top_k = 100": "rerank_top_k = 20"}
"""What a short run trains and judges less of; both ways do the same. The less models do, the more there is
to be seen of what Dagster costs."""
_TOGETHER = {
    "queries": "queries and gallery_images",
    "gallery_images": "queries and gallery_images",
    "reranker_adapter": "adapter",
    "registered_reranker": "adapter",
    "promoted_reranker": "adapter",
    "gallery_embeddings": "gallery_embeddings and texts",
    "reference_captions": "gallery_embeddings and texts",
    "query_compositions": "gallery_embeddings and texts",
    "method_texts": "gallery_embeddings and texts",
}
"""The assets that the plain script does as one step."""


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Run the graph both ways, each in a process and a project of its own that begins with nothing.

    Args:
        setting: How it is run.
        names: Of :data:`NAMES`.

    Yields:
        The figure.
    """
    project = setting.folder / "orchestration"
    size = 1.0 if setting.full else SIZE
    _write_project(project, size, setting.full)
    script = [sys.executable, "-m", "benchmarks.speed.plain_pipeline", "setr.toml"]
    plain, plain_processor, plain_steps = _run(project, script)
    expected = project / "var-of-the-script"
    shutil.rmtree(expected, ignore_errors=True)
    (project / "var").rename(expected)
    ours, our_processor, our_steps = _run(project, [sys.executable, "-m", "setr_lib.cli", "run"])
    faults = different_tables(expected / "tables", project / "var" / "tables")
    steps = together(our_steps)
    more = {name: seconds - plain_steps.get(name, 0.0) for name, seconds in steps.items()}
    inside = {"steps": sum(our_steps.values()), "steps of the script": sum(plain_steps.values())}
    outside = ours - inside["steps"] - (plain - inside["steps of the script"])
    yield Figure(
        "orchestration",
        f"the whole graph on the miniature of size {size:g}, from nothing to the leaderboard, by `make demo`",
        ours,
        "the same library calls in a plain script",
        plain,
        equal=not faults,
        checked="; ".join(faults) or "every table, row by row and exactly",
        target=f"at most {LIMIT:.2f} x the script",
        met=ours / plain <= LIMIT,
        also={
            "processor seconds": our_processor,
            "processor seconds of the script": plain_processor,
            "more than the script outside of steps, s": outside,
        },
        profile=sorted(
            [
                *(
                    (f"{name}, more than in the script", seconds)
                    for name, seconds in more.items()
                    if seconds > 0
                ),
                ("outside of steps, more than in the script", max(0.0, outside)),
            ],
            key=lambda part: -part[1],
        ),
    )


def _write_project(project: Path, size: float, full: bool) -> None:
    """Settings like the committed ones; nothing is left of an earlier run but the drawn pictures."""
    from setr_lib.settings import load_settings
    from setr_lib.sources import sources_in_use

    project.mkdir(parents=True, exist_ok=True)
    for name in ("var", "dagster_home"):
        shutil.rmtree(project / name, ignore_errors=True)
    text = (REPOSITORY / "setr.toml").read_text(encoding="utf-8")
    text = text.replace("setr_lib/miniature", str(REPOSITORY / "setr_lib" / "miniature"))
    text = text.replace("size = 1.0", f"size = {size:g}")
    if not full:
        text = _shortened(text)
    (project / "setr.toml").write_text(text, encoding="utf-8")
    home = project / "dagster_home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    settings, drawn = load_settings(project / "setr.toml"), project / f"miniature-{size:g}"
    if drawn.is_dir():
        shutil.copytree(drawn, settings.miniature_root)
    for source in sources_in_use(settings):  # what is drawn already is found to be
        source.prepare(lambda done, total, what: None)
    if not drawn.is_dir():
        shutil.copytree(settings.miniature_root, drawn)


def _shortened(text: str) -> str:
    """Settings of a short run."""
    for line, shorter in SHALLOW.items():
        text = text.replace(line, shorter)
    for section, options in SHORT.items():
        lines = "\n".join(f"{name} = {value}" for name, value in options.items())
        if f"[{section}]\n" in text:
            text = text.replace(f"[{section}]\n", f"[{section}]\n{lines}\n")
        else:
            text += f"\n[{section}]\n{lines}\n"
    return text


def _run(project: Path, command: Sequence[str]) -> tuple[float, float, dict[str, float]]:
    """Seconds and processor seconds of a process in the project, and seconds of the steps that it told of."""
    drawn = next(project.glob("miniature-*"))
    if not (project / "var").is_dir():
        shutil.copytree(drawn, project / "var" / "miniature")
    environment = {
        **os.environ,
        "SETR_CONFIG": str(project / "setr.toml"),
        "DAGSTER_HOME": str(project / "dagster_home"),
    }
    begun, processor = perf_counter(), _processor_seconds()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    seconds = perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return seconds, _processor_seconds() - processor, steps_of(done.stdout + done.stderr)


def _processor_seconds() -> float:
    """Of all processes that have been started from here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def steps_of(printed: str) -> dict[str, float]:
    """The seconds of each step that a run has told of.

    Args:
        printed: What it printed.

    Returns:
        Seconds by step.
    """
    found: dict[str, float] = {}
    for name, seconds in re.findall(r"^ *done (.+) \(([0-9.]+) s\)$", printed, re.MULTILINE):
        found[name] = found.get(name, 0.0) + float(seconds)
    return found


def together(steps: Mapping[str, float]) -> dict[str, float]:
    """The seconds of assets, those that the plain script does as one step added up.

    Args:
        steps: Seconds by asset.

    Returns:
        Seconds by the name of the script's step.
    """
    found: dict[str, float] = {}
    for name, seconds in steps.items():
        step = _TOGETHER.get(name, name)
        found[step] = found.get(step, 0.0) + seconds
    return found


def different_tables(expected: Path, found: Path) -> list[str]:
    """What differs between the tables of two runs.

    Args:
        expected: The folder of the tables of one run.
        found: That of the other.

    Returns:
        A sentence for each table that is not the same; empty where all are.
    """
    import polars as pl

    names = sorted(
        {str(path.relative_to(folder)) for folder in (expected, found) for path in folder.rglob("*.parquet")}
    )
    faults = [] if names else ["there is no table"]
    for name in names:
        if not (expected / name).is_file() or not (found / name).is_file():
            faults.append(f"{name} is made by one of the two only")
        elif not pl.read_parquet(expected / name).equals(pl.read_parquet(found / name)):
            faults.append(f"{name} differs")
    return faults
