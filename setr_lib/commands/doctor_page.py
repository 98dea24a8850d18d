"""Output of ``setr doctor`` on a terminal: tables, then what is missing, then what can be done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from setr_lib.benchmarks.audit import Examination, FileState, capabilities
from setr_lib.commands.console import size_words, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from setr_lib.commands.doctor import Diagnosis, Disk, Training

_STYLES = {
    "ok": "green",
    "later": "dim",
    "warning": "yellow",
    "missing": "red",
    "broken": "red",
    "other count": "yellow",
}


_LONGEST = 160
"""A fault in more characters is told once, in the list at the end, and not in a column of the table, too."""


def print_page(found: Diagnosis) -> None:
    """Print the findings on standard output; paths are never cut or wrapped, so that they can be copied.

    Args:
        found: The findings.
    """
    console = terminal()
    console.print(_setup(found))
    if found.examinations:
        console.print(_sets(found.examinations))
    for examination in found.examinations:
        _print_set(console, found, examination)
    if found.training is not None:
        _line(console, "training images", _training(found.training), indent=0)
    _print_disk(console, found.disk)
    _print_verdict(console, found)


def _setup(found: Diagnosis) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Installed and configured", title_justify="left")
    for column in ("what", "status", "which"):
        table.add_column(column, overflow="fold")
    absent = [name for name, version in found.packages.items() if version is None]
    packages = f"python {found.packages['python']}, {len(found.packages) - 1 - len(absent)} required packages"
    lacking = "; not installed: " + ", ".join(absent) if absent else ""
    table.add_row("packages", _status("missing" if absent else "ok"), Text(packages + lacking))
    for check in found.checks:
        told_below = check.at_fault and len(check.detail) > _LONGEST
        words = "what to do stands at the end" if told_below else check.detail
        detail = f" ({words})" if words else ""
        table.add_row(check.what, _status(check.status), Text(check.value + detail))
    return table


def _sets(examinations: Iterable[Examination]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Evaluation sets", title_justify="left")
    for column in ("set", "counts", "files", "queries", "images here"):
        table.add_column(column, justify="left" if column in ("set", "counts") else "right")
    for examination in examinations:
        fine = sum(state.status == "ok" for state in examination.files)
        images = examination.images
        table.add_row(
            examination.evaluation_set.key,
            _counts_of(examination),
            Text(
                f"{fine} of {len(examination.files)}",
                style="green" if fine == len(examination.files) else "red",
            ),
            Text("unreadable", style="red") if examination.queries is None else f"{examination.queries:,}",
            Text("not listed", style="red")
            if images is None
            else Text(f"{images.ok:,} of {images.total:,}", style="green" if images.coverage == 1 else "red"),
        )
    return table


def _training(training: Training) -> str:
    if not training.is_named:
        return (
            "none: no adapter can be trained before [training] names captions, triplets or a data set that "
            "has a train split"
        )
    counts = f"{training.images:,}"
    if training.triplets is not None:
        whose = "" if training.dataset is None else f" of {training.dataset}'s train split"
        counts += f" in {training.triplets:,} triplets{whose}"
    if training.problems and training.images:
        return f"{counts}; {'; '.join(training.problems)}"
    return "; ".join(training.problems) or f"{counts}, all here"


def _counts_of(examination: Examination) -> str:
    if examination.maker is not None:
        return f"{examination.maker.shown_name}'s own"
    return "official" if examination.is_official else "your own"


def _print_set(console: Console, found: Diagnosis, examination: Examination) -> None:
    console.print(Text(examination.evaluation_set.key, style="bold"))
    files = [*examination.files, *([examination.captions] if examination.captions is not None else [])]
    for state in files:
        detail = f": {_contents(examination, state)}" if state.status == "ok" else f": {state.detail}"
        detail = f" ({state.file.what})" if state.status == "missing" else detail
        _line(console, _status(state.status), f"{state.file.path}{detail}")
    sources = dict.fromkeys(state.file.source for state in files)
    if examination.is_official or any(state.status != "ok" for state in files):
        _line(console, "from", "; ".join(sources), indent=6)
    if examination.images is None or examination.images.missing or examination.is_official:
        to_come = examination.bytes_to_come
        size = f", about {size_words(to_come)} to come ({examination.basis})" if to_come else ""
        _line(console, "images", f"{examination.source.folder}{size}")
        _line(console, "from", examination.source.source, indent=6)
    for example in examination.images.examples if examination.images is not None else ():
        _line(console, "e.g.", example, indent=6)
    for warning in examination.warnings:
        _line(console, _status("warning"), warning)
    for can in capabilities(examination):
        mark = Text("can", style="green") if can.possible else Text("cannot yet", style="yellow")
        _line(console, mark, f"{can.what}: {can.detail}")
    imported = found.imported[examination.evaluation_set.key]
    if imported.captions or imported.compositions:
        _line(console, "imported", f"{imported.captions:,} captions, {imported.compositions:,} compositions")
    console.print()


def _contents(examination: Examination, state: FileState) -> str:
    official = state.file.entries if examination.is_official else None
    entries = "" if state.entries is None else f", {state.entries:,} entries"
    return state.file.what + entries + ("" if official is None else f" (official: {official:,})")


def _print_disk(console: Console, disk: Disk) -> None:
    parts = (
        f"images {size_words(disk.images)}, vectors {size_words(disk.vectors)}, kept answers "
        f"{size_words(disk.answers)}"
    )
    features = f"; vision features, up to {size_words(disk.features)} more" if disk.features else ""
    unknown = f"; images of unknown size: {', '.join(disk.unknown)}" if disk.unknown else ""
    free = "" if disk.free is None else f"; free: {size_words(disk.free)}"
    images = ", ".join(f"{count:,} images in {space}" for space, count in disk.embedded.items())
    _line(console, "embedding spaces", f"{images}: each image is embedded once in a space", indent=0)
    _line(
        console,
        "disk needed beside the models",
        f"about {size_words(disk.needed)} ({parts}){features}{unknown}{free}",
        indent=0,
    )


def _print_verdict(console: Console, found: Diagnosis) -> None:
    console.print()
    if not found.problems and not found.settings.datasets:
        console.print(
            Text("no data set is configured: nothing can be searched or measured yet", style="yellow")
        )
        return
    if not found.problems:
        opened = "" if found.opened else " (images were looked for, not opened)"
        console.print(Text(f"all that the configured data sets need is there{opened}", style="green"))
        return
    console.print(Text(f"{len(found.problems)} to mend:", style="bold red"))
    for problem in found.problems:
        _line(console, "-", problem)


def _status(status: str) -> Text:
    return Text(status, style=_STYLES[status])


def _line(console: Console, mark: str | Text, text: str, indent: int = 2) -> None:
    console.print(Text.assemble(" " * indent, mark, " ", text), soft_wrap=True, highlight=False)
