"""Methods and re-rankers side by side on evaluation sets: every row's metrics, and what a query costs.

A comparison is an evaluation whose methods are chosen by name, kept apart from the evaluation that settings
describe: its tables lie in a folder of their own, while vectors, generated texts and judgements are shared,
so that nothing is computed twice. What cannot run, or fails, is listed with the reason, and the others go on;
the table is stored after each evaluation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from setr_lib.errors import SetrError
from setr_lib.near_names import did_you_mean
from setr_lib.pipeline.storage import NotMadeYetError, Tables
from setr_lib.pipeline.trained_weights import CHAMPIONS
from setr_lib.progress import Progress, silent
from setr_lib.records import Record

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.pipeline.reranking_run import RerankingRun
    from setr_lib.settings import Settings

FOLDER = "comparison"
"""The folder of a comparison's tables, below the storage root; its result is the table of the same name."""
ALL = "all"
"""In place of names: every method that is known."""


class LeftOut(Record):
    """What is not in a comparison's table, and why.

    Attributes:
        what: The name of a method or a re-ranker, the title of a re-ranked row, or an evaluation set.
        why: The reason.
        on: The evaluation set; None where it is left out on all, or is one.
    """

    what: str
    why: str
    on: str | None = None


class ComparisonRecord(Record):
    """What a comparison was made of.

    Attributes:
        sets: The evaluation sets that are in the table.
        pending: Those that were to be compared, too, and are not yet: the comparison goes on, or was stopped.
        left_out: What is not in the table, and why.
        notes: What else a reader must know: costs that were not measured, fusions that were not calibrated.
        limit: Queries of each set at most.
        device: Where the models ran, as torch names it.
        sample: Queries that costs were timed on.
    """

    sets: list[str]
    pending: list[str] = Field(default_factory=list)
    left_out: list[LeftOut] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    limit: int | None = None
    device: str = ""
    sample: int = 0

    @property
    def left_out_sentences(self) -> list[str]:
        """What is left out, in sentences; see :func:`left_out_sentences`."""
        return left_out_sentences(self.left_out)


def left_out_sentences(left_out: Sequence[LeftOut]) -> list[str]:
    """``NAMES: left out on KEYS: why``, sets and names with the same reason together.

    Args:
        left_out: What is not in a table, and why.

    Returns:
        The sentences.
    """
    sets: dict[tuple[str, str], list[str]] = {}
    for one in left_out:
        why = one.why.removeprefix(f"retrieval method {one.what!r} ")
        sets.setdefault((one.what, why), []).extend([one.on] if one.on else [])
    names: dict[tuple[str, str], list[str]] = {}
    for (what, why), on in sets.items():
        names.setdefault((", ".join(on), why), []).append(what)
    return [
        f"{', '.join(what)}: left out{' on ' + on if on else ''}: {why}" for (on, why), what in names.items()
    ]


@dataclass(frozen=True)
class Chosen:
    """What is compared, as settings that name exactly that.

    Attributes:
        context: Of those settings; tables lie in the folder of comparisons.
        sets: The evaluation sets.
        left_out: Why methods cannot run at all, by name.
    """

    context: PipelineContext
    sets: list[str]
    left_out: dict[str, str] = field(default_factory=dict)


def choose(
    settings: Settings,
    methods: Sequence[str] = (),
    reranked: Sequence[str] = (),
    sets: Sequence[str] = (),
) -> Chosen:
    """Choose what is compared.

    Args:
        settings: The settings.
        methods: Names of methods, or :data:`ALL`; those that settings configure by default.
        reranked: Names of methods whose candidates are re-ranked, or :data:`ALL`; those that settings name
            by default, as far as they are compared.
        sets: Evaluation sets or data sets; by default all whose targets are known.

    Returns:
        What is compared.

    Raises:
        SetrError: A name is not known, or no method can run.
    """
    from setr_lib.methods.method import CATALOGUE
    from setr_lib.pipeline.context import PipelineContext

    for name in methods:
        if name != ALL:
            CATALOGUE.get(name, settings)  # a name that was written wrongly is told, not left out
    left_out: dict[str, str] = {}
    runnable: dict[str, tuple[str, Method]] = {}
    for name in _named(settings, methods):
        try:
            method = _runnable(settings, name)
        except SetrError as error:
            left_out[name] = str(error)
            continue
        other, _ = runnable.setdefault(method.name, (name, method))
        if other != name:
            raise SetrError(
                f"{other!r} and {name!r} are both called {method.name!r}: leave one out, or rename it"
            )
    if not runnable:
        reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise SetrError(f"none of the methods can run: {reasons}")
    keys = _sets(settings, sets)
    chosen = _settings_of(settings, runnable, _reranked(settings, runnable, reranked), keys)
    own = None if chosen.coarse.strategies else runnable
    return Chosen(PipelineContext(chosen, tables=FOLDER, only=own), keys, left_out)


