"""``setr captions`` and ``setr compositions``: export and import of what the multimodal LLM wrote.

An export is what the next materialisation would use: imported rows where they fit, else what the model here
has written; failures are left out. An import is checked row by row against the configured data sets and is
taken whole or not at all. What is here and newer stays unless ``overwrite`` is asked for: a row is newer when
it was made later; a model's row was made when the model answered, and one of unknown time counts as made when
its table was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.commands.console import talk
from setr_lib.commands.outputs import check_output_file
from setr_lib.datasets import (
    DatasetError,
    EvaluationSet,
    evaluation_sets,
    load_gallery,
    load_queries,
    named_sets,
)
from setr_lib.errors import SetrError
from setr_lib.files import write_text
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext, pipeline_context
from setr_lib.settings import Settings
from setr_lib.typed import typed

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.texts.exchange_files import KnownQuery
    from setr_lib.texts.imported import Settlement


def export_captions(settings: Settings, *, name: str | None, output: Path | None) -> int:
    """Write captions as JSON Lines.

    Args:
        settings: The settings.
        name: A data set or evaluation set; None for all.
        output: The file; None for standard output.

    Returns:
        The exit status, 0.

    Raises:
        NotMadeYetError: There are no captions yet; the message names the asset to materialise.
    """
    from setr_lib.texts.exchange_files import caption_line

    check_output_file(output, is_export)
    context = pipeline_context(settings)
    lines: list[str] = []
    for dataset, sets in by_dataset(named_sets(settings, name)).items():
        rows = current_captions(context, dataset, sets)
        lines += [caption_line(dataset, row) for row in rows.iter_rows(named=True)]
    if not lines:
        raise NotMadeYetError(nothing_yet("captions", name, "reference_captions"))
    write_lines(lines, output, "captions")
    return 0


def export_compositions(settings: Settings, *, name: str | None, output: Path | None) -> int:
    """Write compositions as JSON Lines.

    Args:
        settings: The settings.
        name: A data set or evaluation set; None for all.
        output: The file; None for standard output.

    Returns:
        The exit status, 0.

    Raises:
        NotMadeYetError: There are no compositions yet; the message names the asset to materialise.
    """
    from setr_lib.texts.exchange_files import composition_line

    check_output_file(output, is_export)
    context = pipeline_context(settings)
    lines: list[str] = []
    for evaluation_set in named_sets(settings, name):
        rows = current_compositions(context, evaluation_set)
        lines += [
            composition_line(evaluation_set.dataset, evaluation_set.split, row)
            for row in rows.iter_rows(named=True)
        ]
    if not lines:
        raise NotMadeYetError(nothing_yet("compositions", name, "query_compositions"))
    write_lines(lines, output, "compositions")
    return 0


def import_captions(
    settings: Settings, *, file: Path, dataset: str | None, overwrite: bool, other_pictures: bool
) -> int:
    """Check the captions of a file, keep them for the next materialisation, and print what became of them.

    Args:
        settings: The settings.
        file: A JSON Lines file.
        dataset: The data set of all rows, in place of the names in them.
        overwrite: Whether rows replace stored ones that are newer.
        other_pictures: Whether to accept captions of images whose bytes differ from those here.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: The file cannot be read, or has rows that cannot be taken: then none is.
    """
    from setr_lib.tables import IMPORTED_CAPTIONS
    from setr_lib.texts.exchange_files import read_captions
    from setr_lib.texts.imported import settle, store_with

    context, here = pipeline_context(settings), Here(settings)
    check_command(file, dataset, here)
    frames = read_captions(
        file, here.images_of, here.fingerprint_of, dataset=dataset, other_pictures=other_pictures
    )
    outcomes = {  # all before the first is stored: a table that cannot be read must not leave half an import
        name: settle(incoming, current_captions(context, name, here.sets[name]), overwrite=overwrite)
        for name, incoming in frames.items()
    }
    for name, settled in outcomes.items():
        stored = store_with(context.imported_captions(name), settled.taken)
        path = context.tables.write("imported_captions", stored, IMPORTED_CAPTIONS, name)
        tell(f"captions of {name}", settled, path, "reference_captions", here.sets[name])
    return 0


def import_compositions(
    settings: Settings, *, file: Path, dataset: str | None, overwrite: bool, other_pictures: bool
) -> int:
    """Check the compositions of a file, keep them for the next materialisation, and print what became of
    them.

    Args:
        settings: The settings.
        file: A JSON Lines file.
        dataset: The data set of all rows, in place of the names in them.
        overwrite: Whether rows replace stored ones that are newer.
        other_pictures: Whether to accept rows made from images whose bytes differ from those here.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: The file cannot be read, or has rows that cannot be taken: then none is.
    """
    from setr_lib.tables import IMPORTED_COMPOSITIONS
    from setr_lib.texts.exchange_files import read_compositions
    from setr_lib.texts.imported import settle, store_with

    context, here = pipeline_context(settings), Here(settings)
    check_command(file, dataset, here)
    frames = read_compositions(
        file,
        here.queries_of,
        here.fingerprint_of,
        splits_of=here.splits_of,
        dataset=dataset,
        other_pictures=other_pictures,
    )
    outcomes = [
        (
            evaluation_set,
            settle(
                frames[evaluation_set.dataset, evaluation_set.split],
                current_compositions(context, evaluation_set),
                overwrite=overwrite,
            ),
        )
        for sets in here.sets.values()
        for evaluation_set in sets
        if (evaluation_set.dataset, evaluation_set.split) in frames
    ]
    for evaluation_set, settled in outcomes:
        key = evaluation_set.key
        stored = store_with(context.imported_compositions(key), settled.taken)
        path = context.tables.write("imported_compositions", stored, IMPORTED_COMPOSITIONS, key)
        tell(f"compositions of {key}", settled, path, "query_compositions", [evaluation_set])
    return 0


def check_command(file: Path, dataset: str | None, here: Here) -> None:
    """Refuse what is wrong with the command or the file as a whole, before rows are read.

    Args:
        file: The file to import.
        dataset: The data set named on the command line, if any.
        here: What is configured here.

    Raises:
        SetrError: There is no such file or data set.
    """
    if not file.exists():
        raise SetrError(f"{file}: there is no such file")
    if dataset is not None and dataset not in here.sets:
        known = f"{', '.join(sorted(here.sets)) or 'none'}{did_you_mean(dataset, here.sets)}"
        raise SetrError(f"--dataset {dataset!r}: there is no such data set in the settings, only {known}")


def current_captions(context: PipelineContext, dataset: str, sets: Iterable[EvaluationSet]) -> pl.DataFrame:
    """The captions that the pipeline has of a data set, imported or made here.

    Args:
        context: The pipeline context.
        dataset: The data set's name.
        sets: Its evaluation sets.

    Returns:
        An ``IMPORTED_CAPTIONS`` frame, sorted by id.
    """
    import polars as pl

    from setr_lib.tables import GALLERY, IMPORTED_CAPTIONS
    from setr_lib.texts.imported import unfit_captions

    given, made = context.imported_captions(dataset), IMPORTED_CAPTIONS.to_frame()
    for evaluation_set in sets:
        images = stored_table(context, "gallery_images", GALLERY, evaluation_set.key)
        if images is not None:
            given = given.join(unfit_captions(given, images), on="image_id", how="anti")
        made = pl.concat([made, _captions_made_here(context, evaluation_set)])
    latest = made.sort("made_at", descending=True).unique("image_id", keep="first", maintain_order=True)
    return pl.concat([given, latest.join(given, on="image_id", how="anti")]).sort("image_id")


def current_compositions(context: PipelineContext, evaluation_set: EvaluationSet) -> pl.DataFrame:
    """The compositions that the pipeline has of an evaluation set, imported or made here.

    Args:
        context: The pipeline context.
        evaluation_set: The evaluation set.

    Returns:
        An ``IMPORTED_COMPOSITIONS`` frame, sorted by id.
    """
    import polars as pl

    from setr_lib.tables import GALLERY, QUERIES
    from setr_lib.texts.imported import unfit_compositions

    given = context.imported_compositions(evaluation_set.key)
    queries = stored_table(context, "queries", QUERIES, evaluation_set.key)
    images = stored_table(context, "gallery_images", GALLERY, evaluation_set.key)
    if queries is None or images is None:
        return given.sort("query_id")
    given = given.join(unfit_compositions(given, queries, images), on="query_id", how="anti")
    made = _compositions_made_here(context, evaluation_set, queries, images)
    return pl.concat([given, made.join(given, on="query_id", how="anti")]).sort("query_id")


def _captions_made_here(context: PipelineContext, evaluation_set: EvaluationSet) -> pl.DataFrame:
    import polars as pl

    from setr_lib.pixel_rules import picture_identity
    from setr_lib.tables import CAPTIONS, GALLERY, IMPORTED_CAPTIONS
    from setr_lib.texts.from_image_captions import WITHOUT_MODEL
    from setr_lib.texts.generation import caption_key

    table = stored_table(context, "reference_captions", CAPTIONS, evaluation_set.key)
    if table is None:
        return IMPORTED_CAPTIONS.to_frame()
    good = table.filter(pl.col("status") == "ok", ~pl.col("model").is_in(WITHOUT_MODEL))
    limit = context.settings.models.judge.max_new_tokens
    rules = _rules_of(stored_table(context, "gallery_images", GALLERY, evaluation_set.key))
    keys = [
        caption_key(model, limit, prompt, picture_identity(fingerprint, rules.get(image, "")))
        for image, model, prompt, fingerprint in good.select(
            "image_id", "model", "prompt_hash", "fingerprint"
        ).iter_rows()
    ]
    times = _times(context, keys, context.settings.table_path("reference_captions", evaluation_set.key))
    return good.with_columns(pl.Series("made_at", times, dtype=pl.String)).select(list(IMPORTED_CAPTIONS))


def _compositions_made_here(
    context: PipelineContext, evaluation_set: EvaluationSet, queries: pl.DataFrame, images: pl.DataFrame
) -> pl.DataFrame:
    import polars as pl

    from setr_lib.pixel_rules import picture_identity
    from setr_lib.tables import COMPOSITIONS, IMPORTED_COMPOSITIONS
    from setr_lib.texts.from_image_captions import WITHOUT_MODEL
    from setr_lib.texts.generation import composition_key

    table = stored_table(context, "query_compositions", COMPOSITIONS, evaluation_set.key)
    if table is None:
        return IMPORTED_COMPOSITIONS.to_frame()
    pictures = images.filter(status="ok").select("fingerprint", reference_id="image_id")
    asked = queries.select("query_id", "reference_id", "modification", "captions").join(
        pictures, on="reference_id", how="left"
    )
    good = (
        table.filter(pl.col("status") == "ok", ~pl.col("model").is_in(WITHOUT_MODEL))
        .join(asked, on="query_id", how="inner", maintain_order="left")
        .with_columns(pl.col("fingerprint").fill_null(""))
    )
    limit = context.settings.models.judge.max_new_tokens
    rules = _rules_of(images)
    of = ("reference_id", "model", "prompt_hash", "fingerprint", "modification", "captions")
    keys = [
        composition_key(
            model, limit, prompt, picture_identity(fingerprint, rules.get(image, "")), text, captions
        )
        for image, model, prompt, fingerprint, text, captions in good.select(of).iter_rows()
    ]
    times = _times(context, keys, context.settings.table_path("query_compositions", evaluation_set.key))
    return good.with_columns(pl.Series("made_at", times, dtype=pl.String)).select(list(IMPORTED_COMPOSITIONS))


def _rules_of(images: pl.DataFrame | None) -> dict[str, str]:
    """How each image of a GALLERY table is read."""
    return {} if images is None else dict(images.select("image_id", "pixels").iter_rows())


def _times(context: PipelineContext, keys: list[str], table: Path) -> list[str]:
    """When the answers behind ``keys`` were given; the table's own time where the cache does not know."""
    from setr_lib.texts.exchange_files import time_text
    from setr_lib.texts.generation import CACHE_KIND

    known = context.cache(CACHE_KIND).times_of(keys) if context.settings.cache_path.exists() else {}
    written = table.stat().st_mtime
    return [time_text(known.get(key, written)) for key in keys]


