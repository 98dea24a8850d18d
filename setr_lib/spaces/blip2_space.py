"""The embedding space of BLIP-2's image-text retrieval model (Li et al., arXiv 2301.12597).

Its Q-Former makes one vector for each of its query tokens (32) of an image. BLIP-2 compares a text with the
*most similar* of them; a space has one vector for an image, so that here it is their *mean*: rankings by text
are not BLIP-2's own, and a little worse. The trained system ``qformer`` starts from such a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.hashing import digest_json, digest_strings
from setr_lib.models.device import OnHalve, pick_device, run_in_batches
from setr_lib.models.hub import load_from_hub
from setr_lib.models.hub_cache import transformers_sources
from setr_lib.spaces.identity import configuration_values, digest_weights, image_processor_id
from setr_lib.spaces.space import EmbeddingSpace, SpaceError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image

_PROBE = "The red dress, but with 3 shorter sleeves & no belt."
_TEXT_LENGTH = 32
"""Tokens of a text that BLIP-2 was trained with."""


class Blip2Tokenizer:
    """BLIP-2's BERT tokenizer, called as those of open_clip are: texts to token ids, padded at the end.

    Args:
        tokenizer: The tokenizer of transformers.
        vocab_size: Rows of the model's word embedding.
        context_length: Tokens of a text, by default.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, context_length: int = _TEXT_LENGTH) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.padding_id = int(tokenizer.pad_token_id)

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Tokenize texts; longer ones are truncated.

        Args:
            texts: One or several texts.
            context_length: Tokens of a text, in place of the tokenizer's own number.

        Returns:
            int64 [texts, context_length].
        """
        found = self.tokenizer(
            [texts] if isinstance(texts, str) else list(texts),
            max_length=context_length or self.context_length,
            padding="max_length",
            padding_side="right",
            truncation=True,
            return_tensors="pt",
        )
        ids = found["input_ids"]
        # Processors add tokens, e.g. <image>, that the word embedding has no row for.
        return ids.where(ids < self.vocab_size, int(self.tokenizer.unk_token_id))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of texts that are not truncated.

        Args:
            texts: The texts.

        Returns:
            A number for each, with the tokens that begin and end a text.
        """
        return [len(ids) for ids in self.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]


