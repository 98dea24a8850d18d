"""``setr repair reports``: the report pages. They are made of tables, so nothing is lost with them."""

from __future__ import annotations

import os
from pathlib import Path

from setr_lib.pipeline.storage import or_run_everything
from setr_lib.repairs.aside import Finding, SetAside
from setr_lib.settings import Settings

_END = 64
"""Bytes at the end of a page that are looked at."""
_FILES = {".html", ".jpg", ".jpeg", ".png", ".webp", ".svg", ".css", ".js", ".json", ".csv", ".parquet"}


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Set aside what stands in the way of report files.

    Args:
        settings: They say where reports lie.
        aside: Takes what is in the way.

    Returns:
        How many files are whole, and what was found.
    """
    root = settings.report_root
    again = f"materialize 'evaluation_report' again, {or_run_everything(settings)}"
    if not root.exists() and not root.is_symlink():
        return 0, []
    if not root.is_dir():
        aside.take(root)
        return 0, [Finding(root, "is a file where a folder should be", aside.verb, again)]
    whole, findings = 0, list[Finding]()
    for path in [root, *sorted(root.rglob("*"))]:
        if not path.exists() and not path.is_symlink():
            continue  # set aside with its folder
        finding = _in_the_way(path, root, aside, again)
        if finding is not None:
            findings.append(finding)
        elif path.is_file():
            whole += 1
    return whole, findings


def _page_fault(path: Path) -> str | None:
    """What is wrong with a page, as far as its length and its end tell."""
    if path.stat().st_size == 0:
        return "is empty"
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _END), os.SEEK_END)
        return None if file.read().rstrip().endswith(b"</html>") else "is cut or overwritten"


def _in_the_way(path: Path, root: Path, aside: SetAside, again: str) -> Finding | None:
    fault = None
    if path.is_symlink() and not path.exists():
        fault = "is a link to nothing"
    elif path.is_dir() and path.suffix in _FILES:
        fault = "is a folder where a file should be"
    elif path.is_file() and path.parent == root and path.suffix not in _FILES:
        fault = "is a file where a folder should be"
    elif path.exists() and not (path.is_file() or path.is_dir()):
        fault = "is a pipe, a socket or a device where a file should be"
    elif path.is_file() and path.suffix == ".html":
        fault = _page_fault(path)
    if fault is None:
        return None
    aside.take(path)
    return Finding(path, fault, aside.verb, again)
