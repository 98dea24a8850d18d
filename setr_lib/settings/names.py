"""Names that settings, and what reads settings, agree on: files, variables, built-in kinds and re-rankers."""

from __future__ import annotations

from pathlib import Path

SETTINGS_FILE = "setr.toml"
CONFIG_VARIABLE = "SETR_CONFIG"
OTHER_VARIABLES = (
    CONFIG_VARIABLE,
    "SETR_BASE_MODEL",
    "SETR_ENCODER",
    "SETR_IMAGE_ROOTS",
    "SETR_MAX_ROWS",
    "SETR_MAX_IMAGE_BYTES",
    "SETR_MAX_IMAGE_PIXELS",
    "SETR_MAX_CHARACTERS",
)
"""``SETR_...`` variables that are not settings: the settings file itself, and what served models read."""
NAMES_OF_KINDS = frozenset(
    module.stem for module in (Path(__file__).parents[1] / "benchmarks" / "kinds").glob("[a-z]*.py")
)
"""A data set of such a name is of that kind unless it says otherwise, so that one variable with a root will
do."""
LOCAL_FOLDER = "local-dir:"
"""What open_clip's name of a model in a folder begins with."""
DEFAULT_SPACE = "clip"
"""The embedding space that ``[models.encoder]`` describes: that of every method that names none."""
OPEN_CLIP, SENTENCE_TRANSFORMERS, BLIP2 = "open_clip", "sentence_transformers", "blip2"
BUILT_IN_SPACES = (OPEN_CLIP, SENTENCE_TRANSFORMERS, BLIP2)
"""The kinds of embedding space that come with the package; none of them is trained here."""
TRAINED_SPACES = {
    "retrieval_dpo_fused": "setr_lib.systems.trained_space:FusedSpace",
    "qformer": "setr_lib.systems.trained_space:QformerSpace",
}
"""The kinds of embedding space that come with the package and are trained, each by the trained system of its
name, and their classes. Their options name the encoder: those of its ``kind`` (``open_clip`` by default), and
the kind itself. Without them it is that of ``[systems.NAME] encoder``."""
BASE_JUDGE, ADAPTER = "base judge", "adapter"
"""The re-rankers that come with the package: the multimodal LLM as it is, and with the champion adapter."""
QWEN_RERANKER = "qwen3-vl-reranker"
"""The re-ranker that is a model of its own, ``[models.reranker]``, under its own prompt."""
RERANKERS = {BASE_JUDGE, ADAPTER, QWEN_RERANKER}
"""Names of re-rankers that this process knows; ``setr_lib.reranking.reranker.register`` adds to them. Those
of installed packages are looked up."""
RERANKER_ENTRY_POINTS = "setr.rerankers"
METHOD_ENTRY_POINTS = ("setr.methods", "setr.strategies")
"""The groups of installed retrieval methods; the second is the earlier name of the first."""
DEFAULT_ENCODER, DEFAULT_PRETRAINED = "ViT-L-14", "laion2b_s32b_b82k"
"""Architecture and weights of the encoder where settings name none."""
PREFIX, DELIMITER = "SETR_", "__"
NOT_KEYS = ("base_dir", "trusted")
"""Fields of ``Settings`` that are no keys of the file."""
UNTRUSTED = (
    "and the settings file was found by looking upwards from here, in a place where another person can "
    f"write: name it by --config or {CONFIG_VARIABLE} if you trust it, or let file and folder belong to you "
    "and be writable by you alone"
)
"""Why code is not run, as the end of a sentence."""