def compare(
    chosen: Chosen, progress: Progress = silent, sample: int = 16, *, accept_removals: bool = False
) -> tuple[pl.DataFrame, ComparisonRecord]:
    """Run a comparison, and store its table.

    Args:
        chosen: What is compared.
        progress: Told how far the models are.
        sample: Queries that costs are timed on.
        accept_removals: Whether any number of images that are gone may be removed from the vector store, for
            this comparison.

    Returns:
        A COMPARISON table, and what it was made of.

    Raises:
        SetrError: Nothing can be compared; the message has the reason of each method and set.
    """
    from setr_lib.pipeline.reranking_run import RerankingRun

    running = _Comparison(chosen, RerankingRun(chosen.context, CHAMPIONS), sample, accept_removals)
    running.calibrate(progress)
    for key in chosen.sets:
        running.add(key, progress)
        running.store()
    if not running.frames:
        reasons = "; ".join(running.record.left_out_sentences)
        raise SetrError(f"nothing could be compared: {reasons}")
    return running.frame, running.record


class _Comparison:
    """A comparison under way: the rows of the sets that are done, stored after each.

    Args:
        chosen: What is compared.
        run: Opens the re-rankers.
        sample: Queries that costs are timed on.
        accept_removals: As of :func:`compare`.
    """

    def __init__(self, chosen: Chosen, run: RerankingRun, sample: int, accept_removals: bool = False) -> None:
        self.accept_removals = accept_removals
        self.chosen, self.run, self.context, self.sample = chosen, run, chosen.context, sample
        self.frames: dict[str, pl.DataFrame] = {}
        self.pending = list(chosen.sets)
        self.left_out = [LeftOut(what=name, why=why) for name, why in chosen.left_out.items()]
        self.left_out += self._without_weights()
        self.notes: list[str] = []

    def _without_weights(self) -> list[LeftOut]:
        """The re-rankers that nothing is promoted of."""
        rerankers = self.context.rerankers
        usable = [reranker.name for reranker in rerankers.usable(self.run.versions)]
        return [
            LeftOut(what=reranker.name, why="no version of its weights is promoted")
            for reranker in rerankers.configured
            if reranker.name not in usable
        ]

    def calibrate(self, progress: Progress) -> None:
        """Choose the fusion of every re-ranked method, where the training pairs are there."""
        from setr_lib.pipeline.fusion_calibration import calibrate
        from setr_lib.tables import FUSIONS

        tables, options = self.context.tables, self.context.settings.reranking
        if options.fusion != "auto" or not options.rerankers or not tables.exists("reranker_pairs"):
            return

        def told(words: str, is_warning: bool) -> None:
            self.notes += [words] if is_warning else []

        found = calibrate(self.context, self.run.versions, progress, told, leave_out_failing=True)
        tables.write("reranking_fusion", found, FUSIONS)

    def add(self, key: str, progress: Progress) -> None:
        """Compare on one more evaluation set."""
        from setr_lib.evaluation.cautions import small_set_of
        from setr_lib.evaluation.comparison import compared_rows
        from setr_lib.pipeline.evaluating import evaluate
        from setr_lib.pipeline.faults import fault_lines
        from setr_lib.pipeline.query_costs import QueryCosts

        self.pending.remove(key)
        try:
            done = evaluate(self.run, key, progress, accept_removals=self.accept_removals)
        except SetrError as error:
            self.left_out.append(LeftOut(what=key, why=str(error)))
            return
        self.notes += [f"{key}: {sentence}" for sentence in done.warnings]
        self.left_out += [LeftOut(what=what, why=why, on=key) for what, why in done.left_out.items()]
        if done.result is None:
            return
        costs = QueryCosts(self.run.under(done.context), self.sample)
        measured = costs.of_set(key, list(done.result.rankings), progress)
        self.notes += [f"{row.title} is not timed on {key}: {why}" for row, why in costs.failed.items()]
        methods = self.context.methods.configured.values()
        described = {method.name: (method.label, method.source) for method in methods}
        self.frames[key] = compared_rows(done.result.rows, described, measured)
        if small := small_set_of(done.result.rows):
            self.notes.append(f"{key}: {small}")
        self.notes += [f"{key}: {line}" for line in fault_lines(done.context, key)]

    def store(self) -> None:
        """Store the rows of the sets that are done; without any, an earlier comparison is left as it is."""
        from setr_lib.tables import COMPARISON

        if self.frames:
            Tables(self.context.settings).write(FOLDER, self.frame, COMPARISON, made_by=self.record)

    @property
    def frame(self) -> pl.DataFrame:
        """The rows of the sets that are done."""
        import polars as pl

        return pl.concat(self.frames.values())

    @property
    def record(self) -> ComparisonRecord:
        """What the table is made of by now."""
        from setr_lib.models.device import pick_device

        return ComparisonRecord(
            sets=list(self.frames),
            pending=self.pending,
            left_out=self.left_out,
            notes=self.notes,
            limit=self.context.settings.evaluation.limit,
            device=str(pick_device(self.context.settings.models.device)),
            sample=self.sample,
        )


