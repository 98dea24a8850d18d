"""Search with a universal multimodal embedder: one vector of reference image and modification text.

The model embeds both together (with an instruction, where it takes one), and the gallery's images alone; an
image's score is the cosine. Any space that gives ``embed_queries`` will do: settings describe it as
``[spaces.embedder]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from setr_lib.methods.inputs import QUERY_VECTORS, MethodInputs
from setr_lib.methods.method import TRAINED_ELSEWHERE, VectorMethod

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _query_vectors(inputs: MethodInputs) -> NDArray[np.float32]:
    return inputs.queries.query_vectors


METHODS = (
    VectorMethod(
        "embedder",
        _query_vectors,
        frozenset({QUERY_VECTORS}),
        label=TRAINED_ELSEWHERE,
        source="a universal multimodal embedder, e.g. Qwen3-VL-Embedding (QwenLM, 2026)",
        space="embedder",
        options=(),
    ),
)
