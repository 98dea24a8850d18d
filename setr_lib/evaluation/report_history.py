"""Which reports there are: the pages of each evaluation set, now and before, and the index over all of them.

The folder of reports has a folder for each evaluation set: ``index.html`` (the last evaluation), files of the
queries beside it, the pages of earlier evaluations under the digests of their results, and
``evaluations.json``, which lists them all. ``index.html`` above is made of these lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.files import read_json, replacing, write_json, write_text

if TYPE_CHECKING:
    import polars as pl

PAGE = "index.html"
LIST = "evaluations.json"
KEPT = 10
"""Earlier evaluations of a set whose pages are kept: those with other results than the ones after them."""
QUERY_FILES = ("csv", "json")
NOTICE = "<!-- notice -->"
"""Where a page has its notices; no text of a query, which is escaped, reads so."""
_EARLIER = (
    '<div class="first-notes" role="note"><p><b>An earlier evaluation.</b> '
    f'<a href="{PAGE}">The last one</a> has other results.</p></div>'
)


@dataclass(frozen=True)
class Origin:
    """Where a page comes from.

    Attributes:
        made: When it was made: ``2026-11-28 22:40 UTC``.
        run: The id of the Dagster run that made it; empty where there was none.
        setr: SETR's version.
        command: What makes the page again.
    """

    made: str
    run: str
    setr: str
    command: str


def query_file(result: str, kind: str) -> str:
    """The name of the file of all queries beside a page.

    Args:
        result: The digest of the results; may be empty.
        kind: One of :data:`QUERY_FILES`.

    Returns:
        The name.
    """
    return f"queries-{result}.{kind}" if result else f"queries.{kind}"


def keep_earlier(folder: Path, result: str) -> None:
    """Keep the page that is about to be replaced, where it is of other results; it says that it is an earlier
    one from then on.

    Args:
        folder: The folder of the set's reports.
        result: The digest of the results that are about to be written.
    """
    earlier = next((one for one in evaluations(folder) if one["page"] == PAGE), None)
    page = folder / PAGE
    if earlier is None or earlier["id"] == result or not page.is_file():
        return
    with replacing(folder / f"{earlier['id']}.html") as partial:
        partial.write_bytes(page.read_bytes().replace(NOTICE.encode(), _EARLIER.encode(), 1))


def note_evaluation(folder: Path, entry: Mapping[str, Any]) -> None:
    """Put an evaluation on the list of its set, as the last one, and remove what is kept no longer.

    Args:
        folder: The folder of the set's reports; its page is written.
        entry: What :func:`entry_of` gives.
    """
    others = [one for one in evaluations(folder) if one["id"] != entry["id"]]
    found = [{**one, "page": f"{one['id']}.html"} for one in others]
    found = [one for one in found if (folder / one["page"]).is_file()]
    kept = found[:KEPT]
    write_json(folder / LIST, {"evaluations": [{**entry, "page": PAGE}, *kept]})
    for one in found[KEPT:]:
        for name in (one["page"], *(query_file(one["id"], kind) for kind in QUERY_FILES)):
            (folder / name).unlink(missing_ok=True)


def entry_of(
    result: str,
    title: str,
    origin: Origin,
    queries: int,
    metrics: pl.DataFrame,
    headline: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What the list says of an evaluation.

    Args:
        result: The digest of the results.
        title: The evaluation set in words.
        origin: Where its page comes from.
        queries: How many queries it has.
        metrics: METRICS rows; empty for a hidden split.
        headline: The benchmark's headline metrics.
        notes: What a reader must know first: drawn pictures, toy models.

    Returns:
        Plain values; the scores are those of the best row by the first headline metric.
    """
    from setr_lib.evaluation.leaderboard import headline_metrics, measured_metrics, order_lines
    from setr_lib.evaluation.row import Row

    names = headline_metrics(measured_metrics(metrics), headline)
    best = next((row for row in order_lines(metrics, names[0]) if not row.is_random), None) if names else None
    values = {(Row.of(line), line["metric"]): line for line in metrics.iter_rows(named=True)}
    scores = [
        {"metric": name, **{part: line[part] for part in ("value", "ci_low", "ci_high")}}
        for name in names
        if best is not None and (line := values.get((best, name))) is not None and line["value"] is not None
    ]
    return {
        "id": result,
        "title": title,
        "made": origin.made,
        "run": origin.run,
        "setr": origin.setr,
        "queries": queries,
        "best": best.title if best else "",
        "scores": scores,
        "notes": list(notes),
    }


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a set, the last one first.

    Args:
        folder: The folder of its reports.

    Returns:
        Their entries; none where there is no list, or it is damaged: it is begun anew then.
    """
    listed = (read_json(folder / LIST) or {}).get("evaluations")
    return [one for one in listed if _is_entry(one)] if isinstance(listed, list) else []


def _is_entry(one: Any) -> bool:
    """Whether an entry has what is read of it, and names no file outside of its folder."""
    texts = ("id", "title", "made", "run", "setr", "best", "page")
    return (
        isinstance(one, dict)
        and all(isinstance(one.get(name), str) for name in texts)
        and one["id"].isalnum()
        and one["page"] in (PAGE, f"{one['id']}.html")
        and isinstance(one.get("scores"), list)
        and all(isinstance(score, dict) and isinstance(score.get("metric"), str) for score in one["scores"])
        and isinstance(one.get("notes"), list)
    )


def links_to_sets(
    root: Path, keys: Iterable[str], key: str, coming: Collection[str] = ()
) -> list[tuple[str, str]]:
    """The addresses of other sets' reports from the page of one.

    Args:
        root: The folder of reports.
        keys: The evaluation sets.
        key: The one whose page it is.
        coming: Those whose pages are written in the same run.

    Returns:
        (set, address): of its page where there is one, else of its place in the index.
    """
    return [
        (
            other,
            f"../{other}/{PAGE}"
            if other in coming or (root / other / PAGE).is_file()
            else f"../{PAGE}#{other}",
        )
        for other in keys
        if other != key
    ]


def write_index(root: Path, keys: Iterable[str] = ()) -> Path:
    """Write ``index.html`` over all evaluation sets that have a report, and those that settings name.

    Args:
        root: The folder of reports.
        keys: The evaluation sets that settings name, in their order.

    Returns:
        The page.
    """
    from setr_lib.evaluation.report import render

    known = list(dict.fromkeys([*keys, *sorted(page.parent.name for page in root.glob(f"*/{PAGE}"))]))
    sets = [
        {"key": key, "has_page": (root / key / PAGE).is_file(), "evaluations": evaluations(root / key)}
        for key in known
    ]
    sets.sort(key=lambda one: not one["has_page"])
    path = root / PAGE
    write_text(path, render("index.html.jinja", {"sets": sets}))
    return path