def last_comparison(settings: Settings) -> tuple[pl.DataFrame, ComparisonRecord]:
    """The table of the last comparison.

    Args:
        settings: They say where the storage root is.

    Returns:
        A COMPARISON table, and what it was made of.

    Raises:
        SetrError: There is none yet.
    """
    from setr_lib.tables import COMPARISON

    tables = Tables(settings)
    try:
        return tables.read(FOLDER, COMPARISON), tables.read_record(FOLDER, ComparisonRecord)
    except NotMadeYetError as error:
        raise SetrError("nothing is compared yet: run `setr compare` first") from error


def _named(settings: Settings, methods: Sequence[str]) -> list[str]:
    from setr_lib.methods.method import method_names

    own = [*settings.coarse.strategies, *settings.coarse.caption_strategies]
    if not methods:
        return own
    if ALL in methods:
        named = [name for name in methods if name != ALL]
        return list(dict.fromkeys([*own, *method_names(), *named]))
    return list(dict.fromkeys(methods))


def _runnable(settings: Settings, name: str) -> Method:
    """The method, where it can run under the settings.

    Raises:
        SetrError: It cannot; the message says what it needs.
    """
    from setr_lib.methods.method import check_files, get_method
    from setr_lib.pipeline.methods import options_of

    method = get_method(name, settings)
    check_files(method, options_of(settings, method))
    return method


def _reranked(
    settings: Settings, runnable: dict[str, tuple[str, Method]], reranked: Sequence[str]
) -> list[str]:
    """The names of the methods whose candidates are re-ranked."""
    from setr_lib.methods.method import ranks_captions

    by_vectors = [own for own, (_, method) in runnable.items() if not ranks_captions(method)]
    if reranked and not settings.reranking.rerankers:
        raise SetrError("[reranking] rerankers is empty: nobody can re-rank candidates")
    if ALL in reranked:
        return by_vectors
    spelled = {name: own for own, (name, _) in runnable.items()}
    asked = reranked or settings.reranked_methods
    found = [spelled.get(name, name) for name in asked]
    if reranked and (unknown := [name for name in found if name not in runnable]):
        raise SetrError(f"{unknown[0]!r} is to be re-ranked and is not compared: {', '.join(runnable)} are")
    if reranked and (by_captions := [name for name in found if name not in by_vectors]):
        raise SetrError(
            f"{by_captions[0]!r} searches captions, whose candidates are not re-ranked: name "
            f"{' or '.join(by_vectors) or 'a method that searches vectors'}"
        )
    return [name for name in found if name in runnable]


def _settings_of(
    settings: Settings, runnable: dict[str, tuple[str, Method]], reranked: list[str], keys: list[str]
) -> Settings:
    """Settings that configure exactly what is compared."""
    from setr_lib.datasets import evaluation_sets
    from setr_lib.methods.method import ranks_captions
    from setr_lib.methods.options import layers

    by_captions = [name for name, method in runnable.values() if ranks_captions(method)]
    by_vectors = [name for name, method in runnable.values() if not ranks_captions(method)]
    coarse, reranking = settings.coarse, settings.reranking
    default = coarse.default if coarse.default in by_vectors else [*by_vectors, coarse.default][0]
    by_default = [*(name for name in by_captions if name == coarse.caption_default), *by_captions]
    update = {
        "strategies": by_vectors,
        "caption_strategies": by_captions,
        "default": default,
        "caption_default": (by_default or [coarse.caption_default])[0],
    }
    splits: dict[str, list[str]] = {}
    for one in evaluation_sets(settings):
        if one.key in keys:
            splits.setdefault(one.dataset, []).append(one.split)
    datasets = {
        name: settings.datasets[name].model_copy(update={"splits": chosen}) for name, chosen in splits.items()
    }
    read = {layer.name for _, method in runnable.values() for layer in layers(method)}
    stage_2 = {"methods": reranked or None, "rerankers": reranking.rerankers if reranked else []}
    return settings.model_copy(
        update={
            "datasets": datasets,
            "coarse": coarse.model_copy(update=update),
            "reranking": reranking.model_copy(update=stage_2),
            "methods": {name: section for name, section in settings.methods.items() if name in read},
        }
    )


def _sets(settings: Settings, names: Sequence[str]) -> list[str]:
    """The evaluation sets that are named, or all with known targets."""
    from setr_lib.datasets import evaluation_sets

    every = evaluation_sets(settings)
    if not names:
        found = [one.key for one in every if not one.hidden]
        if not found:
            raise SetrError("settings name no evaluation set with targets: there is nothing to compare on")
        return found
    found = [one.key for one in every if one.key in names or (one.dataset in names and not one.hidden)]
    known = {name for one in every for name in (one.key, one.dataset)}
    if unknown := [name for name in names if name not in known]:
        raise SetrError(
            f"there is no evaluation set {unknown[0]!r}; settings name {', '.join(sorted(known))}"
            f"{did_you_mean(unknown[0], known)}"
        )
    if hidden := [one.key for one in every if one.key in names and one.hidden]:
        raise SetrError(f"the targets of {hidden[0]} are not public: it cannot be compared on")
    compared = {one.dataset for one in every if one.key in found}
    datasets = {one.dataset for one in every}
    if hidden := [name for name in names if name in datasets - compared]:
        raise SetrError(
            f"settings name no split of {hidden[0]} whose targets are public: it cannot be compared on"
        )
    return found
