"""``setr init PHOTOS``: the first settings file, for a folder of pictures and perhaps a table of queries."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.escaping import visible
from setr_lib.files import write_text
from setr_lib.paths import expanded, kind_of
from setr_lib.settings import (
    CONFIG_VARIABLE,
    DEFAULT_ENCODER,
    DEFAULT_PRETRAINED,
    NAMES_OF_KINDS,
    SETTINGS_FILE,
    DatasetSettings,
    JudgeSettings,
    Settings,
    find_settings_file,
    load_settings,
)
from setr_lib.typed import explained_commands, typed

if TYPE_CHECKING:
    from setr_lib.benchmarks import EvaluationSet

_SAMPLE = 32
"""Pictures that are opened; all are listed."""
_SHOWN = 3
_TRIAL = 5
"""Queries of the trial that is recommended."""
_LONGEST_NAME = 40
_NO_FOLDER: Mapping[str | None, str] = {
    "file": "is a file: name the folder that it is in",
    "hidden": "this user may not look at it (permission denied)",
}
"""Why a path is no folder of pictures, by what is there."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Looked:
    """What was found of a folder of pictures."""

    name: str
    """The data set's name."""
    root: str
    """As the settings file has it."""
    queries: str | None
    """The file of queries as the settings file has it."""
    example: str
    """A picture, as a command line has it from here."""
    pictures: int
    asked: int
    """Queries."""
    scored: int
    """Queries with a target."""
    notes: list[str]
    """What a person should know."""


def run(photos: Path, queries: Path | None, *, quiet: bool = False) -> int:
    """Write ``setr.toml`` into the current folder, and say what comes next.

    Args:
        photos: The folder of pictures.
        queries: The file of queries; by default the one that lies in the folder, if any.
        quiet: Whether to print nothing but errors.

    Returns:
        The exit status: 0, or 1 where there is a settings file already, which stays as it is.

    Raises:
        SetrError: There are no pictures, the queries are wrong, or the file cannot be written.
    """
    here = Path.cwd()
    file = here / SETTINGS_FILE
    known = _data_sets(file)
    found = look(photos, queries, here, frozenset(known))
    if not quiet:
        for note in found.notes:
            print(f"setr: {note}", file=sys.stderr)
    if same := [name for name, root in known.items() if _is_same(root, photos)]:
        there = f"{file} has this folder already, as the data set {same[0]!r}"
        if queries is None:
            print(f"setr: {there}", file=sys.stderr)
        else:
            print(f"setr: {there}: put this line into its section", file=sys.stderr)
            print(_queries_line(found))
        return 1
    if file.exists() or file.is_symlink():
        print(f"setr: {file} is there already and stays as it is: add this section to it", file=sys.stderr)
        print(section(found))
        return 1
    above = find_settings_file(here)
    try:
        write_text(file, settings_text(found))
    except OSError as error:
        raise SetrError(f"{file}: cannot be written ({error.strerror}): make the folder writable") from error
    load_settings(file)
    if not quiet:
        _tell(file, found, above)
        if above is not None and os.environ.get(CONFIG_VARIABLE) and not _is_same(above, file):
            print(
                f"setr: {CONFIG_VARIABLE} is set, so commands use {above} and not this file: "
                f"`unset {CONFIG_VARIABLE}` first",
                file=sys.stderr,
            )
    return 0


