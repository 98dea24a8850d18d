"""Embedding spaces of the package sentence-transformers: text models, and universal multimodal embedders.

A text model embeds texts alone, e.g. the captions that the dense caption methods search. A multimodal one,
such as Qwen3-VL-Embedding, also embeds images, and an image and a text as one query. Which of the two a model
is, it says itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.hashing import digest_json, digest_strings
from setr_lib.models.device import pick_device, run_in_batches
from setr_lib.models.hub import load_from_hub
from setr_lib.models.hub_cache import Source, transformers_sources
from setr_lib.spaces.identity import configuration_values, digest_weights, image_processor_id
from setr_lib.spaces.space import EmbeddingSpace, SpaceError, checked_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

INSTALL = "pip install 'sentence-transformers>=6.0'"
"""The command that brings the package."""
_PROBE = "The red dress, but with 3 shorter sleeves & no belt."
_QUERIES, _DOCUMENTS = ("query",), ("document", "passage", "corpus")
"""What models call their prompts of queries and of what is searched, as sentence-transformers looks them
up."""


class SentenceSpace(EmbeddingSpace):
    """A model of sentence-transformers on one device; its vectors are float32 with norm 1.

    Queries (texts, or an image with a text) get the query prompt, images and captions the document prompt.
    With a multimodal model a prompt is the system message, its *instruction*; with a text model it stands
    before the text. Make one with :func:`load_space`. Use it from one thread at a time.

    Args:
        model: The ``SentenceTransformer``.
        name: The model's name without this machine's folders, with its revision.
        batch_size: Images or texts per forward pass.
        query_prompt: In place of the model's own prompt of queries.
        document_prompt: In place of the model's own prompt of documents.

    Attributes:
        id: Identity of weights, architecture, tokenizer and both prompts: ``name@digest``.
        preprocessing_id: Identity of the image preprocessing.
        dimension: Length of a vector.
        query_prompt: The prompt in use; empty for none.
        document_prompt: Likewise.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        batch_size: int = 32,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self.batch_size = batch_size
        self.device = model.device
        self.query_prompt = _prompt(model, query_prompt, _QUERIES)
        self.document_prompt = _prompt(model, document_prompt, _DOCUMENTS)
        prompts = [self.query_prompt, self.document_prompt]
        self.id = f"{name}@{digest_strings([_model_digest(model), *prompts])[:16]}"
        self.preprocessing_id = _preprocessing_id(model)
        self.dimension = int(self._encoded([_PROBE], self.query_prompt).shape[1])

    @property
    def embeds_texts(self) -> bool:
        """Whether the model takes texts."""
        return bool(self._model.supports("text"))

    @property
    def embeds_queries(self) -> bool:
        """Whether the model takes an image and a text together."""
        return bool(self._model.supports(("image", "text")))

    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embed images under the document prompt; SpaceError for a text model."""
        if not self._model.supports("image"):
            raise SpaceError(
                f"the embedding space {self.id} is of a text model and cannot embed images: let the method's "
                "`space` name another"
            )
        return self._batched([{"image": image} for image in images], self.document_prompt)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts under the query prompt."""
        return self._texts(texts, self.query_prompt)

    def embed_captions(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Embed captions under the document prompt."""
        return self._texts(captions, self.document_prompt)

    def embed_queries(self, images: Sequence[Image.Image], texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed images, each with its text, under the query prompt; the image stands before the text."""
        if not self.embeds_queries:
            return super().embed_queries(images, texts)
        pairs = [{"image": image, "text": text} for image, text in zip(images, texts, strict=True)]
        return self._batched(pairs, self.query_prompt)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts whose tokens, with the prompt, are more than the model reads."""
        limit = self._model.max_seq_length
        tokenizer = getattr(self._model, "tokenizer", None)
        if limit is None or tokenizer is None or not texts:
            return 0
        whole = tokenizer([self.query_prompt + text for text in texts], truncation=False, verbose=False)
        return sum(len(ids) > limit for ids in whole["input_ids"])

    def _texts(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        """Texts of like length share a batch, which is padded to its longest."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        made = self._batched([texts[row] for row in order], prompt)
        found = np.empty_like(made)
        found[order] = made
        return found

    def _batched(self, items: Sequence[Any], prompt: str) -> NDArray[np.float32]:
        rows = run_in_batches(items, lambda batch: list(self._encoded(batch, prompt)), self.batch_size)
        made = np.stack(rows) if rows else np.zeros((0, self.dimension), dtype=np.float32)
        return checked_vectors(self, made, len(items))

    def _encoded(self, items: Sequence[Any], prompt: str) -> NDArray[np.float32]:
        import torch

        found = self._model.encode(
            list(items), prompt=prompt, batch_size=len(items), show_progress_bar=False, convert_to_tensor=True
        )
        forget_folder_named_datasets()
        return torch.nn.functional.normalize(found.float(), dim=-1).cpu().numpy()


def load_space(
    *,
    device: str = "auto",
    model: str,
    revision: str | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    dtype: str = "auto",
    batch_size: int = 32,
) -> SentenceSpace:
    """A model as an embedding space: what ``[spaces.NAME] kind = "sentence_transformers"`` makes.

    Args:
        device: A torch device, or ``auto``.
        model: A hub id, or a local folder as ``SentenceTransformer.save_pretrained`` writes it.
        revision: A commit, branch or tag of the hub.
        query_prompt: The prompt (instruction) of queries; the model's own by default.
        document_prompt: That of images and captions.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: as stored, float32 on a CPU.
        batch_size: Images or texts per forward pass.

    Returns:
        The space.

    Raises:
        SpaceError: The package is missing, or the model cannot be loaded.
        DeviceError: The device does not exist on this machine.
    """
    torch_device = pick_device(device)
    number = "float32" if dtype == "auto" and torch_device.type == "cpu" else dtype
    loaded = _load(model, revision, str(torch_device), number)
    name = Path(model).name if Path(model).is_dir() else f"{model}/{revision}" if revision else model
    number = str(next(loaded.parameters()).dtype).removeprefix("torch.")
    name = name if number == "float32" else f"{name}/{number}"
    return SentenceSpace(loaded, name, batch_size, query_prompt, document_prompt)


def sentence_transformers(what: str) -> Any:
    """The package, imported.

    Args:
        what: What needs it, for the message.

    Returns:
        The module.

    Raises:
        SpaceError: It is not installed; the message has the command that installs it.
    """
    try:
        import sentence_transformers as package
    except ImportError as error:
        raise SpaceError(f"{what} needs the package sentence-transformers ({error}): {INSTALL}") from error
    forget_folder_named_datasets()
    return package


def forget_folder_named_datasets() -> None:
    """Forget a folder ``datasets`` that was imported in place of the package of that name.

    sentence-transformers looks for the package when it is imported and whenever it encodes, and may find a
    folder of that name beside the program; LanceDB would then take it for the package, and fail.
    """
    found = sys.modules.get("datasets")
    if found is not None and getattr(found, "__file__", None) is None:
        del sys.modules["datasets"]


def sentence_sources(model: str, revision: str | None) -> list[Source]:
    """What a model of sentence-transformers is downloaded from.

    Args:
        model: A hub id (``sentence-transformers/`` may be left out), or a local folder.
        revision: A commit, branch or tag of the hub.

    Returns:
        Its repository; none for a folder.
    """
    found = transformers_sources(model, revision)
    is_short = "/" not in model and not any(source.is_here for source in found)
    return transformers_sources(f"sentence-transformers/{model}", revision) if found and is_short else found


def _load(model: str, revision: str | None, device: str, dtype: str) -> Any:
    package = sentence_transformers(f"model {model!r}")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # only for loading; downloads keep theirs

    def load() -> Any:
        return package.SentenceTransformer(
            model, revision=revision, device=device, model_kwargs={"dtype": dtype}, trust_remote_code=False
        )

    try:
        return load_from_hub(
            sentence_sources(model, revision),
            load,
            kind=SpaceError,
            what=f"model = {model!r}",
            remedy='model = "FOLDER" in the options of that space',
        )
    except SpaceError:
        raise
    except Exception as error:  # a folder or hub id may fail in any of three packages
        reason = (str(error).splitlines() or [""])[0]
        raise SpaceError(
            f"model = {model!r}: no model of sentence-transformers loads from there "
            f"({type(error).__name__}: {reason}); give a hub id or a local folder"
        ) from error


def _prompt(model: Any, given: str | None, names: Sequence[str]) -> str:
    """The prompt that was given, else the model's first of these names, else its default one, unless that is
    the other side's: a model whose default is the prompt of queries has none for documents.
    """
    if given is not None:
        return given
    default = model.default_prompt_name
    found = names if default in (*_QUERIES, *_DOCUMENTS) else (*names, default)
    return next((prompt for name in found if (prompt := model.prompts.get(name))), "")


def _model_digest(model: Any) -> str:
    """Digest of what turns tokens into vectors (weights, modules and their settings), and of the tokens of a
    probe."""
    modules = [[type(module).__name__, _module_settings(module)] for module in model]
    shown = [modules, model.truncate_dim, model.max_seq_length]
    tokens = model.preprocess([_PROBE])["input_ids"][0].tolist()
    return digest_strings([digest_weights(model), digest_json(shown), *map(str, tokens)])


def _module_settings(module: Any) -> object:
    """A module's settings as plain values: the configuration of a transformer, the pooling of a pooling."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_json_string"):
        return configuration_values(config)
    found = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return json.loads(json.dumps(found, default=str))


def _preprocessing_id(model: Any) -> str:
    """Identity of the image preprocessing; ``none`` for a text model."""
    images = getattr(getattr(model[0], "processor", None), "image_processor", None)
    return "none" if images is None else image_processor_id(images)
