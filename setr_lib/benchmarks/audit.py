"""Audit of an evaluation set: which files and images are present, compared with the official counts, and what
they suffice for.

For people whose data is incomplete: nothing here raises because something is missing or broken; it is
reported instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import polars as pl

from setr_lib.benchmarks.annotations import Unique, is_there, numbered_lines, read_json, read_rows
from setr_lib.benchmarks.benchmark import YOUR_OWN, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.folder_gallery import gallery_listing, reference_listing
from setr_lib.benchmarks.image_captions import CAPTIONS_FILE, captions_file
from setr_lib.benchmarks.image_folders import FolderListing
from setr_lib.benchmarks.image_ids import check_image_ids
from setr_lib.benchmarks.loading import read_gallery, read_queries
from setr_lib.benchmarks.near_ids import NearIds
from setr_lib.benchmarks.roots import image_root_hint, root_hint
from setr_lib.benchmarks.sets import EvaluationSet
from setr_lib.benchmarks.source import DataSource, maker_of
from setr_lib.errors import SetrError, told_as

Look = Callable[[pl.DataFrame], pl.DataFrame]
"""From a listed gallery to the same with ``status`` (``ok``, ``missing``, ``broken``) and ``detail``."""

_EXAMPLES = 3
_MOST_RATIO = 200
"""How many times as long as the other a side of an image may be for Qwen-VL's processor."""
_SIZES = 200
"""How many files are measured to estimate the mean size."""


@dataclass(frozen=True)
class FileState:
    """One annotation file as it was found."""

    file: OfficialFile
    status: Literal["ok", "missing", "broken", "other count"]
    entries: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class ImageState:
    """The images of a gallery as they were found; numbers are images."""

    listed: dict[str, int]
    """By gallery name, as the annotation files list them; an image may be in two galleries. Where every query
    has a gallery of its own, all of their images together."""
    official: dict[str, int] | None
    ok: int
    missing: int
    broken: int
    examples: tuple[str, ...]
    """A few of those that cannot be used, with the reason."""
    references: int = 0
    """Of all of these, reference images that are in no gallery."""
    is_whole: bool = True
    """Whether the image folders could be listed to the end; True where annotation files list the images."""
    links: int = 0
    """Links to folders elsewhere that are not followed, by rule."""

    @property
    def total(self) -> int:
        """How many images the gallery lists."""
        return self.ok + self.missing + self.broken

    @property
    def coverage(self) -> float:
        """Share (0 to 1) of the gallery that can be ranked."""
        return self.ok / self.total if self.total else 0.0


@dataclass(frozen=True)
class Capability:
    """Something that can, or cannot yet, be done with what is here."""

    what: str
    possible: bool
    detail: str


@dataclass(frozen=True)
class Examination:
    """Everything found out about one evaluation set."""

    evaluation_set: EvaluationSet
    gallery_key: str
    """The name that sets which share a gallery have for it; the set's own key where it cannot be had."""
    maker: DataSource | None
    """What makes this data, where it is neither a download nor a person's own."""
    files: tuple[FileState, ...]
    queries: int | None
    """``None`` where they cannot be read."""
    scored: int
    """Queries with known targets."""
    images: ImageState | None
    """``None`` where the gallery cannot even be listed."""
    source: ImageSource
    bytes_each: float | None
    """About what an image takes on disk; ``None`` where nothing tells."""
    basis: str
    """How that number was estimated."""
    captions: FileState | None
    """The file of gallery captions, where there is one."""
    captioned: int
    """Gallery images with a caption in that file."""
    problems: tuple[str, ...]
    """What is missing or broken, one line each; empty where all is here."""
    warnings: tuple[str, ...] = ()
    """What is odd but stops nothing, one line each."""

    @property
    def is_official(self) -> bool:
        """Whether the benchmark's official counts are what should be here."""
        return self.maker is None and self.evaluation_set.has_official_counts

    @property
    def counts_of(self) -> str:
        """Whose counts are expected: ``official``, ``own`` (a person's), or the name of the data source."""
        if self.maker is not None:
            return self.maker.name
        return "official" if self.is_official else "own"

    @property
    def gallery_size(self) -> int | None:
        """Images of the gallery; the official number where it cannot be listed yet."""
        if self.images is not None:
            return self.images.total
        official = self.evaluation_set.official_images if self.is_official else None
        return None if official is None else sum(official.values())

    @property
    def bytes_to_come(self) -> int | None:
        """About what the images that are missing will take; ``None`` where nothing tells."""
        missing = self.gallery_size if self.images is None else self.images.missing
        if missing == 0:
            return 0
        return None if missing is None or self.bytes_each is None else round(missing * self.bytes_each)


