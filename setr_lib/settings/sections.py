"""The sections of ``setr.toml`` about the two stages, evaluation, MLflow and the miniature.

Single values are checked by their types, what does not go together by the validators of a section or of
``Settings``. A key's docstring is what ``docs/settings.md`` says about it.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from setr_lib.near_names import did_you_mean, misspelt
from setr_lib.settings.names import (
    ADAPTER,
    BASE_JUDGE,
    RERANKER_ENTRY_POINTS,
    RERANKERS,
)
from setr_lib.settings.values import (
    Count,
    MethodName,
    ModuleName,
    RerankerName,
    Section,
    Seed,
    StoreAddress,
    StoredName,
)

NegativeKind = Literal[
    "coarse_negative", "reference_negative", "text_only_negative", "shuffled_text_negative"
]


class CoarseSettings(Section):
    """Stage 1: the retrieval methods, and how many images each keeps for a query."""

    strategies: list[MethodName] = Field(
        default=["image", "text", "sum", "product", "union_text", "intersection", "intersection_anchor"]
    )
    """The retrieval methods that are ranked, by name (``setr list methods``), or ``package.module:NAME`` of
    one of your own. (The key kept its earlier name.)"""
    default: MethodName = "intersection"
    """The method that ``setr search`` uses, and whose candidates are re-ranked unless ``[reranking] methods``
    names others. One of ``strategies``."""
    top_k: Count = 50
    """How many images each method keeps for a query. Metrics of a greater depth (R@100, say) are left out,
    and a run says so."""
    memory_mb: int = Field(default=256, ge=16, le=2**24)
    """How many megabytes blocks of vectors and scores may take while a gallery is ranked. A gallery of up to
    half of that is held in memory; a larger one is read from the store in blocks, once for each method. It
    holds for methods that search with one vector for each query; any other holds the whole gallery."""
    anchor_share: float = Field(default=0.1, ge=0, le=1)
    """The share of the reference image's vector in the query of ``intersection_anchor``."""
    caption_strategies: list[MethodName] = Field(
        default=["captions_text", "captions_union", "captions_intersection"]
    )
    """The methods that are ranked besides ``strategies`` where a gallery's images have captions
    (``image_captions``), and alone where none of its images is here."""
    caption_default: MethodName = "captions_intersection"
    """What takes the place of ``default`` where a gallery has captions and no image. One of
    ``caption_strategies``."""

    @model_validator(mode="after")
    def _defaults_are_ranked(self) -> CoarseSettings:
        if not self.strategies:
            raise ValueError("strategies is empty: name at least one, e.g. strategies = ['intersection']")
        for key, default, names in (
            ("default", self.default, self.strategies),
            ("caption_default", self.caption_default, self.caption_strategies or [self.caption_default]),
        ):
            if not may_be_called(default, names):
                among = key.replace("default", "strategies")
                raise ValueError(
                    f"{key}, {default!r}, is not among {among}{misspelt(default, names)}: add it there, or "
                    f"set {key} to one of {', '.join(names)}"
                )
        return self


class PairSettings(Section):
    """The Yes/No pairs that the judge's adapter learns from."""

    groups: int = Field(default=1500, ge=2, le=10_000_000)
    """How many (reference, modification) groups are made, held-out ones included. Each brings one positive
    pair and its negatives."""
    held_out_share: float = Field(default=0.2, gt=0, lt=1)
    """The share of the groups that training never sees, by which an adapter is measured and a fusion is
    chosen."""
    negatives_per_group: dict[NegativeKind, Annotated[int, Field(ge=0, le=30)]] = Field(
        default={
            "coarse_negative": 2,
            "reference_negative": 1,
            "text_only_negative": 1,
            "shuffled_text_negative": 1,
        }
    )
    """How many No pairs of each kind a group gets: images that stage 1 ranks high (``coarse_negative``), the
    reference itself (``reference_negative``, 0 or 1), an image that satisfies the text alone
    (``text_only_negative``), the pair under another group's text (``shuffled_text_negative``)."""
    near_duplicate_cosine: float = Field(default=0.98, gt=0, le=1)
    """A mined negative whose cosine with the target is above this is taken for a right answer that nobody
    has labelled, and left out."""
    writer: Literal["templates", "model"] = "templates"
    """Who writes the modification texts between two captioned images: sentences with blanks to fill
    (``templates``), or the local multimodal LLM (``model``)."""
    seed: Seed = 7
    """The seed of every random choice in the making of pairs."""

    @field_validator("negatives_per_group")
    @classmethod
    def _some_negatives(cls, wanted: dict[NegativeKind, int]) -> dict[NegativeKind, int]:
        if not any(wanted.values()):
            raise ValueError(
                f"a judge needs pairs to say No to: ask for one of {', '.join(get_args(NegativeKind))}"
            )
        if wanted.get("reference_negative", 0) > 1:
            raise ValueError("reference_negative is 0 or 1: a group has one reference")
        return wanted


