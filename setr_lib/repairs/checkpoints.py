"""``setr repair checkpoints``: checkpoints, notes and results of trainings.

A training passes over what is damaged by itself (``setr_lib.training.notes``), and says so; this looks at all
trainings at once, and clears away what they have put aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from setr_lib.faults import file_fault, json_fault, safetensors_fault
from setr_lib.pipeline.storage import or_run_everything
from setr_lib.repairs.aside import Finding, RepairError, SetAside
from setr_lib.settings import Settings
from setr_lib.training.notes import DAMAGED

_RESULT = "result.json"
_FOLDERS = ("checkpoints", "ablations")


def repair(settings: Settings, aside: SetAside) -> tuple[int, list[Finding]]:
    """Look at the folder of every training; set aside what it cannot use.

    Args:
        settings: They say where trainings are kept.
        aside: Takes what is damaged.

    Returns:
        How many files are whole, and what was found.

    Raises:
        RepairError: A training uses a folder now.
    """
    again = (
        "its training goes on from the last whole checkpoint, or starts anew: materialize it again, "
        f"{or_run_everything(settings)}"
    )
    whole, findings = 0, list[Finding]()
    for root in dict.fromkeys(
        [settings.checkpoint_root, *(settings.storage_root / name for name in _FOLDERS)]
    ):
        if root.exists() and not root.is_dir():
            aside.take(root)
            findings.append(Finding(root, "is a file where a folder should be", aside.verb, again))
            continue
        for folder in sorted(root.glob("*")):
            if folder.name.startswith("."):
                if folder.name.endswith(".lock") and folder.is_dir():
                    aside.take(folder)
                    findings.append(Finding(folder, "is a folder where a lock file should be", aside.verb))
                continue
            with _unused(folder):
                found = _looked_at(folder, aside, again)
            findings += found
            whole += sum(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else 0
    return whole, findings


def _looked_at(folder: Path, aside: SetAside, again: str) -> list[Finding]:
    if not folder.is_dir():
        aside.take(folder)
        return [Finding(folder, "is a file where a folder should be", aside.verb, again)]
    findings, unfinished = list[Finding](), False
    for path in sorted(folder.glob("*")):
        if path.name.startswith(DAMAGED):
            aside.take(path)
            findings.append(Finding(path, "was put aside by a training", aside.verb))
            continue
        fault = _fault(path)
        if fault is not None:
            aside.take(path)
            findings.append(Finding(path, fault, aside.verb, again))
            unfinished |= not path.name.startswith("step-") and path.name != "before.json"
    result = folder / _RESULT
    if unfinished and result.exists():
        # It says that all the rest is there.
        aside.take(result)
        findings.append(
            Finding(result, "is the result of a training whose files are damaged", aside.verb, again)
        )
    return findings


def _fault(path: Path) -> str | None:
    """What is wrong with a file of a training, or with a folder of its files."""
    if path.is_dir():
        if path.suffix in (".json", ".safetensors", ".parquet"):
            return "is a folder where a file should be"
        faults = ((each, _fault(each)) for each in sorted(path.rglob("*")))
        found = next(((each, fault) for each, fault in faults if fault is not None), None)
        if found is not None:
            return f"holds {found[0].name}, which {found[1]}"
        needed = ("state.json", "weights.safetensors", "moments.safetensors")
        missing = [name for name in needed if path.name.startswith("step-") and not (path / name).is_file()]
        return f"lacks {missing[0]}" if missing else None
    if path.name.startswith("step-") or (path.suffix == "" and not path.name.startswith(".")):
        return "is a file where a folder should be"
    if path.suffix == ".json":
        return json_fault(path) or _note_fault(path)
    if path.suffix == ".safetensors":
        return safetensors_fault(path)
    return _table_fault(path) if path.suffix == ".parquet" else None


def _note_fault(path: Path) -> str | None:
    """What is wrong with a note that is JSON: each says of which training it is."""
    from setr_lib.files import read_json

    note, is_config = read_json(path) or {}, path.name == "adapter_config.json"
    return None if is_config or isinstance(note.get("run"), str) else "lacks what SETR writes there"


def _table_fault(path: Path) -> str | None:
    import polars as pl

    if (fault := file_fault(path)) is not None:
        return fault
    try:
        pl.read_parquet(path, use_statistics=False)
    except Exception:
        return "is cut or overwritten"
    return None


@contextmanager
def _unused(folder: Path) -> Iterator[None]:
    """Hold the lock of a training's folder.

    Raises:
        RepairError: A training holds it.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        import fcntl
    except ImportError:
        yield
        return
    if not lock.is_file():
        yield
        return
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepairError(
                f"{folder}: a training uses it now: wait for its end, then repair again"
            ) from None
        yield
