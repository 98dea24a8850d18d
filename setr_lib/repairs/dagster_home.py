"""``setr repair dagster``: Dagster's databases of runs, events and schedules, and its settings file.

Only the history is in them: what runs have made lies under the storage root, and a run finds it there.
"""

from __future__ import annotations

import os
from pathlib import Path

from setr_lib.faults import file_fault, sqlite_fault
from setr_lib.repairs.aside import Finding, SetAside, refuse_in_use
from setr_lib.repairs.sqlite_rows import salvage
from setr_lib.settings import Settings

_INSTANCE = "dagster.yaml"
_FOLDERS = ("history", "history/runs", "schedules", "storage")
_SETTINGS = "`setr env --write` writes SETR's own settings of it"
_AGAIN = "the next run begins a new one; tables, vectors and reports do not depend on it"


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Look at the databases below DAGSTER_HOME; keep the readable rows of damaged ones.

    Args:
        settings: They say where DAGSTER_HOME is, unless the environment does.
        aside: Takes what is damaged.

    Returns:
        How many files are whole, and what was found.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or settings.base_dir / "dagster_home")
    if not home.exists():
        return 0, []
    if not home.is_dir():
        if not home.absolute().is_relative_to(settings.base_dir.absolute()):
            left = "left: the variable DAGSTER_HOME names it; unset it, or name a folder"
            return 0, [Finding(home, "is a file where a folder should be", left, mended=False)]
        aside.take(home)
        if not aside.look_only:
            home.mkdir()  # Dagster's commands refuse one that is not there
        return 0, [Finding(home, "is a file where a folder should be", aside.verb, _SETTINGS)]
    findings = list[Finding]()
    for name in _FOLDERS:
        folder = home / name
        if folder.exists() and not folder.is_dir():
            aside.take(folder)
            findings.append(Finding(folder, "is a file where a folder should be", aside.verb, _AGAIN))
    if (fault := _instance_fault(home / _INSTANCE)) is not None:
        aside.take(home / _INSTANCE)
        findings.append(Finding(home / _INSTANCE, fault, aside.verb, _SETTINGS))
    whole = 0
    for path in sorted(home.rglob("*.db")):
        fault = sqlite_fault(path, "alembic_version")
        if fault is None:
            whole += 1
        else:
            findings.append(_mended(path, fault, aside))
    return whole, findings


def dagster_home_fault(home: Path) -> tuple[Path, str] | None:
    """The first thing that is damaged below DAGSTER_HOME.

    Args:
        home: The folder.

    Returns:
        The file, and what is wrong with it; None where nothing is.
    """
    if not home.is_dir():
        return None
    if (found := layout_fault(home)) is not None:
        return found
    for path in sorted(home.rglob("*.db")):
        if (fault := sqlite_fault(path, "alembic_version")) is not None:
            return path, fault
    return None


def layout_fault(home: Path) -> tuple[Path, str] | None:
    """The first thing that is wrong with the folders and the settings below DAGSTER_HOME.

    Args:
        home: The folder.

    Returns:
        The file or folder, and what is wrong with it; None where nothing is.
    """
    for name in _FOLDERS:
        if (home / name).exists() and not (home / name).is_dir():
            return home / name, "is a file where a folder should be"
    if (fault := _instance_fault(home / _INSTANCE)) is not None:
        return home / _INSTANCE, fault
    return None


def _instance_fault(path: Path) -> str | None:
    if not path.exists() and not path.is_symlink():
        return None
    fault = file_fault(path)
    if fault is not None and fault != "is empty":
        return fault
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        return "is not YAML: cut or overwritten"
    return None if content is None or isinstance(content, dict) else "holds no settings"


def _mended(path: Path, fault: str, aside: SetAside) -> Finding:
    if not path.is_file():
        aside.take(path)
        return Finding(path, fault, aside.verb, _AGAIN)
    refuse_in_use(path)
    if aside.look_only:
        return Finding(path, fault, "its readable rows would be kept", mended=False)
    fresh = path.with_name(f".{path.name}.mended")
    fresh.unlink(missing_ok=True)
    kept = salvage(path, fresh)
    for end in ("", "-wal", "-shm", "-journal"):
        aside.take(path.with_name(path.name + end))
    if kept.rows.get("alembic_version"):
        fresh.replace(path)
        return Finding(path, fault, f"{aside.verb}; {kept.total:,} readable rows of it are kept", "")
    fresh.unlink(missing_ok=True)
    return Finding(path, fault, aside.verb, _AGAIN)