class AdapterSettings(Section):
    """The training of the judge's LoRA adapter."""

    rank: int = Field(default=16, ge=1, le=4096)
    """The rank of LoRA's matrices."""
    alpha: int = Field(default=32, ge=1, le=65_536)
    """LoRA's update is multiplied by ``alpha / rank``."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """The share of LoRA's inputs that are dropped in training."""
    target_modules: list[ModuleName] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """The linear layers of the language model that are adapted, by the last part of their names."""
    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    """The highest learning rate, after the warm-up. The default is usual for LoRA; this project has chosen
    it, no paper names it."""
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    """The share of the steps in which the learning rate rises from 0; afterwards it falls along a cosine."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """The weight decay of AdamW."""
    epochs: float = Field(default=2.0, gt=0, le=10_000)
    """How often every training group is seen."""
    groups_per_batch: Count = 16
    """(reference, modification) groups per optimiser step; each brings its positive and its negatives. Lower
    it where memory is short."""
    checkpoint_every: Count = 50
    """Optimiser steps between two checkpoints: at most so many are lost where a training is killed."""
    held_out_points: int = Field(default=3, ge=1, le=1000)
    """How often all held-out pairs are judged, evenly spaced, the last time at the end: the points of the
    curve in MLflow, beside that before the first step. On the miniature each takes about 5 % of the
    training's time. The trained weights do not depend on it."""
    seed: Seed = 11
    """The seed of LoRA's first weights, the order of the groups, and dropout."""


class RerankingSettings(Section):
    """Stage 2: the re-rankers, whose candidates they re-order, and how scores are fused."""

    methods: Annotated[list[MethodName], Field(min_length=1)] | None = None
    """The methods whose candidates are re-ranked, each one of ``[coarse] strategies``. Left out: ``[coarse]
    default`` alone."""
    rerankers: list[RerankerName] = Field(default=[BASE_JUDGE, ADAPTER])
    """Who re-ranks, in this order: each one's rows are compared with those before it. ``adapter`` is left out
    until a version is promoted. An empty list re-ranks nothing."""
    top_k: Count = 50
    """How many of stage 1's candidates per query a re-ranker re-orders; all of them, where ``[coarse] top_k``
    keeps fewer. ``rerank_top_k`` of a data set wins."""
    fusion: Literal["auto", "judge", "cosine_judge", "reciprocal_rank"] = "auto"
    """How stage 1's score and the re-ranker's become one order: the re-ranker's alone (``judge``),
    ``cosine + judge_weight * P(Yes)`` (``cosine_judge``), or 1 / (60 + rank) added up (``reciprocal_rank``).
    ``auto``: for each method and re-ranker, whichever orders held-out synthesised queries best (asset
    ``reranking_fusion``); without ``[training]`` ``cosine_judge``, or ``reciprocal_rank`` where there is no
    cosine or no P(Yes)."""
    judge_weight: float = Field(default=1.0, ge=0, le=1000)
    """The weight of P(Yes) in ``cosine_judge``. Under ``auto`` it is chosen, too."""
    pairs: PairSettings = Field(default_factory=PairSettings)
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)

    @field_validator("rerankers")
    @classmethod
    def _known_rerankers(cls, names: list[str]) -> list[str]:
        for name in names:
            if any(map(is_path, (name, *names))) or name in RERANKERS:
                continue  # a path's object may have any name, which is judged where it is loaded
            if name not in (installed := installed_names(RERANKER_ENTRY_POINTS)):
                known = sorted({*RERANKERS, *installed})
                near = did_you_mean(name, known) or "."
                raise ValueError(
                    f"there is no re-ranker {name!r}; known: {', '.join(known)}{near} One in a file of yours "
                    f"is named by its path, package.module:NAME; an installed one is an entry point of "
                    f"{RERANKER_ENTRY_POINTS!r}"
                )
        return names