def stored_table(context: PipelineContext, asset: str, schema: pl.Schema, key: str) -> pl.DataFrame | None:
    """A table that may not be made yet.

    Args:
        context: Settings and tables.
        asset: The asset.
        schema: Its columns.
        key: Its partition.

    Returns:
        The table, or None.
    """
    try:
        return context.tables.read(asset, schema, key)
    except NotMadeYetError:
        return None


def by_dataset(sets: Iterable[EvaluationSet]) -> dict[str, list[EvaluationSet]]:
    """Evaluation sets grouped by data set, in their order.

    Args:
        sets: The evaluation sets.

    Returns:
        Sets by the data set's name.
    """
    grouped: dict[str, list[EvaluationSet]] = {}
    for evaluation_set in sets:
        grouped.setdefault(evaluation_set.dataset, []).append(evaluation_set)
    return grouped


@dataclass
class Here:
    """What the configured data sets know, each read once and only if a row names it."""

    settings: Settings
    sets: dict[str, list[EvaluationSet]] = field(init=False)
    _paths: dict[str, dict[str, str]] = field(default_factory=dict)
    _queries: dict[str, dict[str, KnownQuery]] = field(default_factory=dict)
    _fingerprints: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sets = by_dataset(evaluation_sets(self.settings))

    def images_of(self, dataset: str) -> Mapping[str, str] | None:
        """The images of all galleries of a data set.

        Args:
            dataset: The data set.

        Returns:
            Path by image id, empty where only the id is known; None for a data set that is not configured.
        """
        if dataset not in self.sets:
            return None
        if dataset not in self._paths:
            self._paths[dataset] = {}
            for evaluation_set in self.sets[dataset]:
                self._paths[dataset] |= _gallery_paths(self.settings, evaluation_set)
        return self._paths[dataset]

    def queries_of(self, dataset: str, split: str) -> Mapping[str, KnownQuery] | None:
        """The queries of an evaluation set.

        Args:
            dataset: The data set.
            split: Its split.

        Returns:
            Query by id; None for a set that is not configured.
        """
        from setr_lib.texts.exchange_files import KnownQuery

        evaluation_set = next((one for one in self.sets.get(dataset, []) if one.split == split), None)
        if evaluation_set is None:
            return None
        if evaluation_set.key not in self._queries:
            rows = load_queries(self.settings, evaluation_set.key).select(
                "query_id", "reference_id", "modification"
            )
            self._queries[evaluation_set.key] = {
                query: KnownQuery(reference, text) for query, reference, text in rows.iter_rows()
            }
        return self._queries[evaluation_set.key]

    def splits_of(self, dataset: str) -> list[str]:
        """The configured splits of a data set.

        Args:
            dataset: The data set.

        Returns:
            Their names.
        """
        return [evaluation_set.split for evaluation_set in self.sets.get(dataset, [])]

    def fingerprint_of(self, dataset: str, image_id: str) -> str | None:
        """The fingerprint of an image file that is here.

        Args:
            dataset: The data set.
            image_id: The image.

        Returns:
            The fingerprint; None where there is no file that can be read.
        """
        from setr_lib.hashing import fingerprint_file

        path = (self.images_of(dataset) or {}).get(image_id, "")
        if path not in self._fingerprints:
            try:
                self._fingerprints[path] = fingerprint_file(Path(path)) if path else None
            except (OSError, ValueError):
                self._fingerprints[path] = None
        return self._fingerprints[path]