class Blip2Space(EmbeddingSpace):
    """BLIP-2's image-text retrieval model on one device, float32; its vectors have norm 1.

    An image's vector is the mean of its query tokens' unit vectors, divided by its norm: its cosine with a
    text is proportional to the mean of the text's cosines with the tokens, where BLIP-2 takes the highest.
    A text's vector is that of its first token. Make one with :func:`load_space`. Use it from one thread at a
    time; only :meth:`preprocess` may be called from several.

    Args:
        model: The ``Blip2ForImageTextRetrieval``.
        images: Its image processor.
        tokenizer: Its tokenizer.
        name: The model's name without this machine's folders, with its revision.
        batch_size: Images or texts per forward pass.

    Attributes:
        model: The model, frozen.
        tokenizer: Texts to token ids.
        device: Where the model is.
        id: Identity of weights, architecture and tokenizer: ``name@digest``.
        preprocessing_id: Identity of the image preprocessing.
        dimension: Length of a vector.
    """

    def __init__(
        self, model: Any, images: Any, tokenizer: Blip2Tokenizer, name: str, batch_size: int = 32
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self._images = images
        self.tokenizer = tokenizer
        self.device: torch.device = model.device
        self.batch_size = batch_size
        tokens = [str(token) for token in tokenizer([_PROBE])[0].tolist()]
        architecture = digest_json(configuration_values(model.config))
        self.id = f"{name}@{digest_strings([digest_weights(model), architecture, *tokens])[:16]}"
        self.preprocessing_id = image_processor_id(images)
        self.dimension = int(model.config.image_text_hidden_size)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Resize and normalise an image to the model's input: float32 [3, height, width] on the CPU."""
        return self._images(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    def embed_images(
        self, images: Sequence[Any], batch_size: int | None = None, on_halve: OnHalve | None = None
    ) -> NDArray[np.float32]:
        """Embed images: PIL images, or tensors as :meth:`preprocess` gives them."""
        return self._collect(self._prepared(images), self._image_vectors, batch_size, on_halve)

    def embed_patches(
        self, images: Sequence[Any], batch_size: int | None = None, on_halve: OnHalve | None = None
    ) -> NDArray[np.float32]:
        """The vision tower's tokens after its last norm, the class token among them."""
        rows = run_in_batches(
            self._prepared(images),
            lambda batch: list(self._vision_tokens(batch).cpu().numpy()),
            batch_size or self.batch_size,
            on_halve,
        )
        return np.stack(rows) if rows else np.zeros((0, 0, 0), dtype=np.float32)

    def embed_texts(
        self, texts: Sequence[str], batch_size: int | None = None, on_halve: OnHalve | None = None
    ) -> NDArray[np.float32]:
        """Embed texts by the Q-Former alone; those longer than 32 tokens are truncated."""
        return self._collect(texts, self._text_vectors, batch_size, on_halve)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Count the texts of more than 32 tokens."""
        if not texts:
            return 0
        return sum(length > self.tokenizer.context_length for length in self.tokenizer.lengths(texts))

    def _prepared(self, images: Iterable[Any]) -> list[Any]:
        return [item if hasattr(item, "shape") else self.preprocess(item) for item in images]

    def _collect(
        self, items: Sequence[Any], run: Any, batch_size: int | None, on_halve: OnHalve | None
    ) -> NDArray[np.float32]:
        rows = run_in_batches(items, run, batch_size or self.batch_size, on_halve)
        found = np.stack(rows) if rows else np.zeros((0, self.dimension), dtype=np.float32)
        if not np.isfinite(found).all():
            raise SpaceError(f"the model {self.id} gave vectors that are not finite: its weights are damaged")
        return found

    def _vision_tokens(self, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            return self.model.vision_model(torch.stack(list(pixels)).to(self.device)).last_hidden_state

    def _image_vectors(self, pixels: Sequence[torch.Tensor]) -> NDArray[np.float32]:
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode():
            patches = self._vision_tokens(pixels)
            queries = self.model.query_tokens.expand(len(patches), -1, -1)
            hidden = self.model.qformer(query_embeds=queries, encoder_hidden_states=patches).last_hidden_state
            tokens = normalize(self.model.vision_projection(hidden), dim=-1)
            return normalize(tokens.mean(dim=1), dim=-1).cpu().numpy()

    def _text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch
        from torch.nn.functional import normalize

        ids = self.tokenizer(texts).to(self.device)
        with torch.inference_mode():
            hidden = self.model.qformer(
                query_embeds=self.model.embeddings(input_ids=ids),
                query_length=0,
                attention_mask=(ids != self.tokenizer.padding_id).long(),
            ).last_hidden_state
            return normalize(self.model.text_projection(hidden[:, 0]), dim=-1).cpu().numpy()


def load_space(
    *, device: str | torch.device = "auto", name: str, revision: str | None = None, batch_size: int = 32
) -> Blip2Space:
    """A BLIP-2 retrieval model as an embedding space: what ``[spaces.NAME] kind = "blip2"`` makes.

    Args:
        device: A torch device, or ``auto``.
        name: A hub id, e.g. ``Salesforce/blip2-itm-vit-g``, or a local folder with model, image processor
            and tokenizer, as their ``save_pretrained`` writes them.
        revision: A commit, branch or tag of the hub.
        batch_size: Images or texts per forward pass.

    Returns:
        The space.

    Raises:
        SpaceError: The model cannot be loaded, or its weights are not those of a retrieval model.
        DeviceError: The device does not exist on this machine.
    """
    torch_device = pick_device(device) if isinstance(device, str) else device
    model, images, tokens = _load(name, revision)
    if not model.config.qformer_config.use_qformer_text_input:
        raise SpaceError(
            f"name = {name!r}: its Q-Former reads no texts (use_qformer_text_input is false): take a model "
            "for image-text retrieval, e.g. Salesforce/blip2-itm-vit-g"
        )
    tokenizer = Blip2Tokenizer(tokens, model.config.qformer_config.vocab_size)
    called = Path(name).name if Path(name).is_dir() else f"{name}/{revision}" if revision else name
    return Blip2Space(model.to(torch_device), images, tokenizer, called, batch_size)


def _load(name: str, revision: str | None) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer; SpaceError where a weight has no place, or a place no weight."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForImageTextRetrieval
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # only for loading; downloads keep theirs
    at: dict[str, Any] = {} if revision is None else {"revision": revision}
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it would say of the keys is in the error below

    def load() -> tuple[Any, Any, Any]:
        loaded: Any = Blip2ForImageTextRetrieval.from_pretrained(
            name, **at, dtype=torch.float32, output_loading_info=True
        )
        images = AutoImageProcessor.from_pretrained(name, **at)
        return loaded, images, AutoTokenizer.from_pretrained(name, **at)

    try:
        loaded, images, tokenizer = load_from_hub(
            transformers_sources(name, revision),
            load,
            kind=SpaceError,
            what=f"name = {name!r}",
            remedy='name = "FOLDER" in the options of that space',
        )
    except SpaceError:
        raise
    except Exception as error:  # a folder or hub id may fail in many ways
        reason = (str(error).splitlines() or [""])[0]
        raise SpaceError(
            f"name = {name!r}: no BLIP-2 for image-text retrieval loads from there "
            f"({type(error).__name__}: {reason}); give a hub id, e.g. Salesforce/blip2-itm-vit-g, or a "
            "folder with model, image processor and tokenizer"
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
    model, report = loaded
    _check_keys(name, report)
    return model, images, tokenizer


def _check_keys(name: str, report: dict[str, Any]) -> None:
    wrong = [
        f"{words}: {_listed(keys)}"
        for words, keys in (
            ("the model has these weights and the checkpoint does not", report["missing_keys"]),
            ("the checkpoint has these and the model does not", report["unexpected_keys"]),
        )
        if keys
    ]
    if wrong:
        raise SpaceError(
            f"name = {name!r}: not the weights of a BLIP-2 for image-text retrieval; {'; '.join(wrong)}"
        )


def _listed(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
