"""The ablations of `make compare-trained`, and how each ranks the evaluation sets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.trained_results import ABLATION, Measured
from setr_lib.datasets import evaluation_set
from setr_lib.evaluation.metrics import evaluate as metrics_of
from setr_lib.hashing import digest_json
from setr_lib.methods.inputs import GalleryIndex
from setr_lib.methods.method import VectorMethod
from setr_lib.pipeline.ablation import Ablation, ablated_system, train_ablation
from setr_lib.pipeline.retrieval import encoded_queries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.trained_worlds import World
    from setr_lib.pipeline.query_set import QuerySet
    from setr_lib.systems.data import Features
    from setr_lib.systems.models.system_model import SystemModel

_FORMAT = 1
_QUERIES = "trained query"
COUNTS = (50, 200, 1000)
"""Synthetic triplets."""
NOISE = 0.3
"""Share of the training triplets whose texts are shuffled."""
SWITCHES = ("fused", "listwise", "curated", "towers")
"""The four reasons for the failure of Retrieval-DPO, each mended by a switch."""
BETAS = (0.3, 1.0, 3.0)
INDEXES = ("exact", "ivf")
CHOICES = ("hardest", "uniform")

NO_INJECTION = Ablation("mapping: no visual injection", "mapping", {"visual_injection": False})
ONE_HOT = Ablation("mapping: one-hot alignment", "mapping", {"alignment": "one-hot"})
COMPOSING_NO_INJECTION = Ablation(
    "composing: no visual injection", "composing", {"visual_injection": False}, below=NO_INJECTION
)
COMPOSING_ONE_HOT = Ablation("composing: over one-hot alignment", "composing", below=ONE_HOT)
LORA = Ablation("composing: LoRA for adapters", "composing", {"adapter": "lora"})
NO_HARD = Ablation("composing: no hard negatives", "composing", {"hard_negatives": False})
FEWER = {count: Ablation(f"composing: {count:,} triplets", "composing", {"limit": count}) for count in COUNTS}
SHUFFLED = Ablation(f"composing: {NOISE:.0%} of the texts shuffled", "composing", shuffled=NOISE)
NONE_MENDED = Ablation(
    "retrieval_dpo_fused: none mended", "retrieval_dpo_fused", dict.fromkeys(SWITCHES, False)
)
ONE_MENDED = {
    switch: Ablation(
        f"retrieval_dpo_fused: {switch} alone",
        "retrieval_dpo_fused",
        {**dict.fromkeys(SWITCHES, False), switch: True},
    )
    for switch in SWITCHES
}
OTHER_TRIPLETS = Ablation("qformer: CIRR's triplets", "qformer", {"triplets": "cirr"})


def tuned(beta: float, index: str, choice: str) -> Ablation:
    """Retrieval-DPO with one of the published paper's three tuned settings each.

    Args:
        beta: The margin's factor.
        index: How the negatives' pool is searched.
        choice: Which of the pool are negatives.

    Returns:
        The ablation.
    """
    options: dict[str, Any] = {"beta": beta, "index": index, "choice": choice}
    return Ablation(f"retrieval_dpo: beta {beta:g}, {index}, {choice}", "retrieval_dpo", options)


TUNED = tuple(tuned(beta, index, choice) for beta in BETAS for index in INDEXES for choice in CHOICES)
PAPER_3 = (
    NO_INJECTION,
    COMPOSING_NO_INJECTION,
    ONE_HOT,
    COMPOSING_ONE_HOT,
    LORA,
    NO_HARD,
    *FEWER.values(),
    SHUFFLED,
)
PAPER_2 = (NONE_MENDED, *ONE_MENDED.values(), OTHER_TRIPLETS, *TUNED)
ABLATIONS = (*PAPER_3, *PAPER_2)


class Laboratory:
    """Trains ablations on a world, and ranks its evaluation sets by each.

    Args:
        world: The world, its systems trained.
    """

    def __init__(self, world: World) -> None:
        self.world, self.context = world, world.context
        self._ready: dict[str, QuerySet] = {}
        self._features: dict[tuple[str, frozenset[str]], Features] = {}

    def run(self, ablation: Ablation) -> Measured:
        """Train an ablation and rank every evaluation set by it; what was done before is found again.

        Args:
            ablation: Which.

        Returns:
            Its figures.
        """
        world = self.world
        digest = self._digest(ablation)
        known = world.results.find(ABLATION, ablation.name, digest)
        if known is not None:
            return known
        world.say(f"{ablation.name}: training")
        done = train_ablation(self.context, ablation, world.progress)
        world.say(f"{ablation.name}: {done.system.in_words(done.result)}")
        model = done.model()
        facts = {
            "run_id": done.run_id,
            "before": done.result.recall_before,
            "after": done.result.recall,
            "seconds": done.result.seconds,
            "parameters": done.result.parameters,
            "rows": done.result.rows,
        }
        frames = [self._per_query(key, model) for key in world.keys]
        measured = Measured(ABLATION, ablation.name, digest, pl.concat(frames), facts)
        world.results.store(measured)
        return measured

    def _digest(self, ablation: Ablation) -> str:
        sets = {key: self._set(key).queries.frame.height for key in self.world.keys}
        training = ablated_system(self.context, ablation, self.world.progress).digest()
        return digest_json([_FORMAT, training, sets, self.context.settings.coarse.top_k])

    def _set(self, key: str) -> QuerySet:
        if key not in self._ready:
            self._ready[key], _ = encoded_queries(self.context, key)
        return self._ready[key]

    def _per_query(self, key: str, model: SystemModel) -> pl.DataFrame:
        from setr_lib.systems.held_out import encoded_queries as queries_of

        ready, kind = self._set(key), evaluation_set(self.context.settings, key).kind
        frame = ready.queries.frame
        references, texts = frame["reference_id"].to_list(), frame["modification"].to_list()
        vectors = queries_of(model, self._of(key, model.reads, model), references, texts)
        ranked = replace(
            ready,
            queries=ready.queries.with_vectors(_QUERIES, vectors),
            index=GalleryIndex(ready.index.ids, self._images(key, model)),
        )
        method = VectorMethod("ablation", lambda inputs: inputs.queries.kept(_QUERIES, _known), options=())
        rankings = ranked.ranked(method, self.context.settings.coarse.top_k)
        found = metrics_of(kind, frame, rankings, ready.images, unranked="miss").per_query
        return found.with_columns(dataset=pl.lit(kind))

    def _images(self, key: str, model: SystemModel) -> NDArray[Any]:
        """The gallery's vectors: by the model, where its image side is trained."""
        from setr_lib.systems.features import VECTORS
        from setr_lib.systems.held_out import encoded_images
        from setr_lib.systems.models.system_model import SystemModel as Base

        is_frozen = type(model).encode_images is Base.encode_images or model.reads == {VECTORS}
        ready = self._set(key)
        if is_frozen:
            return ready.index.vectors
        return encoded_images(model, self._of(key, model.reads, model), ready.index.ids)

    def _of(self, key: str, reads: frozenset[str], model: SystemModel) -> Features:
        """The features of a gallery's images; patch tokens that were made once are kept."""
        from setr_lib.pixels import picture_files
        from setr_lib.systems.data import Features

        if (key, reads) not in self._features:
            ready = self._set(key)
            files = picture_files(ready.images)
            self._features[key, reads] = Features(
                model.encoder, files, ready.index.ids, ready.index.vectors, reads
            )
        return self._features[key, reads]


def _known(queries: Any) -> Any:
    raise AssertionError("the queries' vectors were given")