def examine(evaluation_set: EvaluationSet, look: Look, sources: Sequence[DataSource] = ()) -> Examination:
    """Read every annotation file, list the gallery, and look for its images. Never raises because of them.

    Args:
        evaluation_set: The set to look at.
        look: Gives the listed gallery's images their status.
        sources: The data sources that may have made it; their data has counts of its own.

    Returns:
        Everything that was found out.
    """
    maker = maker_of(evaluation_set.root, sources)
    official = maker is None and evaluation_set.has_official_counts
    benchmark = evaluation_set.benchmark
    files, files_fault = _told(evaluation_set, "files", lambda: _files(evaluation_set), [])
    no_source = ImageSource(evaluation_set.image_root or evaluation_set.root, YOUR_OWN, None, "not known")
    source, source_fault = _told(
        evaluation_set, "image_source", lambda: benchmark.image_source(evaluation_set), no_source
    )
    gallery_key, key_fault = _told(
        evaluation_set, "gallery_key", lambda: evaluation_set.gallery_key, evaluation_set.key
    )
    if maker is not None:
        files, source = _made_by(maker, evaluation_set, files, source)
    queries, query_fault = _attempt(read_queries, evaluation_set)
    gallery, gallery_fault = _attempt(read_gallery, evaluation_set)
    states = [_file_state(file, official) for file in files]
    warnings, id_fault = _image_ids(evaluation_set, queries, gallery)
    notes, note_fault = _told(
        evaluation_set, "query_notes", lambda: benchmark.query_notes(evaluation_set), []
    )
    faults = [query_fault, gallery_fault, id_fault, files_fault, source_fault, key_fault]
    faults += [] if query_fault is not None else [note_fault]
    states, loose = _blame(states, faults)
    looked = None if gallery is None else look(gallery)
    listings = image_listings(evaluation_set)
    images = None if looked is None else _image_state(evaluation_set, looked, official)
    if images is not None:
        root = evaluation_set.reference_root
        links = sum(len(listing.outside) for listing in listings if listing.folder != root)
        images = replace(images, is_whole=all(each.is_whole for each in listings), links=links)
    size, basis = _mean_size(looked, source)
    captions = _captions(evaluation_set, gallery)
    elsewhere = _elsewhere(evaluation_set, states) if maker is None else []
    unlisted = [fault for listing in listings for fault in listing.faults]
    problems = [
        *elsewhere,
        *_file_problems(states, captions.state),
        *loose,
        *_image_problems(evaluation_set, images, source, states),
        *unlisted,
    ]
    passed_over = [note for listing in listings for note in listing.notes]
    return Examination(
        evaluation_set=evaluation_set,
        gallery_key=gallery_key,
        maker=maker,
        files=tuple(states),
        queries=None if queries is None else queries.height,
        scored=0 if queries is None else queries.filter(pl.col("target_ids").list.len() > 0).height,
        images=images,
        source=source,
        bytes_each=size,
        basis=basis,
        captions=captions.state,
        captioned=captions.captioned,
        problems=tuple(dict.fromkeys(problems)),
        warnings=(*notes, *warnings, *captions.warnings, *passed_over, *_thin_images(looked)),
    )


def capabilities(found: Examination) -> list[Capability]:
    """What can be done with the data that is present, from the least demanding to the most.

    Args:
        found: What :func:`examine` found.

    Returns:
        One entry each for scoring of rankings, search of captions and search of images.
    """
    return [_scoring(found), _caption_search(found), _image_search(found)]


