"""i-CIR: ``query_files.csv`` and ``database_files.csv`` (or both under ``annotations``), ``query/``,
``database/``.

Each line is ``image_path,text,instance``, without a header and without quotes. A query searches the database
of its own instance; a database image is a target where instance *and* text are the query's, letter by letter.
References lie in ``query/`` and are in no database. An image's id is its path from ``query/`` or
``database/`` on, whatever folder the file puts before. Metrics as in the authors' code: trapezoidal average
precision of the whole ranking, its mean over queries (mAP) and over the means of the instances (mmAP).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setr_lib.benchmarks.annotations import clean_text, numbered_lines, relative_name
from setr_lib.benchmarks.benchmark import Benchmark, ImageSource, OfficialFile
from setr_lib.benchmarks.errors import DatasetError
from setr_lib.benchmarks.metrics import TrapezoidalAveragePrecision, recalls
from setr_lib.benchmarks.near_ids import meant
from setr_lib.benchmarks.ranking_lists import RankingFile, RankingLists
from setr_lib.benchmarks.records import ImageRecord, QueryRecord

if TYPE_CHECKING:
    from setr_lib.benchmarks.sets import EvaluationSet

_QUERIES = 1883
_SOURCE = "vrg.fel.cvut.cz/icir, icir_v1.0.0.tar.gz (CC BY-NC-SA 4.0)"
_PURPOSE = {"query_files.csv": "i-CIR's queries", "database_files.csv": "i-CIR's database"}
_FOLDERS = ("query", "database")
_FIELDS = 3


class ICIR(Benchmark):
    """Instance-level Composed Image Retrieval (Psomas et al., NeurIPS 2025)."""

    kind = "icir"
    title = "i-CIR"
    protocol = (
        "A query is an image of a particular object (the instance) and a text; it searches the database of "
        "that instance, and every image there of the instance with that text is right. **mAP** is the mean "
        "over queries of the average precision of the whole ranking, by the trapezoidal rule of the authors' "
        "code; **mmAP** is the mean over instances of each one's mAP. **R@K**, which the authors do not "
        "report, is the share of queries with a right image among the first K, averaged over instances."
    )
    metrics = (
        TrapezoidalAveragePrecision("mAP", macro=False),
        TrapezoidalAveragePrecision("mmAP"),
        *recalls(1, 5, 10, 50),
    )
    headline = ("mAP", "mmAP", "R@10")
    stage_1_metric = "R@10"
    stage_2_metric = "R@1"
    ranking_format = "an object from query id (the line of query_files.csv, from 0) to a list of image paths"

    def queries(self, evaluation_set: EvaluationSet) -> list[QueryRecord]:
        """All queries, in the official order; a query's id is its number in the file, from 0."""
        database = csv_file(evaluation_set, "database_files.csv")
        targets: dict[tuple[str, str], dict[str, None]] = {}
        for line in _lines(database):
            targets.setdefault((line.instance, line.text), {})[line.image] = None
        file = csv_file(evaluation_set, "query_files.csv")
        return [_query(line, str(number), targets, database) for number, line in enumerate(_lines(file))]

    def gallery(self, evaluation_set: EvaluationSet) -> list[ImageRecord]:
        """The images of all databases, each in those of its instances; then the references, in none."""
        folder = self.image_folder(evaluation_set)
        records: dict[str, ImageRecord] = {}
        for line in _lines(csv_file(evaluation_set, "database_files.csv")):
            record = records.setdefault(line.image, ImageRecord(line.image, f"{folder}/{line.image}", []))
            if line.instance not in record.galleries:
                record.galleries.append(line.instance)
        for line in _lines(csv_file(evaluation_set, "query_files.csv")):
            records.setdefault(line.image, ImageRecord(line.image, f"{folder}/{line.image}", []))
        return list(records.values())

    def image_source(self, evaluation_set: EvaluationSet) -> ImageSource:
        """The authors' archive."""
        return ImageSource(
            self.image_folder(evaluation_set),
            f"{_SOURCE}, or unpacked from the shards of huggingface.co/datasets/billpsomas/icir",
            None,
            "not known before they are there",
        )

    def files(self, evaluation_set: EvaluationSet) -> list[OfficialFile]:
        """Queries and database; the exact number of images is not published."""
        return [
            OfficialFile(csv_file(evaluation_set, "query_files.csv"), "queries", _QUERIES, _SOURCE),
            OfficialFile(csv_file(evaluation_set, "database_files.csv"), "database", None, _SOURCE),
        ]

    def official_queries(self, split: str) -> int:
        """The count that the authors give."""
        return _QUERIES

    def read_rankings(self, file: RankingFile) -> RankingLists:
        """One list of image paths per query, with or without the folder that the files put before them."""
        return RankingLists(
            {query: [_without_folder(path) for path in file.image_names(query)] for query in file.content}
        )

    def caveats(self, evaluation_set: EvaluationSet) -> list[str]:
        """Images that an instance's database lists more than once, which the authors' code ranks as often."""
        file = csv_file(evaluation_set, "database_files.csv")
        try:
            stat = file.stat()
        except OSError:
            return []  # whoever reads the queries says so
        repeated = _repeated(file, stat.st_mtime_ns, stat.st_size)
        if not repeated:
            return []
        return [f"{repeated:,} database lines repeat an image of their instance, which is ranked once here"]


