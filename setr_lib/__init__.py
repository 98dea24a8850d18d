"""Composed image retrieval as a library: settings, a retriever over a gallery, and the classes to extend.

Names are imported when they are first used, so ``import setr_lib`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from setr_lib.benchmarks import Benchmark
    from setr_lib.errors import SetrError
    from setr_lib.methods.inputs import MethodInputs
    from setr_lib.methods.method import Method
    from setr_lib.pipeline.retriever import Hit, Retriever, SearchResult
    from setr_lib.settings import Settings, load_settings
    from setr_lib.spaces.space import EmbeddingSpace
    from setr_lib.texts.kind import TextKind

__all__ = [
    "Benchmark",
    "EmbeddingSpace",
    "Hit",
    "Method",
    "MethodInputs",
    "Retriever",
    "SearchResult",
    "SetrError",
    "Settings",
    "TextKind",
    "load_settings",
]

_MODULES = {
    "Benchmark": "setr_lib.benchmarks",
    "EmbeddingSpace": "setr_lib.spaces.space",
    "Hit": "setr_lib.pipeline.retriever",
    "Method": "setr_lib.methods.method",
    "MethodInputs": "setr_lib.methods.inputs",
    "Retriever": "setr_lib.pipeline.retriever",
    "SearchResult": "setr_lib.pipeline.retriever",
    "SetrError": "setr_lib.errors",
    "Settings": "setr_lib.settings",
    "TextKind": "setr_lib.texts.kind",
    "load_settings": "setr_lib.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'setr_lib' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