def _scoring(found: Examination) -> Capability:
    evaluation_set = found.evaluation_set
    what = "score rankings that any program made"
    if not found.queries:
        return Capability(
            what, False, "the queries cannot be read" if found.queries is None else "no queries"
        )
    command = f"setr score {evaluation_set.dataset} --split {evaluation_set.split} FILE"
    if evaluation_set.hidden:
        return Capability(
            what, True, f"{command}: the targets are hidden, so a file is validated, not scored"
        )
    if not found.scored:
        return Capability(what, False, "no query names a target")
    unlisted = evaluation_set.benchmark.unlisted_gallery(evaluation_set)
    note = "" if unlisted is None else f"; {unlisted}"
    return Capability(what, True, f"{command}: {found.scored:,} queries{note}")


def _caption_search(found: Examination) -> Capability:
    what = "rank captions in place of the images"
    if found.captions is None:
        file = found.evaluation_set.root / CAPTIONS_FILE
        source = found.evaluation_set.benchmark.captions_source
        told = found.is_official and source != YOUR_OWN
        return Capability(what, False, f"{file} is optional, and not here" + (f" ({source})" if told else ""))
    if not found.captioned:
        why = "is missing" if found.captions.status == "missing" else "has no caption of a gallery image"
        return Capability(what, False, f"{found.captions.file.path} {why}")
    total = "?" if found.images is None else f"{found.images.total:,}"
    return Capability(what, True, f"{found.captioned:,} of {total} gallery images have captions")


def _image_search(found: Examination) -> Capability:
    what = "search the images"
    images = found.images
    if images is None:
        return Capability(what, False, "the gallery cannot be listed")
    if not images.ok:
        return Capability(
            what, False, f"none of its {images.total:,} images can be read in {found.source.folder}"
        )
    if images.ok < images.total:
        return Capability(
            what,
            True,
            f"a partial gallery, {images.ok:,} of {images.total:,}: every report and leaderboard row "
            "carries that coverage and is marked not comparable",
        )
    ranked, beside = images.total - images.references, ""
    if images.references:
        many = "" if images.references == 1 else "s"
        beside = f", and {images.references:,} reference image{many} outside of it"
    if not images.is_whole:
        return Capability(
            what, True, f"the {ranked:,} images that are listed{beside}; folders are not listed: see below"
        )
    if images.links:
        many = "links to folders elsewhere are" if images.links > 1 else "link to a folder elsewhere is"
        return Capability(
            what, True, f"the {ranked:,} images that are listed{beside}; {images.links:,} {many} not followed"
        )
    return Capability(what, True, f"the whole gallery, {ranked:,} images{beside}")


def _made_by(
    maker: DataSource, evaluation_set: EvaluationSet, files: Sequence[OfficialFile], source: ImageSource
) -> tuple[list[OfficialFile], ImageSource]:
    """The same files and images, which come from ``maker`` instead of the benchmark's own places."""
    words = maker.remedy(evaluation_set.root)
    size, basis = maker.image_bytes, f"{maker.shown_name}'s usual size"
    images = replace(
        source,
        source=words,
        elsewhere=None,
        bytes_each=size,
        basis=source.basis if size is None else basis,
    )
    return [replace(file, source=words) for file in files], images


def _attempt(
    read: Callable[[EvaluationSet], pl.DataFrame], evaluation_set: EvaluationSet
) -> tuple[pl.DataFrame | None, DatasetError | None]:
    try:
        return read(evaluation_set), None
    except DatasetError as error:
        return None, error


Found = TypeVar("Found")


def _told(
    evaluation_set: EvaluationSet, what: str, ask: Callable[[], Found], fallback: Found
) -> tuple[Found, DatasetError | None]:
    """What a benchmark says of a set; where its code raises, ``fallback`` and what it raised."""
    whose = f"{what} of {evaluation_set.key} ({evaluation_set.benchmark.name})"
    try:
        with told_as(DatasetError, whose):
            found = ask()
    except SetrError as error:
        return fallback, error if isinstance(error, DatasetError) else DatasetError(str(error))
    if not isinstance(found, type(fallback)):
        return fallback, DatasetError(f"{whose} gives {found!r}, not {type(fallback).__name__}")
    return found, None


def _files(evaluation_set: EvaluationSet) -> list[OfficialFile]:
    files = list(evaluation_set.benchmark.files(evaluation_set))
    if strange := [file for file in files if not isinstance(file, OfficialFile)]:
        raise TypeError(f"{strange[0]!r} is not an OfficialFile")
    return files