class _Line(NamedTuple):
    """A line of a file; ``where`` is its place in words."""

    file: Path
    where: str
    image: str
    text: str
    instance: str

    def error(self, reason: str) -> DatasetError:
        return DatasetError(reason, file=self.file, row=self.where)


def csv_file(evaluation_set: EvaluationSet, name: str) -> Path:
    """One of the two annotation files.

    Args:
        evaluation_set: The set: data set root.
        name: ``query_files.csv`` or ``database_files.csv``.

    Returns:
        Its path under the root (the archive's layout), or under ``annotations`` (Hugging Face's) where it is
        there only.
    """
    file, other = evaluation_set.root / name, evaluation_set.root / "annotations" / name
    return other if not file.exists() and other.exists() else file


def _lines(file: Path) -> Iterator[_Line]:
    """The lines of a file, checked. Plain fields and no ``Row`` each: the real database has about 750,000."""
    for where, line in numbered_lines(file, _PURPOSE[file.name]):
        # As the authors' code reads them: white space at both ends goes, that of the text stays.
        fields = line.strip().split(",")
        if reason := _line_fault(fields, where):
            raise DatasetError(reason, file=file, row=where)
        try:
            image, text, instance = _image_id(fields[0]), clean_text(fields[1]), clean_text(fields[2])
        except ValueError as error:
            raise DatasetError(str(error), file=file, row=where) from None
        if not instance.strip():
            raise DatasetError("the instance is empty", file=file, row=where)
        yield _Line(file, where, image, text, instance)


def _line_fault(fields: list[str], where: str) -> str | None:
    """Why a line is none of the files': the authors' code knows neither quotes nor a header."""
    if any(field.startswith('"') for field in fields):
        return "has fields in double quotes, which the official files have not: write them without"
    if len(fields) != _FIELDS:
        return f"has {len(fields)} fields between commas, not image path, text and instance"
    if where == "line 1" and not {"/", "."} & {*fields[0]}:
        return (
            f"names no image file, but {fields[0]!r}: a header, which the official files have not? Remove it"
        )
    return None


def _image_id(path: str) -> str:
    """``path`` from ``query/`` or ``database/`` on: the files put the data set's folder before it."""
    parts = relative_name(path).split("/")
    start = next((number for number, part in enumerate(parts[:-1]) if part in _FOLDERS), 0)
    return "/".join(parts[start:])


def _without_folder(path: str) -> str:
    """``path`` as :func:`_image_id` has it; as it is, where it can be no path of the files."""
    try:
        return _image_id(path)
    except ValueError:
        return path


def _query(
    line: _Line, query_id: str, targets: dict[tuple[str, str], dict[str, None]], database: Path
) -> QueryRecord:
    if not line.text.strip():
        raise line.error("the text is empty")
    found = targets.get((line.instance, line.text))
    if not found:
        texts = {text for instance, text in targets if instance == line.instance}
        instances = {instance for instance, _ in targets}
        hint = meant(line.text, texts) if texts else meant(line.instance, instances)
        raise line.error(
            f"no line of {database} has the instance {line.instance!r} and the text {line.text!r}: the query "
            f"has no right answer{hint}"
        )
    if line.image in found:
        raise line.error(f"the reference {line.image!r} is among its own targets")
    return QueryRecord(
        query_id=query_id,
        reference_id=line.image,
        modification=line.text.strip(),
        captions=[line.text],
        target_ids=list(found),
        gallery=line.instance,
    )


@lru_cache(maxsize=4)
def _repeated(file: Path, changed: int, size: int) -> int:
    """How many lines name an image that their instance has already; read again where the file changes."""
    seen: set[tuple[str, str]] = set()
    lines = 0
    for line in _lines(file):
        seen.add((line.instance, line.image))
        lines += 1
    return lines - len(seen)