def look(photos: Path, queries: Path | None, here: Path, taken: frozenset[str] = frozenset()) -> Looked:
    """Look at a folder of pictures and its queries.

    Args:
        photos: The folder.
        queries: The file of queries, if one is named.
        here: The folder of the settings file.
        taken: Names of data sets that there are already.

    Returns:
        What the settings file and the person need.

    Raises:
        SetrError: The folder has no pictures, or the queries are wrong; it names the file, row and column.
    """
    from setr_lib.benchmarks.folder_gallery import gallery_listing
    from setr_lib.datasets import evaluation_set

    if (kind := kind_of(photos)) != "folder":
        raise SetrError(f"{photos}: {_NO_FOLDER.get(kind, 'there is no such folder')}")
    if queries is not None and kind_of(queries) in (None, "folder"):
        raise SetrError(f"{queries}: there is no such file of queries")
    for path in (photos, *([] if queries is None else [queries])):
        _refuse_unstatable(path, here)
    name = data_set_name(photos, taken)
    described = DatasetSettings(
        kind="folder",
        root=Path(_escaped(str(photos.resolve()))),
        queries=None if queries is None else Path(_escaped(str(queries.resolve()))),
    )
    settings = Settings(base_dir=here, datasets={name: described})
    searched = evaluation_set(settings, name)
    listing = gallery_listing(searched)
    names = () if listing is None else listing.names
    if listing is None or not names:
        raise SetrError(_no_pictures(photos, [] if listing is None else listing.notes))
    readable, unread = _opened(searched, names)
    if not readable:
        raise SetrError(f"{photos}: {unread[0]}")
    asked, scored, file, notes = _queries(searched)
    return Looked(
        name=name,
        root=_stated(photos, here),
        queries=None if file is None else _stated(file, here),
        example=_from_here(photos / readable[0], here),
        pictures=len(names),
        asked=asked,
        scored=scored,
        notes=[*listing.faults, *listing.notes, *notes, *unread],
    )


def data_set_name(photos: Path, taken: frozenset[str] = frozenset()) -> str:
    """A name for the data set: the folder's, in the letters that a name may have.

    Args:
        photos: The folder of pictures.
        taken: Names that there are already.

    Returns:
        The name; ``mine`` where the folder's own will not do, with a number where it is taken.
    """
    letters = unicodedata.normalize("NFKD", photos.resolve().name.casefold())
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))  # of their accents
    plain = re.sub(r"[^a-z0-9]+", "-", bare).strip("-")[:_LONGEST_NAME]
    name = plain.strip("-")
    if not name or name in NAMES_OF_KINDS:
        name = "mine"
    number, free = 1, name
    while free in taken:
        number, free = number + 1, f"{name}-{number + 1}"
    return free


def section(found: Looked) -> str:
    """The section of the data set.

    Args:
        found: What was found.

    Returns:
        TOML, with a comment on each line.
    """
    lines = [
        f"[datasets.{found.name}]",
        'kind = "folder" # a folder of your own: every picture in it and in its folders is searched',
        f"root = {found.root} # {_counted(found.pictures, 'picture', 'pictures')}",
    ]
    if found.queries is not None:
        lines.append(_queries_line(found))
    else:
        lines.append('# queries = "wishes.csv" # to measure; left out: queries.csv in the folder of pictures')
    return "\n".join(lines)


def settings_text(found: Looked) -> str:
    """The whole settings file.

    Args:
        found: What was found.

    Returns:
        TOML.
    """
    judge = JudgeSettings.model_fields["name"].default
    return f"""\
# SETR's settings. Relative paths start from this file's folder. Every key but those of the data set has a
# default and may be left out. A variable wins over the file, e.g. SETR_MODELS__DEVICE=cpu.

{section(found)}

[models]
device = "auto" # CUDA where there is one, then MPS, then the CPU; or e.g. "cuda:1"

[models.encoder] # stage 1: the CLIP model that embeds pictures and texts
name = "{DEFAULT_ENCODER}" # any architecture of open_clip
pretrained = "{DEFAULT_PRETRAINED}" # its weights

[models.judge] # the multimodal LLM: writes the caption of the wanted picture, then judges the candidates
name = "{judge}" # any image-text-to-text model of transformers

[coarse]
top_k = 50 # how many pictures stage 1 keeps for each query

[reranking]
top_k = 50 # how many of these the judge looks at; fewer are faster
# rerankers = [] # no judging at all: stage 1 alone

# [training] # to train the judge on pictures of your own: JSON Lines of {{"image": ..., "caption": ...}}
# captions = "captions.jsonl"
"""


def _data_sets(file: Path) -> dict[str, Path]:
    """The data sets of a settings file and their folders; none where it cannot be read."""
    try:
        stated = tomllib.loads(file.read_text(encoding="utf-8")).get("datasets", {})
        return {
            name: file.parent / expanded(str(section.get("root", ""))) for name, section in stated.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError):
        return {}


def _is_same(folder: Path, other: Path) -> bool:
    try:
        return folder.samefile(other)
    except OSError:
        return False