def image_listings(evaluation_set: EvaluationSet) -> list[FolderListing]:
    """The folders that are listed for a set's gallery.

    Args:
        evaluation_set: The set.

    Returns:
        Their listings; none of those that cannot be listed, which reading the gallery tells.
    """
    found = [
        _told(evaluation_set, "image folders", lambda ask=ask: [ask(evaluation_set)], [None])[0]
        for ask in (gallery_listing, reference_listing)
    ]
    return [listing for each in found for listing in each if listing is not None]


def _image_ids(
    evaluation_set: EvaluationSet, queries: pl.DataFrame | None, gallery: pl.DataFrame | None
) -> tuple[tuple[str, ...], DatasetError | None]:
    """Warnings of images that queries name and the gallery lacks, or the fault that it lacks all of them."""
    if queries is None or gallery is None:
        return (), None
    try:
        return check_image_ids(evaluation_set, queries, gallery), None
    except DatasetError as error:
        return (), error


def _file_state(file: OfficialFile, official: bool) -> FileState:
    if not is_there(file.path):
        return FileState(file, "missing")
    lines = file.path.suffix == ".csv" and file.entries is not None
    if file.path.suffix != ".json" and not lines:
        return FileState(file, "ok")
    try:
        if lines:
            entries = sum(1 for _ in numbered_lines(file.path, file.what))
        else:
            entries = _entries(read_json(file.path, file.what))
    except DatasetError as error:
        return FileState(file, "broken", None, error.reason)
    if official and file.entries is not None and entries != file.entries:
        found = "no list" if entries is None else f"{entries:,} entries"
        return FileState(file, "other count", entries, f"{found}, officially {file.entries:,}")
    return FileState(file, "ok", entries)


def _entries(value: Any) -> int | None:
    """How many entries a file holds: a list, an object of images, or COCO's object around a list of them."""
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        return len(value["images"])
    return len(value) if isinstance(value, (list, dict)) else None


def _blame(
    states: list[FileState], faults: Sequence[DatasetError | None]
) -> tuple[list[FileState], list[str]]:
    """``states`` with each reader's complaint at the file that it names; complaints about anything else
    apart.
    """
    loose: list[str] = []
    for fault in faults:
        if fault is None:
            continue
        named = [number for number, state in enumerate(states) if state.file.path == fault.file]
        for number in named:
            if states[number].status in ("ok", "other count"):
                detail = fault.reason if fault.row is None else f"{fault.row}: {fault.reason}"
                states[number] = replace(states[number], status="broken", detail=detail)
        if not named:
            loose.append(str(fault))
    return states, loose


def _image_state(evaluation_set: EvaluationSet, looked: pl.DataFrame, official: bool) -> ImageState:
    counts = dict(looked["status"].value_counts().iter_rows())
    faulty = looked.filter(pl.col("status") != "ok").head(_EXAMPLES)
    return ImageState(
        listed={"all": looked.height} if evaluation_set.benchmark.gallery_per_query else _listed(looked),
        official=evaluation_set.official_images if official else None,
        ok=counts.get("ok", 0),
        missing=counts.get("missing", 0),
        broken=counts.get("broken", 0),
        references=looked.filter(pl.col("galleries").list.len() == 0).height,
        examples=tuple(f"{path}: {detail}" for path, detail in faulty.select("path", "detail").iter_rows()),
    )


def _listed(looked: pl.DataFrame) -> dict[str, int]:
    return dict(sorted(looked["galleries"].explode().drop_nulls().value_counts().iter_rows()))