def _gallery_paths(settings: Settings, evaluation_set: EvaluationSet) -> dict[str, str]:
    try:
        return dict(load_gallery(settings, evaluation_set.key).select("image_id", "path").iter_rows())
    except DatasetError:
        if evaluation_set.benchmark.unlisted_gallery(evaluation_set) is None:
            raise
    # The gallery is not known (CIRCO without COCO's list), but the images that the queries name are.
    queries = load_queries(settings, evaluation_set.key)
    named = [*queries["reference_id"], *queries["target_ids"].explode().drop_nulls()]
    return dict.fromkeys(named, "")


def nothing_yet(what: str, name: str | None, asset: str) -> str:
    """That there is nothing to export.

    Args:
        what: What was asked for, e.g. ``captions``.
        name: Of which data set or evaluation set.
        asset: The asset that makes it.

    Returns:
        The message.
    """
    make = typed(" ".join(["run", *filter(None, [name]), "--until", asset]))
    whose = name or "any data set"
    return f"there are no {what} of {whose} yet: materialize {asset!r} (`{make}`), or import some"


def is_export(file: Path) -> bool:
    """Whether a file was exported earlier: its first line is a row of an exchange file.

    Args:
        file: A file that is there.

    Returns:
        Whether it may be replaced by another export.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            first = json.loads(lines.readline(1_000_000))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and {"dataset", "model"} <= first.keys()


def write_lines(lines: list[str], output: Path | None, what: str) -> None:
    """Write an export, and say on standard error how many lines it has.

    Args:
        lines: The lines of JSON.
        output: The file; standard output by default.
        what: What the lines are.

    Raises:
        SetrError: The file cannot be written.
    """
    if output is None:
        for line in lines:
            print(line)
    else:
        try:
            write_text(output, "".join(f"{line}\n" for line in lines))
        except OSError as error:
            raise SetrError(f"{output}: cannot be written ({error.strerror})") from error
    talk(f"{len(lines):,} {what} exported{f' to {output}' if output else ''}")


def tell(what: str, settled: Settlement, path: Path, asset: str, sets: Iterable[EvaluationSet]) -> None:
    """Print what became of imported rows.

    Args:
        what: What they are, e.g. ``captions``.
        settled: How many are new, replaced, unchanged or left aside.
        path: The table that keeps them.
        asset: The asset that uses them.
        sets: The evaluation sets that they are of.
    """
    print(f"{what}: {settled.new:,} new, {settled.replaced:,} replaced, {settled.unchanged:,} as they were")
    if settled.kept:
        print(
            f"  {settled.kept:,} left aside: what is here is as new or newer (--overwrite takes the file's)"
        )
    if settled.taken.height:
        keys = " ".join(evaluation_set.key for evaluation_set in sets)
        print(f"  used from the next run on ({asset}): `{typed(f'run {keys}')}`")
        print(f"  to go back to what the model here writes, delete {path}")
