"""``setr search``: composed queries of a person's own, through both stages, over an embedded gallery: one
(``IMAGE "TEXT"``), or those of a file, for which models are loaded once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from setr_lib.commands.console import (
    progress_on_terminal,
    quieten_libraries,
    results_alone,
    say_error,
    talk,
)
from setr_lib.commands.outputs import check_output_file, check_output_folder
from setr_lib.commands.search_page import (
    check_sheet_ending,
    is_contact_sheet,
    print_answer,
    save_sheet,
    sheet_name,
)
from setr_lib.commands.searching import Search, Wanted, prepared
from setr_lib.errors import SetrError
from setr_lib.pipeline.answer_document import answer_document
from setr_lib.pipeline.asked_queries import AskedQuery, FaultyRow, read_asked_queries, reference_file
from setr_lib.pipeline.faults import IMAGES, cut_words, fault_lines
from setr_lib.pipeline.retriever import Retriever, SearchResult, reference_row
from setr_lib.progress import Progress, silent
from setr_lib.settings import Settings


def run(
    settings: Settings, image: Path, text: str, wanted: Wanted, *, as_json: bool, output: Path | None
) -> int:
    """Print the first images as a table and write a contact sheet; or print one JSON document.

    Args:
        settings: The settings.
        image: The reference image's file.
        text: The modification text.
        wanted: What is searched, and how.
        as_json: Print one JSON document, and write a contact sheet only where ``output`` names it.
        output: The contact sheet's file; by default one under the report root.

    Returns:
        The exit status.

    Raises:
        SetrError: The query, or what it names, cannot be searched; the message says what to do.
    """
    if not text.strip():
        raise SetrError("the modification text is empty: say what should differ from the image")
    check_output_file(output, is_contact_sheet)
    check_sheet_ending(output)
    quieten_libraries()
    search = prepared(settings, wanted)
    _refuse_missing(image, search)
    with progress_on_terminal() as progress, results_alone():
        # One query is not worth holding the gallery's vectors for.
        retriever = Retriever.from_evaluation_set(search.searched.key, settings, hold_vectors=False)
        found = _found(retriever, search, image, text, progress)
    sheet = output or (None if as_json else _usual_sheet(settings, image, text, found, wanted.gallery))
    if sheet is not None:
        save_sheet(sheet, image, text, found, search)
    _tell_stale(search, found)
    _tell_empty(search, found)
    if as_json:
        document = _document(search, found, image, text)
        print(json.dumps(document | {"contact_sheet": _text(sheet)}, ensure_ascii=False, indent=1))
        return 0
    print_answer(found, search)
    print(f"contact sheet: {sheet}")
    for line in [*cut_words(found.cut), *fault_lines(search.context, search.searched.key, only=IMAGES)]:
        print(line)
    return 0


def run_many(settings: Settings, file: Path, wanted: Wanted, *, as_json: bool, output: Path | None) -> int:
    """Search every query of a file, each printed as soon as its answer is there: a table, or a line of JSON.

    Args:
        settings: The settings.
        file: The queries, see :func:`setr_lib.pipeline.asked_queries.read_asked_queries`; ``-`` for standard
            input.
        wanted: What is searched, and how.
        as_json: Print a JSON document a line. That of a row that could not be searched has ``error``.
        output: The folder of contact sheets; by default none is drawn.

    Returns:
        0, or 1 where a row could not be searched.

    Raises:
        SetrError: The file, or what the search needs, is at fault.
    """
    check_output_folder(output)
    name, folder, content = str(file), file.absolute().parent, None
    if file == _STANDARD_INPUT:
        name, folder, content = "standard input", Path.cwd(), sys.stdin.buffer.read()
    rows = read_asked_queries(name, content)
    quieten_libraries()
    search = prepared(settings, wanted)
    with results_alone():
        retriever = Retriever.from_evaluation_set(search.searched.key, settings)
    page = _Page(search, name, as_json=as_json, sheets=output)
    # On a terminal the answers themselves show how far the search is.
    with nullcontext(silent) if sys.stdout.isatty() else progress_on_terminal() as progress:
        for number, (row, answer) in enumerate(_answers(retriever, search, folder, rows), start=1):
            if isinstance(answer, str):
                page.fault(row, answer)
            else:
                page.answer(row, *answer)
            progress(number, len(rows), "queries searched")
    if page.faults:
        say_error(f"{page.faults:,} of {len(rows):,} rows of {name} could not be searched")
    return 1 if page.faults else 0


class _Page:
    """What is printed of the rows of a file.

    Args:
        search: What was searched.
        file: What the file is called.
        as_json: Print a JSON document a line, not tables.
        sheets: The folder of contact sheets; None where none is drawn.
    """

    def __init__(self, search: Search, file: str, *, as_json: bool, sheets: Path | None) -> None:
        self._search, self._file, self._as_json, self._sheets = search, file, as_json, sheets
        self._told_stale = False
        self.faults = 0
        """Rows that have no answer."""

    def fault(self, row: AskedQuery | FaultyRow, reason: str) -> None:
        """Tell why a row has no answer."""
        self.faults += 1
        say_error(f"{self._file}, {_line(row)}: {reason}")
        if self._as_json:
            self._print({"line": row.line, "id": row.id, "error": reason})

    def answer(self, row: AskedQuery | FaultyRow, image: Path, text: str, found: SearchResult) -> None:
        """Print the answer to a row."""
        sheet = None
        if self._sheets is not None:
            name = sheet_name(image, text, found, self._search.wanted.gallery)
            sheet = self._sheets / f"{row.line:04d}-{name}.png"
            save_sheet(sheet, image, text, found, self._search)
        _tell_empty(self._search, found)
        if not self._told_stale:
            self._told_stale = bool(found.stale)
            _tell_stale(self._search, found)
        if not self._as_json:
            print_answer(found, self._search, title=f"{_line(row)} · {text}")
            return
        document = _document(self._search, found, image, text)
        self._print({"line": row.line, "id": row.id, **document, "contact_sheet": _text(sheet)})

    @staticmethod
    def _print(document: dict[str, Any]) -> None:
        print(json.dumps(document, ensure_ascii=False), flush=True)


def _line(row: AskedQuery | FaultyRow) -> str:
    return f"line {row.line}" + (f" ({row.id})" if row.id else "")


_STANDARD_INPUT = Path("-")
Answer = tuple[Path, str, SearchResult]
"""Reference image, modification text, and what was found."""


def _answers(
    retriever: Retriever, search: Search, folder: Path, rows: list[AskedQuery | FaultyRow]
) -> Iterator[tuple[AskedQuery | FaultyRow, Answer | str]]:
    """Each row with its answer, or with why it has none; references are looked for from ``folder``, too."""
    paths, is_answered = search.paths(), False
    for row in rows:
        if isinstance(row, FaultyRow):
            yield row, row.reason
            continue
        try:
            image = reference_file(row, folder, paths)
            reference_row(image, search.searched.pixels)
        except SetrError as error:
            yield row, str(error)
            continue
        try:
            with results_alone():
                found = _found(retriever, search, image, row.text, silent)
        except SetrError as error:
            if not is_answered:
                raise  # a model that is not there, say: no row's fault
            yield row, str(error)
        else:
            is_answered = True
            yield row, (image, row.text, found)


def _found(retriever: Retriever, search: Search, image: Path, text: str, progress: Progress) -> SearchResult:
    return retriever.search(
        image,
        text,
        k=search.k,
        method=search.wanted.method,
        reranker=search.reranker,
        gallery=search.wanted.gallery,
        progress=progress,
    )


def _document(search: Search, found: SearchResult, image: Path, text: str) -> dict[str, Any]:
    return answer_document(found, image, text, key=search.searched.key, gallery=search.wanted.gallery)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _usual_sheet(
    settings: Settings, image: Path, text: str, found: SearchResult, gallery: str | None
) -> Path:
    return settings.report_root / "searches" / f"{sheet_name(image, text, found, gallery)}.png"


def _tell_stale(search: Search, found: SearchResult) -> None:
    if found.stale:
        talk(search.stale_words(dict(found.stale), found.coarse.height), warning=True)


def _tell_empty(search: Search, found: SearchResult) -> None:
    if next(iter(found), None) is None:
        talk(
            f"nothing is found: no picture of {search.where} but the reference itself (or a copy of it), "
            "which is left out"
        )


def _refuse_missing(image: Path, search: Search) -> None:
    """Say which image is meant where there is no file: ids of the gallery are no paths from here."""
    from setr_lib.benchmarks.annotations import is_there
    from setr_lib.benchmarks.near_ids import near_ids

    if is_there(image):
        return
    key, paths, name, hint = search.searched.key, search.paths(), str(image), ""
    if name in paths:
        hint = f"; {name!r} is an id of {key}: write the path of its file, {paths[name]}"
    elif (found := near_ids(paths).near(name)) is not None:
        hint = f"; did you mean {paths[found.id]}, the image {found.id!r} of {key}? ({found.reason})"
    raise SetrError(f"{image}: the reference image is missing: there is no such file{hint}")