def _mean_size(looked: pl.DataFrame | None, source: ImageSource) -> tuple[float | None, str]:
    """Bytes per image, measured where images are here, and how that was estimated."""
    sizes: list[int] = []
    paths = [] if looked is None else looked.filter(status="ok")["path"].to_list()
    for path in paths[:: max(1, len(paths) // _SIZES)]:
        try:
            sizes.append(Path(path).stat().st_size)
        except OSError:
            continue
    if not sizes:
        return source.bytes_each, source.basis
    return sum(sizes) / len(sizes), "the mean of images that are here"


@dataclass(frozen=True)
class _Captions:
    """The gallery's captions file, if there is one; how many gallery images it captions; what is odd."""

    state: FileState | None = None
    captioned: int = 0
    warnings: tuple[str, ...] = ()


def _captions(evaluation_set: EvaluationSet, gallery: pl.DataFrame | None) -> _Captions:
    path = captions_file(evaluation_set)
    if path is None:
        return _Captions()
    source = evaluation_set.benchmark.captions_source
    file = OfficialFile(path, "captions of gallery images", None, source)
    if not is_there(path):
        return _Captions(FileState(file, "missing"))
    try:
        rows, images = read_rows(path, file.what), Unique("image")
        captioned = {
            images.claim(row, row.text("candidate")): row.texts("captions", blank=True) for row in rows
        }
        named = {image for image, captions in captioned.items() if any(map(str.strip, captions))}
    except DatasetError as error:
        detail = error.reason if error.row is None else f"{error.row}: {error.reason}"
        return _Captions(FileState(file, "broken", None, detail))
    state = FileState(file, "ok", len(rows))
    if gallery is None:
        return _Captions(state, len(named))
    listed = set(gallery["image_id"])
    return _Captions(state, len(named & listed), _respelt(path, named, listed))


def _respelt(path: Path, named: set[str], listed: set[str]) -> tuple[str, ...]:
    """That captions are passed over because their image is spelt otherwise than the gallery's."""
    index = NearIds(listed - named)
    pairs = [(image, found) for image in sorted(named - listed) if (found := index.respelt(image))]
    if not pairs:
        return ()
    image, found = pairs[0]
    return (
        f"{path}: {len(pairs):,} of its images are spelt otherwise than the gallery's and pass for images of "
        f"another split, first {image!r}; did you mean {found.id!r}? ({found.reason})",
    )


def _elsewhere(evaluation_set: EvaluationSet, states: Sequence[FileState]) -> list[str]:
    """That the root is one folder too high or too low, where files are missing and nearby."""
    if not any(state.status == "missing" for state in states):
        return []
    hint = root_hint(evaluation_set).removeprefix("; ")
    return [f"{evaluation_set.root}: {hint}"] if hint else []


def _file_problems(states: Sequence[FileState], captions: FileState | None) -> list[str]:
    problems: list[str] = []
    for state in [*states, *([captions] if captions is not None else [])]:
        match state.status:
            case "missing":
                problems.append(
                    f"{state.file.path} is missing ({state.file.what}): it comes from {state.file.source}"
                )
            case "broken" | "other count":
                problems.append(f"{state.file.path}: {state.detail}")
            case "ok":
                pass
    return problems


def _image_problems(
    evaluation_set: EvaluationSet,
    images: ImageState | None,
    source: ImageSource,
    states: Sequence[FileState],
) -> list[str]:
    if images is None:
        return []
    problems: list[str] = []
    if images.official not in (None, images.listed) and all(state.status == "ok" for state in states):
        problems.append(f"galleries of {_sizes(images.listed)} images, officially {_sizes(images.official)}")
    if not images.total:
        problems.append(f"{source.folder}: there is no image")
    if images.missing:
        counted = f"{images.missing:,} of {images.total:,} images are missing"
        hint = image_root_hint(evaluation_set) if images.missing == images.total else ""
        problems.append(f"{source.folder}: {counted}: {hint or _where_from(source)}")
    if images.broken:
        problems.append(f"{source.folder}: {images.broken:,} of {images.total:,} images are broken")
    return problems


def _thin_images(looked: pl.DataFrame | None) -> list[str]:
    """Images that a model's processor is known to refuse, in a sentence; none where sizes are not known."""
    if looked is None or not {"width", "height"} <= {*looked.columns}:
        return []
    longer, shorter = pl.max_horizontal("width", "height"), pl.min_horizontal("width", "height")
    thin = looked.filter((pl.col("status") == "ok") & (longer > _MOST_RATIO * shorter))
    if thin.is_empty():
        return []
    path, width, height = thin.select("path", "width", "height").row(0)
    return [
        f"{thin.height:,} of {looked.height:,} images have a side more than {_MOST_RATIO} times as long as "
        f"the other, and models of the Qwen-VL family refuse them; the first: {path} ({width:,} x {height:,})"
    ]


def _where_from(source: ImageSource) -> str:
    if source.elsewhere is not None and source.elsewhere.is_dir():
        return f"but there is {source.elsewhere}: set image_root to it if they are there"
    return f"they come from {source.source}"


def _sizes(galleries: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted((galleries or {}).items()))