def installed_names(*groups: str) -> set[str]:
    """Names of the entry points of installed packages."""
    from importlib.metadata import entry_points

    return {point.name for group in groups for point in entry_points(group=group)}


def is_path(name: str) -> bool:
    """Whether a name is ``package.module:NAME``: its object's own name is known once it is loaded."""
    return ":" in name


def may_be_called(name: str, listed: list[str]) -> bool:
    """Whether ``name`` is in a list of methods, or may be what one of them, given as a path, calls itself."""
    return name in listed or (not is_path(name) and any(map(is_path, listed)))


class EvaluationSettings(Section):
    """Metrics, intervals, comparisons and reports."""

    bootstrap_samples: int = Field(default=2000, ge=100, le=1_000_000)
    """How many bootstrap samples of the queries a 95 % interval is made of."""
    seed: Seed = 5
    """The seed of the bootstrap samples."""
    contact_sheet_queries: int = Field(default=12, ge=0, le=10_000)
    """How many best cases a report shows with their pictures, and how many worst."""
    baselines: list[MethodName] = Field(default=["sum", "union_text"])
    """The methods that the default method is compared with in reports, if they are ranked."""
    caption_baselines: list[MethodName] = Field(default=["captions_union", "captions_text"])
    """The same for ``[coarse] caption_default``, where captions are ranked."""
    shown: list[MethodName] | None = None
    """The methods whose rows a report shows at once, the default one always; the others are folded. Left
    out: all."""
    limit: Count | None = None
    """Only the first so many queries of each set are evaluated (a trial); such rows are marked not
    comparable. Left out: all."""


class RegistrySettings(Section):
    """The MLflow store of trainings and registered models."""

    tracking_uri: StoreAddress | None = None
    """The address of MLflow's store (tracking and registry): ``sqlite:///FILE``, another database's, or a
    server's. Left out: ``mlflow.db`` under the storage root."""
    experiment: StoredName = "setr"
    """The MLflow experiment that trainings belong to."""
    model: StoredName = "setr-reranker"
    """The name of the registered model whose versions are the judge's adapters."""
    evaluations: StoredName = "setr-evaluations"
    """The MLflow experiment that evaluations belong to: a run for each evaluation of a set, and below it one
    for each row."""
    log_evaluations: bool = True
    """Whether evaluations are logged to MLflow, too; tables and reports are written in any case."""
    mlflow_ui: str = "http://127.0.0.1:5000"
    """Where MLflow's UI is opened, for links to it; a store that is a server is linked by its own address."""
    dagster_ui: str = "http://127.0.0.1:3000"
    """Where Dagster's UI is opened, for links to it."""


class MiniatureSettings(Section):
    """The miniature: drawn pictures for trying SETR out. Its two models come with SETR and do not depend on
    ``seed``.

    Three dials (``objects_per_scene``, ``near_misses``, ``background_correlation``) say how hard its
    galleries are; the training images do not depend on them. A *distractor* is a gallery image that is no
    query's reference or target; each is drawn for one query.
    """

    seed: Seed = 0
    """The seed of everything that is drawn: another seed draws other pictures of the same kind."""
    size: float = Field(default=1.0, gt=0, le=1000)
    """Scales the numbers of images and queries; 1.0 is the documented size."""
    models_seed: Seed = 0
    """The seed of the training of the two small models by ``setr miniature train``; those of SETR have 0."""
    training_images: int = Field(default=1600, ge=16, le=10_000_000)
    """How many captioned training images are drawn."""
    objects_per_scene: float = Field(default=1.6, ge=1, le=2)
    """How many different objects a query's reference shows in CIRR and CIRCO, on average; its target may show
    one more or one less."""
    near_misses: float = Field(default=1.0, ge=0, le=4)
    """Scales the number of near misses per query (pictures one respect away from its target or reference);
    1.0 is the documented number. Below, random pictures take their place; above, they replace random ones,
    then are added."""
    background_correlation: float | None = Field(default=None, ge=0, le=1)
    """The chance that a distractor has the background of its query's reference; else its background is
    random. (The target never has the reference's.) Left out: 0.7 in CIRR and CIRCO; in FashionIQ about
    half of the distractors have the background of some query's reference."""
