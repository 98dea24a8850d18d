"""SIGKILL in the middle of every long step, then the same command again: the same tables as a run that nobody
killed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_world import tables, write_world

from setr_lib.content_cache import ContentCache
from setr_lib.settings import Settings, load_settings

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

STEPS = {
    "gallery_embeddings": "",
    "query_compositions": "",
    "reranker_adapter": "",
    "reranked_rankings": ": base judge: ",
}
"""The long steps, and what each must have said before it is killed: re-ranking, that the adapter's turn has
come."""


def started(folder: Path) -> subprocess.Popen[bytes]:
    """The demo as a person starts it, in a session of its own so that all of it can be killed."""
    environment = {**os.environ, "SETR_CONFIG": str(folder / "setr.toml"), "PYTHONUNBUFFERED": "1"}
    with (folder / "demo.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "setr_lib.cli", "run"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_during(folder: Path, step: str) -> None:
    """Start the demo and kill it once ``step`` has stored a part of its work, or of its last part."""
    process = started(folder)
    settings = load_settings(folder / "setr.toml")
    try:
        deadline = time.monotonic() + 600
        before = progress_of(settings, step)
        while not has_begun(folder, step) or progress_of(settings, step) <= before:
            before = before if has_begun(folder, step) else progress_of(settings, step)
            assert process.poll() is None, f"ended before it could be killed in {step}: {log_of(folder)}"
            assert time.monotonic() < deadline, log_of(folder)
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def has_begun(folder: Path, step: str) -> bool:
    """Whether ``step`` runs and has come as far as it is to be killed, in the last of the runs that the log
    tells of.
    """
    last_run = log_of(folder).rsplit("queries ...", 1)[-1]
    return STEPS[step] in last_run.partition(f"{step} ...")[2] and f"{step} ..." in last_run


def progress_of(settings: Settings, step: str) -> int:
    """How many pieces of what ``step`` makes are on disk; other steps may have made some of the same kind
    before it.
    """
    if step == "gallery_embeddings":
        return sum(1 for _ in (settings.storage_root / "lancedb").rglob("*.lance"))
    if step == "reranker_adapter":
        return sum(1 for _ in settings.checkpoint_root.rglob("step-*"))
    return count_kept(settings, "composing" if step == "query_compositions" else "judge_scores")


def count_kept(settings: Settings, kind: str) -> int:
    import sqlite3

    if not settings.cache_path.is_file():
        return 0
    ContentCache(settings.cache_path, kind)
    with sqlite3.connect(settings.cache_path) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {kind}").fetchone()[0])


def log_of(folder: Path) -> str:
    return (folder / "demo.log").read_text(encoding="utf-8", errors="replace")


def finish(folder: Path) -> str:
    """Run the demo to its end; what it printed."""
    (folder / "demo.log").write_bytes(b"")
    assert started(folder).wait(timeout=1800) == 0, log_of(folder)
    return log_of(folder)


def test_killed_runs_end_in_the_same_tables(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    write_world(calm)
    shutil.copytree(calm, killed)
    finish(calm)
    for step in STEPS:
        kill_during(killed, step)
    printed = finish(killed)
    embedded = re.findall(r"([\d,]+) embedded now", printed)
    assert set(embedded) <= {"0"}, f"what was embedded before the kills was embedded again: {embedded}"
    expected, found = tables(load_settings(calm / "setr.toml")), tables(load_settings(killed / "setr.toml"))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not found[name].equals(expected[name])] == []
