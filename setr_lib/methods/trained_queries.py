"""Retrieval methods with a trained query side: a registered version makes each query's vector, and images are
ranked by their cosine with it in the frozen encoder's space.

What each version computes is in ``setr_lib/systems``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.methods.inputs import EncodedQueries, MethodInputs
from setr_lib.methods.method import (
    QUERY_VECTORS,
    REFERENCE_PATCHES,
    ZERO_SHOT_TRAINED,
    Method,
    MethodError,
    VectorMethod,
)
from setr_lib.methods.options import Option
from setr_lib.methods.similarity import similarity
from setr_lib.models.refusals import CONTROL_TEXT, run_without_refused
from setr_lib.settings import DEFAULT_SPACE
from setr_lib.systems.recipe import RECIPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setr_lib.spaces.open_clip_space import OpenClipSpace
    from setr_lib.spaces.space import EmbeddingSpace
    from setr_lib.systems.features import ImageFeatures
    from setr_lib.systems.models.system_model import SystemModel
    from setr_lib.weights import Weights

_LOG = logging.getLogger(__name__)

SPACE = Option(
    "space", str, meaning="the embedding space whose encoder the system was trained on: its `encoder`"
)


class TrainedQueries(Method):
    """A method whose query vectors are made by a trained retrieval system.

    Args:
        name: What settings and tables call it.
        trained: The trained system.
        needs: ``REFERENCE_PATCHES``, for a system that reads the reference's patch tokens.
        without_text: Whether the modification text is left out: the reference image alone.
        space: The embedding space whose encoder the system was trained on: its ``encoder``.
    """

    label = ZERO_SHOT_TRAINED
    options = (SPACE,)

    def __init__(
        self,
        name: str,
        trained: str,
        needs: frozenset[str] = frozenset(),
        without_text: bool = False,
        space: str = DEFAULT_SPACE,
    ) -> None:
        self.name, self.trained, self.needs, self.space = name, trained, needs, space
        self.without_text = without_text
        self.source = RECIPES[trained].source

    def with_options(self, options: Mapping[str, Any], find: Callable[[str], Method]) -> Method:
        """The method over the embedding space that the option ``space`` names."""
        space = options.get(SPACE.name)
        if not isinstance(space, str) or self.trained is None:
            return self
        return TrainedQueries(self.name, self.trained, self.needs, self.without_text, space)

    def with_weights(self, weights: Weights) -> Method:
        """The method with a version of the system, loaded on top of the space's encoder."""
        from setr_lib.systems.bundle import FOLDER, load_system

        encoder = _encoder(self.name, weights.space)
        model = load_system(weights.folders[FOLDER], encoder)
        return _WithModel(self, model)

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """Refused: the method was not opened with a version of its weights."""
        raise MethodError(
            f"retrieval method {self.name!r} ranks with a version of {self.trained!r}: open it first"
        )


class _WithModel(TrainedQueries):
    """The method with a loaded system."""

    def __init__(self, method: TrainedQueries, model: SystemModel) -> None:
        assert method.trained is not None
        super().__init__(method.name, method.trained, method.needs, method.without_text, method.space)
        self.model = model

    def search_vectors(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The queries' vectors, made once for the whole evaluation set."""
        return inputs.queries.kept(self.name, self._encoded)

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The cosine of each query's vector with each image's."""
        return similarity(self.search_vectors(inputs), inputs.gallery.vectors)

    def _encoded(self, queries: EncodedQueries) -> NDArray[np.float32]:
        size, count = self.model.encoder.batch_size, queries.frame.height
        vectors = np.zeros((count, self.model.dimension), dtype=np.float32)
        for start in range(0, count, size):
            block = queries.rows(np.arange(start, min(start + size, count)))
            for row, vector in self._block(block).items():
                vectors[start + row] = vector
        return vectors

    def _block(self, queries: EncodedQueries) -> dict[int, NDArray[np.float32]]:
        """The vectors of queries by row; a query whose text is refused has none, and is told."""
        import torch

        from setr_lib.systems.features import ImageFeatures

        patches = torch.from_numpy(queries.reference_patches) if REFERENCE_PATCHES in self.needs else None
        features = ImageFeatures(torch.from_numpy(queries.reference_vectors), patches)
        texts = [""] * len(features) if self.without_text else queries.frame["modification"].to_list()
        ran = run_without_refused(
            [*enumerate(texts)], lambda asked: self._vectors(features, asked), lambda: (0, CONTROL_TEXT)
        )
        for row, reason in ran.refused.items():
            _LOG.warning("%s refuses the text %r (%s): a zero row", self.name, texts[row][:80], reason)
        return dict(ran.results)

    def _vectors(self, features: ImageFeatures, asked: Sequence[tuple[int, str]]) -> NDArray[np.float32]:
        """The vectors of some queries, each a row of the references' features and a text."""
        import torch

        from setr_lib.systems.features import ImageFeatures

        rows, device = [row for row, _ in asked], self.model.device
        patches = None if features.patches is None else features.patches[rows].to(device)
        chosen = ImageFeatures(features.vectors[rows].to(device), patches)
        with torch.inference_mode():
            return self.model.encode_queries(chosen, [text for _, text in asked]).float().cpu().numpy()


def _encoder(method: str, space: EmbeddingSpace | None) -> OpenClipSpace:
    from setr_lib.spaces.open_clip_space import OpenClipSpace

    if not isinstance(space, OpenClipSpace):
        raise MethodError(
            f"retrieval method {method!r} encodes queries with an open_clip model, and searches the "
            f"embedding space {getattr(space, 'id', None)}: let it search one of kind open_clip"
        )
    return space


_PATCHES = frozenset({REFERENCE_PATCHES})
METHODS = (
    TrainedQueries("prompt_tuned", "prompt_tuned"),
    TrainedQueries("retrieval_dpo", "retrieval_dpo"),
    TrainedQueries("pic2word", "pic2word"),
    TrainedQueries("pic2word_image", "pic2word", without_text=True),
    TrainedQueries("mapping", "mapping", _PATCHES),
    TrainedQueries("composing", "composing", _PATCHES),
    VectorMethod(
        "retrieval_dpo_fused",
        lambda inputs: inputs.queries.query_vectors,
        needs=frozenset({QUERY_VECTORS}),
        label=ZERO_SHOT_TRAINED,
        source=RECIPES["retrieval_dpo_fused"].source,
        space="retrieval_dpo_fused",
        options=(),
    ),
    VectorMethod(
        "qformer",
        lambda inputs: inputs.queries.query_vectors,
        needs=frozenset({QUERY_VECTORS}),
        label=ZERO_SHOT_TRAINED,
        source=RECIPES["qformer"].source,
        space="qformer",
        options=(),
    ),
)