def _queries(searched: EvaluationSet) -> tuple[int, int, Path | None, list[str]]:
    """How many queries there are and have targets, their file, and what was assumed of it."""
    from setr_lib.benchmarks.kinds.folder import query_file
    from setr_lib.benchmarks.loading import read_queries

    file, frame = query_file(searched), read_queries(searched)
    scored = frame.filter(frame["target_ids"].list.len() > 0).height
    return frame.height, scored, file, searched.benchmark.query_notes(searched)


def _opened(searched: EvaluationSet, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The pictures of a sample that can be read, and of the others a sentence, if there are any."""
    import polars as pl

    from setr_lib.datasets import inspect_gallery

    folder = searched.benchmark.image_folder(searched)
    step = max(1, len(names) // _SAMPLE)
    sample = list(names[::step][:_SAMPLE])
    frame = pl.DataFrame(
        {
            "image_id": sample,
            "path": [f"{folder}/{name}" for name in sample],
            "galleries": [["all"]] * len(sample),
        }
    )
    looked = inspect_gallery(frame, rules=searched.pixels)
    bad, good = looked.filter(pl.col("status") != "ok"), looked.filter(status="ok")["image_id"].to_list()
    if bad.is_empty():
        return good, []
    shown = "; ".join(
        f"{name}: {why}" for name, why in bad.select("image_id", "detail").head(_SHOWN).iter_rows()
    )
    said = f"{bad.height} of {len(sample)} pictures that were opened cannot be read ({shown})"
    return good, [said if not good else f"{said}; `{typed('doctor')}` opens every one"]


def _no_pictures(photos: Path, notes: list[str]) -> str:
    from setr_lib.image_formats import readable_endings

    why = f" ({'; '.join(notes)})" if notes else ""
    return f"{photos}: no picture in it that can be read{why}: {', '.join(sorted(readable_endings()))} are"


def _queries_line(found: Looked) -> str:
    return f"queries = {found.queries} # {_query_words(found)}"


def _refuse_unstatable(path: Path, here: Path) -> None:
    """Refuse a path that no settings file can name: its letters are no text, or act on a terminal."""
    text = _from_here(path, here)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SetrError(f"{path}: the name is not UTF-8, so setr.toml cannot have it: rename it") from None
    if _CONTROL.search(text):
        raise SetrError(f"{visible(text)}: the name holds a control character or a line end: rename it")


def _stated(path: Path, here: Path) -> str:
    """A path as the settings file states it: relative where it is below the file's folder."""
    text = _from_here(path, here)
    text = f"./{text}" if text.startswith("~") else text
    return json.dumps(_escaped(text), ensure_ascii=False)


def _escaped(path: str) -> str:
    """A path as settings state it, in which a dollar sign begins a variable's name."""
    return path.replace("$", "$$")


def _from_here(path: Path, here: Path) -> str:
    whole, folder = path.resolve(), here.resolve()
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _query_words(found: Looked) -> str:
    words = _counted(found.asked, "query", "queries")
    if found.scored == found.asked:
        return words
    return f"{words}, {found.scored:,} of them with targets"


def _tell(file: Path, found: Looked, above: Path | None) -> None:
    queries = f", {_query_words(found)}" if found.queries is not None else ""
    print(
        f"wrote {file}: data set {found.name!r}, {_counted(found.pictures, 'picture', 'pictures')}{queries}"
    )
    if above is not None and not os.environ.get(CONFIG_VARIABLE):
        print(f"in this folder it is used in place of {above}")
    search = typed(f'search {_quoted(found.example)} "the same, but red"')
    steps = [
        (typed("doctor"), "what is still missing: weights to download, pictures that cannot be read"),
        (typed("plan"), "how long a run will take on this machine"),
    ]
    if found.scored:
        trial = (typed(f"run {found.name} --limit {_TRIAL}"), f"a trial on {_TRIAL} queries")
        steps += [
            *([trial] if found.asked > _TRIAL else []),
            (typed(f"run {found.name}"), "both stages, scores, a page"),
            (search, "a query of your own"),
        ]
    else:
        steps += [
            (typed(f"run {found.name} --until gallery_embeddings"), "embed the pictures"),
            (search, "search them, both stages"),
        ]
    print("next:")
    for line in explained_commands(steps):
        print(line)
    if not found.scored:
        print(
            "to measure, write queries with known answers as queries.csv into that folder of pictures: "
            "columns reference, modification, targets"
        )


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(f"./{path}" if path.startswith("-") else path)
