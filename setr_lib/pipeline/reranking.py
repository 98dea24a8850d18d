"""Stage 2: the re-rankers that settings name, the fusion of their scores with stage 1's, and the re-ranking
of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from setr_lib.pipeline.storage import NotMadeYetError
from setr_lib.pipeline.trained_weights import CHAMPIONS, Versions
from setr_lib.progress import Progress, silent
from setr_lib.settings import ADAPTER
from setr_lib.settings import BASE_JUDGE as BASE

if TYPE_CHECKING:
    import polars as pl

    from setr_lib.methods.method import Method
    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.reranking.fusion import Fusion
    from setr_lib.reranking.order import Order
    from setr_lib.reranking.reranker import Reranker
    from setr_lib.reranking.yes_no_judge import YesNoJudge

BEST = "best"
"""The best of the configured re-rankers: the first trained one of which a version is promoted, else the first
that can score; stage 1 alone where there is none."""
STAGE_1_ALONE = ("none", "coarse")
"""What a person names in place of a re-ranker for the order of stage 1."""


class ConfiguredRerankers:
    """The re-rankers of one settings object, found once and carried as objects from there on.

    Args:
        context: Settings and models.
    """

    def __init__(self, context: PipelineContext) -> None:
        self._context = context

    @cached_property
    def _named(self) -> dict[str, Reranker]:
        from setr_lib.reranking.reranker import RerankerError, get_reranker

        settings = self._context.settings
        names = settings.reranking.rerankers
        paths = {name: get_reranker(name, settings) for name in names if ":" in name}
        own = {reranker.name: reranker for reranker in paths.values()}
        found = {
            name: paths.get(name) or own.get(name) or get_reranker(name, settings, also=own) for name in names
        }
        files: dict[str, str] = {}
        for name, reranker in found.items():
            other = files.setdefault(reranker.name.replace(" ", "-"), name)
            if other != name:
                raise RerankerError(
                    f"[reranking] rerankers: {other!r} and {name!r} are both called {reranker.name!r}, or "
                    "nearly so: leave one out, or rename it"
                )
        return found

    @property
    def configured(self) -> list[Reranker]:
        """The re-rankers that settings name, in their order, not opened yet.

        Returns:
            The re-rankers.

        Raises:
            RerankerError: One cannot be had.
        """
        return [self._named[name] for name in self._context.settings.reranking.rerankers]

    def version(self, reranker: Reranker, versions: Versions = CHAMPIONS) -> str | None:
        """The registered version that a re-ranker scores with.

        Args:
            reranker: The re-ranker.
            versions: Version by registered model; the champion of the moment for one that is not named.

        Returns:
            The version; None for a re-ranker without trained weights, and where nothing is promoted.

        Raises:
            TrainedSystemError: There is no trained system of the name that it says.
        """
        if reranker.trained is None:
            return None
        return self._context.weights.version(reranker.trained, versions)

    def in_use(self, versions: Versions = CHAMPIONS) -> dict[str, str | None]:
        """The versions that the configured re-rankers score with.

        Args:
            versions: As of :meth:`version`.

        Returns:
            Version by registered model, ``None`` where nothing is promoted.

        Raises:
            TrainedSystemError: ``versions`` names a model that is not known, or a re-ranker a system that is
                not.
        """
        systems = (reranker.trained for reranker in self.configured)
        return self._context.weights.in_use((name for name in systems if name is not None), versions)

    def usable(self, versions: Versions = CHAMPIONS) -> list[Reranker]:
        """Those of :attr:`configured` that can score: the trained ones only where there is a version.

        Args:
            versions: As of :meth:`version`.

        Returns:
            The re-rankers, in the order of the settings.
        """
        return [
            reranker
            for reranker in self.configured
            if reranker.trained is None or self.version(reranker, versions) is not None
        ]

    def get(self, name: str) -> Reranker:
        """A re-ranker by its name: its own, or the one that settings call it by.

        Args:
            name: The name.

        Returns:
            The re-ranker: a configured one, else any that is known; not opened yet.

        Raises:
            RerankerError: There is none.
        """
        from setr_lib.reranking.reranker import get_reranker

        own = {reranker.name: reranker for reranker in self.configured}
        found = own.get(name) or self._named.get(name)
        return found or get_reranker(name, self._context.settings, also=own)


@dataclass(frozen=True)
class OpenReranker:
    """A re-ranker that is ready to score.

    Attributes:
        scorer: The re-ranker.
        version: The registered version of its weights, for one that is trained.
        label: What its rows say that it has learned from.
        registered_model: The registered model of that version.
    """

    scorer: Reranker
    version: str | None = None
    label: str = ""
    registered_model: str | None = None

    @property
    def name(self) -> str:
        """Its name in rows."""
        return self.scorer.name

    @property
    def title(self) -> str:
        """Its name and version: ``adapter v3``."""
        return f"{self.name} v{self.version}" if self.version else self.name


@dataclass(frozen=True)
class FusionInUse:
    """How a re-ranker's score and stage 1's become one order, and how that was chosen."""

    fusion: Fusion
    weight: float
    how: str

    @property
    def words(self) -> str:
        """The fusion as records and reports state it."""
        weight = f", w = {self.weight:g}" if self.fusion == "cosine_judge" else ""
        return f"{self.fusion}{weight} ({self.how})"

    def order(self, method: Method, reranker: Reranker) -> Order:
        """What candidates are ordered by, as a formula in words.

        Args:
            method: The retrieval method.
            reranker: The re-ranker, opened or not.

        Returns:
            The order.
        """
        from setr_lib.reranking.order import fused_order

        return fused_order(
            self.fusion,
            self.weight,
            is_cosine=method.is_cosine,
            is_logit=reranker.is_logit,
            is_listwise=reranker.listwise,
        )


def open_reranker(context: PipelineContext, name: str, version: str | None = None) -> OpenReranker:
    """Load a re-ranker.

    Args:
        context: Settings and models.
        name: The re-ranker's name, or ``package.module:NAME``.
        version: The registered version of its weights, for one that is trained.

    Returns:
        The re-ranker.

    Raises:
        SetrError: There is none, or it cannot be loaded; the message says what is missing.
    """
    from setr_lib.reranking.reranker import RerankerError, opened
    from setr_lib.reranking.yes_no_judge import AdaptedJudge
    from setr_lib.weights import check_id

    named = context.rerankers.get(name)
    if named.trained is None:
        ready = opened(named, context.models)
        return OpenReranker(ready, None, ready.label)
    if version is None:
        raise RerankerError(_no_weights(context, named))
    if type(named) is AdaptedJudge:
        label = context.adapter_label(version) or named.label
        judge = yes_no_judge(context, version, named.name, label)
        return OpenReranker(judge, version, label, context.settings.registry.model)
    loaded, weights = context.weights.reranker(named, version)
    ready = opened(loaded, context.models)
    check_id(f"re-ranker {named.name!r}", ready.id, weights, RerankerError)
    model = context.weights.model(named.trained)
    return OpenReranker(ready, version, weights.label or ready.label, model)


def _no_weights(context: PipelineContext, named: Reranker) -> str:
    assert named.trained is not None
    asset = context.weights.promoted_by(named.trained)
    return (
        f"re-ranker {named.name!r} has no weights yet: nothing was promoted; materialize {asset} and what is "
        f"before it: `setr run --until {asset}`"
    )


def yes_no_judge(
    context: PipelineContext, version: str | None = None, name: str | None = None, label: str | None = None
) -> YesNoJudge:
    """The Yes/No judge: the base model, or with a registered adapter.

    The base model's prompt is ``judge.jinja`` of the prompt set that the settings name; an adapter's prompt
    is the one that it was trained under, read from its registered bundle.

    Args:
        context: Settings and models.
        version: The registered version of the adapter.
        name: What rows call it; the name of the built-in re-ranker by default.
        label: What rows say that it has learned from.

    Returns:
        The judge.

    Raises:
        SetrError: The model, the prompt or the version cannot be had.
    """
    from setr_lib.reranking.reranker import ZERO_SHOT
    from setr_lib.reranking.yes_no_judge import YesNoJudge

    template = context.prompts().get("judge") if version is None else context.bundle(version).judge_prompt
    model, built_in = context.models.multimodal(version), BASE if version is None else ADAPTER
    return YesNoJudge(model, template, name or built_in, label or ZERO_SHOT)


@dataclass(frozen=True)
class WantedReranker:
    """A re-ranker that a search is to use, not opened yet.

    Attributes:
        name: Its name, or ``package.module:NAME``.
        version: The registered version of its weights, for one that is trained.
    """

    name: str
    version: str | None = None


def wanted_reranker(context: PipelineContext, name: str | None) -> WantedReranker | None:
    """The re-ranker that a person asks for, with the champion's weights where it is trained.

    Args:
        context: Settings and models.
        name: Its name (``-`` for spaces), or ``package.module:NAME``; ``BEST`` for the best configured one:
            a trained one that has a champion, else the first that can score. One of ``STAGE_1_ALONE``, or
            None, for no re-ranker.

    Returns:
        The re-ranker; None for stage 1 alone.

    Raises:
        RerankerError: There is none of that name, or it has no weights yet.
    """
    from setr_lib.reranking.reranker import RerankerError, reranker_names

    if name is None or name in STAGE_1_ALONE:
        return None
    if name == BEST:
        return _best_reranker(context)
    own = {reranker.name for reranker in context.rerankers.configured} | set(reranker_names())
    spaced = name.replace("-", " ")
    named = context.rerankers.get(spaced if spaced in own and name not in own else name)
    version = context.rerankers.version(named)
    if named.trained is not None and version is None:
        raise RerankerError(_no_weights(context, named))
    return WantedReranker(named.name if ":" not in name else name, version)


def _best_reranker(context: PipelineContext) -> WantedReranker | None:
    versions = context.rerankers.in_use()
    usable = context.rerankers.usable(versions)
    best = next((reranker for reranker in usable if reranker.trained), usable[0] if usable else None)
    return None if best is None else WantedReranker(best.name, context.rerankers.version(best, versions))


def fusion_in_use(
    context: PipelineContext, method: Method, reranker: Reranker, version: str | None
) -> FusionInUse:
    """How scores are fused for one retrieval method and re-ranker.

    By ``auto``, as ``reranking_fusion`` chose. Weights that it has not seen yet are treated like those it has
    seen, a pair without any calibration like LamRA's: cosine plus P(Yes). Where there is no cosine, or no
    P(Yes), the fusion is reciprocal rank in place of that.

    Args:
        context: Settings and tables.
        method: The retrieval method.
        reranker: The re-ranker, opened or not.
        version: The registered version of its weights.

    Returns:
        The fusion.
    """
    options = context.settings.reranking
    if options.fusion != "auto":
        return _possible(options.fusion, options.judge_weight, "by the settings", method, reranker)
    try:
        known = _calibrated(context).filter(method=method.name, reranker=reranker.name, chosen=True)
    except NotMadeYetError:
        if not context.settings.training.is_named:
            return _uncalibrated(options.judge_weight, method, reranker)
        how = "no calibration yet: materialize reranking_fusion"
        return _possible("cosine_judge", options.judge_weight, how, method, reranker)
    if known.is_empty():
        how = f"no calibration of {method.name} and {reranker.name} yet"
        return _possible("cosine_judge", options.judge_weight, how, method, reranker)
    row = known.row(0, named=True)
    how = f"best on {row['queries']} held-out synthesised queries"
    if row["version"] != version:
        how += f" for version {row['version']}"
    return _possible(row["fusion"], row["weight"] or 1.0, how, method, reranker)


def no_sum_because(method: Method, reranker: Reranker) -> str | None:
    """Why a method's score and a re-ranker's cannot be added up.

    Args:
        method: The retrieval method.
        reranker: The re-ranker.

    Returns:
        The reason as a clause; None where they can be added.
    """
    if not method.is_cosine:
        return f"the scores of method {method.name!r} are not cosines"
    if not reranker.is_logit:
        return f"the scores of re-ranker {reranker.name!r} are not the log-odds of a Yes"
    return None


def _possible(fusion: Fusion, weight: float, how: str, method: Method, reranker: Reranker) -> FusionInUse:
    why = no_sum_because(method, reranker)
    if fusion != "cosine_judge" or why is None:
        return FusionInUse(fusion, weight, how)
    return FusionInUse("reciprocal_rank", 1.0, f"{how}; not cosine_judge: {why}")


def _uncalibrated(weight: float, method: Method, reranker: Reranker) -> FusionInUse:
    """What stands in where settings name nothing that held-out queries could be made of."""
    how = "there are no held-out queries to choose by, because [training] names no training images"
    found = _possible("cosine_judge", weight, how, method, reranker)
    stand_in = f"cosine + {weight:g} x P(Yes)" if found.fusion == "cosine_judge" else "reciprocal rank"
    return replace(found, how=f"{found.how}; {stand_in} stands in")


def _calibrated(context: PipelineContext) -> pl.DataFrame:
    """The FUSIONS table; one that an earlier version wrote is of the default method."""
    import polars as pl

    from setr_lib.tables import FUSIONS

    def present(frame: pl.DataFrame) -> pl.DataFrame:
        if "stage" not in frame.columns:
            return frame
        default = context.methods.get(context.settings.coarse.default).name
        return frame.rename({"stage": "reranker", "adapter_version": "version"}).with_columns(
            method=pl.lit(default)
        )

    return context.tables.read("reranking_fusion", FUSIONS, earlier=present)


def rerank_candidates(
    context: PipelineContext,
    reranker: OpenReranker,
    rankings: pl.DataFrame,
    queries: pl.DataFrame,
    gallery: pl.DataFrame,
    *,
    k: int,
    fused: FusionInUse | None = None,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Re-order the first candidates of every query; scores are kept by content.

    Args:
        context: The cache of scores.
        reranker: Who scores.
        rankings: A RANKINGS table of one retrieval method.
        queries: A QUERIES table.
        gallery: GALLERY rows of candidates and references.
        k: Candidates per query.
        fused: How scores become an order; by the re-ranker's score alone by default.
        progress: Told how many pairs are scored.

    Returns:
        A RANKINGS table.

    Raises:
        SetrError: A ranking names an unknown query, or a score is not finite.
    """
    from setr_lib.reranking.rerank import CACHE_KIND, rerank

    return rerank(
        rankings,
        queries,
        gallery,
        reranker.scorer,
        context.cache(CACHE_KIND),
        fusion=fused.fusion if fused else "judge",
        weight=fused.weight if fused else 1.0,
        k=k,
        progress=progress,
    )
