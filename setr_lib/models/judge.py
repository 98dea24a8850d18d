"""The multimodal LLM that describes, composes and judges: any image-text-to-text model of transformers, run economically.

What belongs here: loading, tokenising prompts with pictures in them, vision outputs kept per image, the shared prefix
of a query, greedy generation and the Yes/No logit difference. What a prompt says, and what is done with an answer,
belongs to ``composing`` and ``reranking``.

For training an adapter (``reranking/training.py``), the same pieces are differentiable in the language model::

    base = MultimodalModel.load(settings.models.judge, name=settings.judge_name)
    peft_model = get_peft_model(base.model, config)       # injects LoRA in place: base.* now runs through it
    base.precompute(pictures)                             # frozen vision tower and projector: once, without gradient
    prefix, suffixes = base.judge_rows(prompt, reference, candidates)
    prefixes = base.encode_prefixes([prefix, ...])        # gradients flow into the cached keys and values
    d = base.answer_differences(prefixes, owners, suffixes)   # float32 [n], logit(Yes) - logit(No)
    loss = binary_cross_entropy_with_logits(d, labels)    # = cross-entropy over the two answer tokens

``encode_prefixes`` + ``answer_differences`` cost one prefix per (reference, modification) instead of one per pair;
``full_differences`` is the same quantity from whole sequences, for a comparison.
"""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.errors import SetrError
from setr_lib.hashing import ABOUT_A_MODEL, digest_strings, fingerprint_file
from setr_lib.models.device import is_out_of_memory, pick_device, run_in_batches
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from setr_lib.settings import JudgeSettings

REFERENCE, CANDIDATE, IMAGE = "reference", "candidate", "image"
"""The names of the places where a prompt shows a picture."""

VISION_CACHE_BYTES = 6 * 2**30
"""What the kept vision outputs may take: about 1,500 images of Qwen3-VL-2B at 256 tokens, all of the miniature."""

_ANSWER_FORMS = (("Yes", "No"), ("yes", "no"), (" Yes", " No"), (" yes", " no"), ("YES", "NO"))
LANGUAGE_MODEL_NAMES = frozenset({"language_model", "text_model"})
"""What transformers calls the language model inside an image-text-to-text model."""
_LOG = logging.getLogger(__name__)


class JudgeError(SetrError):
    """The judge's model, its prompt or one of its pictures cannot be used; the message says which and why."""


class PictureError(JudgeError):
    """One picture cannot be opened; others may be fine."""


@dataclass(frozen=True)
class Picture:
    """One image as the model is given it. ``fingerprint`` (of the file's bytes) is its identity in every cache."""

    fingerprint: str
    source: Path | bytes

    def open(self) -> Image.Image:
        """The image in RGB, as the file stores it (no EXIF turn, like the encoder's).

        Raises ``PictureError`` naming the file when it cannot be read.
        """
        from PIL import Image

        try:
            file = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
            with Image.open(file) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
            where = f"{len(self.source)} bytes" if isinstance(self.source, bytes) else self.source
            raise PictureError(f"{where}: the image cannot be read ({error})") from error


@dataclass(frozen=True)
class ImageSlot:
    """The place of a picture in a prompt."""

    name: str


@dataclass(frozen=True)
class RenderedPrompt:
    """One user turn (texts and picture slots in reading order) and an optional system text."""

    parts: tuple[str | ImageSlot, ...]
    system: str = ""


Request = tuple[RenderedPrompt, Mapping[str, Picture]]
"""A prompt and the picture for each of its slots."""


@dataclass(frozen=True)
class PromptTokens:
    """A tokenised prompt in which each picture is still one placeholder token; ``slots`` names them in order."""

    ids: tuple[int, ...]
    slots: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class VisionFeatures:
    """What the frozen vision tower and projector made of one image.

    ``embeds`` is [tokens, hidden]; ``deepstack`` holds one more such tensor for each language layer that wants it
    (Qwen3-VL); ``grid`` is (t, h, w) in patches where positions depend on it; ``placeholder`` the tokens that stand
    for the image in a sequence; ``container`` the class in which the model expects such tensors.
    """

    embeds: Tensor
    deepstack: tuple[Tensor, ...]
    grid: tuple[int, int, int] | None
    placeholder: tuple[int, ...]
    container: type[Any]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.embeds, *self.deepstack))


class VisionMemory:
    """Vision outputs by the fingerprint of their image; beyond ``limit`` bytes the longest unused go."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._kept: OrderedDict[str, VisionFeatures] = OrderedDict()

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._kept

    def __getitem__(self, fingerprint: str) -> VisionFeatures:
        return self._kept[fingerprint]

    def keep(self, found: Mapping[str, VisionFeatures]) -> None:
        """Keep ``found``, as what was used last; all of it, even where that alone is beyond the limit."""
        for key, features in found.items():
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = features
                self._taken += features.nbytes
        while self._taken > self.limit and len(self._kept) > len(found):
            _, oldest = self._kept.popitem(last=False)
            self._taken -= oldest.nbytes

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._taken = 0


@dataclass(frozen=True, eq=False)
class TokenRow:
    """One sequence, or a stretch of one: token ids with the placeholders spread out, and their images in order."""

    ids: tuple[int, ...]
    images: tuple[VisionFeatures, ...]

    def __add__(self, other: TokenRow) -> TokenRow:
        return TokenRow(self.ids + other.ids, self.images + other.images)


@dataclass(frozen=True, eq=False)
class PrefixCache:
    """Keys and values of several prefixes, padded on the right: ``mask`` is [prefixes, longest]."""

    rows: tuple[TokenRow, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor


class MultimodalModel:
    """A loaded image-text-to-text model. Build it with :meth:`load`.

    Public attributes for training: ``model`` (the transformers model; LoRA is injected into it in place),
    ``processor``, ``tokenizer``, ``device``, ``yes_id``, ``no_id``, ``image_token_id``, ``pad_id``, ``eos_ids``.
    ``id`` names the weights (and adapter) independently of where they lie: it is part of every cache key.
    ``base_id`` is the same without the adapter.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        id: str,
        base_id: str | None = None,
        device: torch.device,
        batch_size: int = 64,
        pair_batch_size: int = 128,
        max_new_tokens: int = 256,
        vision_cache_bytes: int = VISION_CACHE_BYTES,
    ) -> None:
        self.model, self.processor, self.id, self.device = model, processor, id, device
        self.base_id = base_id or id
        self.tokenizer = processor.tokenizer
        self.batch_size, self.pair_batch_size, self.max_new_tokens = (
            batch_size,
            pair_batch_size,
            max_new_tokens,
        )
        self.image_token: str = getattr(processor, "image_token", None) or "<image>"
        self.image_token_id = int(
            getattr(model.config, "image_token_id", None)
            or self.tokenizer.convert_tokens_to_ids(self.image_token)
        )
        generation = model.generation_config
        self.eos_ids = frozenset(_as_ids(generation.eos_token_id) + _as_ids(self.tokenizer.eos_token_id))
        self.pad_id = int(next(iter(_as_ids(self.tokenizer.pad_token_id) + sorted(self.eos_ids)), 0))
        self.yes_id, self.no_id = answer_token_ids(self.tokenizer)
        self._vision = VisionMemory(vision_cache_bytes)
        self._tokens = lru_cache(maxsize=20_000)(self._tokenise)
        self._structure_positions = lru_cache(maxsize=20_000)(self._rope_positions)
        signature = inspect.signature(model.forward).parameters
        self.economical: bool | None = (
            None if "mm_encoder_outputs" in signature and "token_type_ids" not in signature else False
        )
        """Whether cached vision outputs and prefixes reproduce this architecture's own forward pass: found out at the
        first request (see ``_check_economical``). Where not, every request is a plain forward pass: slower, same answer."""

    # ------------------------------------------------------------------------------------------------ loading

    @classmethod
    def load(
        cls,
        judge: JudgeSettings,
        *,
        adapter: Path | None = None,
        device: str = "auto",
        name: str | None = None,
        merge_adapter: bool = True,
    ) -> MultimodalModel:
        """Load ``name`` (default ``judge.name``; a local folder or a hub id) and, if given, a PEFT LoRA adapter folder.

        A merged adapter (float32 only: a half-precision merge would round it away) costs nothing at inference.
        ``dtype = "auto"`` is the checkpoint's own, and float32 on a CPU. Raises ``JudgeError``.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # it would scribble over ours; downloads keep theirs
        name = name or judge.name
        place = pick_device(device)
        dtype = "float32" if judge.dtype == "auto" and place.type == "cpu" else judge.dtype
        options = {"revision": judge.revision, "trust_remote_code": judge.trust_remote_code}
        try:
            processor = AutoProcessor.from_pretrained(name, **options)
            model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **options)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise JudgeError(
                f"models.judge.name = {name!r}: no image-text-to-text model loads from there "
                f"({_first_line(error)}); give a local folder or a hub id"
            ) from error
        if getattr(processor, "chat_template", None) is None:
            raise JudgeError(f"models.judge.name = {name!r}: its processor has no chat template")
        model = model.to(place)
        model_id = base_id = model_identity(name, model.config, str(model.dtype).removeprefix("torch."))
        if adapter is not None:
            model = _with_adapter(model, adapter, merge=merge_adapter and model.dtype == torch.float32)
            model_id += f"+{folder_digest(adapter)}"
        model.eval()
        return cls(
            model,
            processor,
            id=model_id,
            base_id=base_id,
            device=place,
            batch_size=judge.batch_size,
            pair_batch_size=judge.pair_batch_size,
            max_new_tokens=judge.max_new_tokens,
        )

    # ------------------------------------------------------------------------------------------------ prompts

    def tokenise(self, prompt: RenderedPrompt) -> PromptTokens:
        """Token ids of ``prompt`` in the model's chat template, ready to be answered; cached.

        Raises ``JudgeError`` when the template does not show each picture exactly once.
        """
        return self._tokens(prompt)

    def _tokenise(self, prompt: RenderedPrompt) -> PromptTokens:
        text = self._chat_text(prompt)
        slots = tuple(part.name for part in prompt.parts if isinstance(part, ImageSlot))
        ids = tuple(self.tokenizer(text, add_special_tokens=self._adds_specials(text))["input_ids"])
        shown = ids.count(self.image_token_id)
        if shown != len(slots):
            raise JudgeError(
                f"the chat template of {self.id} shows {shown} pictures for {len(slots)} in the prompt"
            )
        return PromptTokens(ids, slots)

    def _adds_specials(self, text: str) -> bool:
        # As the processor itself decides: a template that writes the first token itself must not get two of them.
        first = self.tokenizer.bos_token
        return not (first is not None and text.startswith(first))

    def _chat_text(self, prompt: RenderedPrompt) -> str:
        content = [
            {"type": "image"}
            if isinstance(part, ImageSlot)
            else {"type": "text", "text": self._harmless(part)}
            for part in prompt.parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if prompt.system:
            system = [{"type": "text", "text": self._harmless(prompt.system)}]
            messages.insert(0, {"role": "system", "content": system})
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _harmless(self, text: str) -> str:
        """``text`` without control tokens: a modification text that says "<image>" is text, not a picture."""
        for token in {self.image_token, *self.tokenizer.all_special_tokens}:
            if token in text:
                text = text.replace(token, token.strip("<|>[]"))
        return text

    def expand(self, tokens: PromptTokens, pictures: Mapping[str, Picture]) -> TokenRow:
        """The row of ``tokens`` with each placeholder spread to its picture's tokens."""
        missing = [slot for slot in tokens.slots if slot not in pictures]
        if missing:
            raise JudgeError(f"the prompt shows {missing} but no such picture was given")
        features = self.vision_features([pictures[slot] for slot in tokens.slots])
        return self._expanded(tokens.ids, features)

    def _expanded(self, ids: Sequence[int], features: Sequence[VisionFeatures]) -> TokenRow:
        spread: list[int] = []
        left = iter(features)
        for token in ids:
            spread.extend(next(left).placeholder if token == self.image_token_id else (token,))
        return TokenRow(tuple(spread), tuple(features))

    def judge_rows(
        self, prompt: RenderedPrompt, reference: Picture, candidates: Sequence[Picture]
    ) -> tuple[TokenRow, list[TokenRow]]:
        """``(prefix, suffixes)`` of a judge prompt: all before the candidate's picture, and one suffix per candidate.

        ``prefix + suffix`` is exactly the tokenised whole. Needs a prompt with one candidate slot, after the reference.
        """
        tokens = self.tokenise(prompt)
        if tokens.slots.count(CANDIDATE) != 1 or tokens.slots[-1] != CANDIDATE:
            raise JudgeError(
                f"a judge prompt shows one candidate, as its last picture; this one shows {tokens.slots}"
            )
        places = [place for place, token in enumerate(tokens.ids) if token == self.image_token_id]
        cut = places[-1]
        reference_features = self.vision_features([reference] * (len(places) - 1))
        prefix = self._expanded(tokens.ids[:cut], reference_features)
        suffixes = [
            self._expanded(tokens.ids[cut:], [features]) for features in self.vision_features(candidates)
        ]
        return prefix, suffixes

    # ------------------------------------------------------------------------------------------------- vision

    def precompute(self, pictures: Iterable[Picture], progress: Progress = silent) -> None:
        """Run the vision tower once for every picture not yet kept, in large batches."""
        wanted = {picture.fingerprint: picture for picture in pictures}
        missing = [picture for key, picture in wanted.items() if key not in self._vision]
        for start in range(0, len(missing), self.batch_size):
            self.vision_features(missing[start : start + self.batch_size])
            progress(min(start + self.batch_size, len(missing)), len(missing), "images seen by the judge")

    def share_vision(self, other: MultimodalModel) -> bool:
        """Use one memory of vision outputs with ``other`` where both would make the same ones; say whether that is so.

        It is where the weights outside of the language model are equal, as they are in a model and in the same model
        with an adapter of its language model. Otherwise nothing changes.
        """
        import torch

        ours, theirs = self._weights_of_vision(), other._weights_of_vision()
        same = (
            self.base_id == other.base_id
            and self.device == other.device
            and ours.keys() == theirs.keys()
            and all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
        )
        if same:
            self._vision = other._vision
        return same

    def _weights_of_vision(self) -> dict[str, Tensor]:
        """All weights but the language model's: where a model calls that otherwise, its weights are in, and differ."""
        named = self.model.named_parameters()
        return {name: weight for name, weight in named if not LANGUAGE_MODEL_NAMES & {*name.split(".")}}

    def remembers(self, picture: Picture) -> bool:
        """Whether the vision outputs of ``picture`` are at hand."""
        return picture.fingerprint in self._vision

    def vision_features(self, pictures: Sequence[Picture]) -> list[VisionFeatures]:
        """Vision outputs of ``pictures``, each image run at most once while it stays in the cache. No gradient."""
        wanted = {picture.fingerprint: picture for picture in pictures}
        found = {key: self._vision[key] for key in wanted if key in self._vision}
        missing = [picture for key, picture in wanted.items() if key not in found]
        made = run_in_batches(missing, self._run_vision, self.batch_size)
        found.update((picture.fingerprint, features) for picture, features in zip(missing, made, strict=True))
        self._vision.keep(found)
        return [found[picture.fingerprint] for picture in pictures]

    def _run_vision(self, pictures: Sequence[Picture]) -> list[VisionFeatures]:
        import torch

        images = _open_all(pictures)
        inputs = self.processor.image_processor(images=images, return_tensors="pt")
        placeholders = [
            self.processor.replace_image_token(inputs, image_idx=place) for place in range(len(images))
        ]
        training = self.model.training
        self.model.eval()
        with torch.no_grad():  # not inference_mode: training uses these tensors in a graph
            output = self.model.get_image_features(**inputs.to(self.device), return_dict=True)
        self.model.train(training)
        deepstack = getattr(output, "deepstack_features", None) or ()
        grids = inputs.get("image_grid_thw")
        features = []
        for place, embeds in enumerate(output.pooler_output):
            ids = tuple(self.tokenizer(placeholders[place], add_special_tokens=False)["input_ids"])
            if ids.count(self.image_token_id) != embeds.shape[0]:
                raise JudgeError(
                    f"{self.id}: {ids.count(self.image_token_id)} image tokens for {embeds.shape[0]} vision outputs; "
                    "the processor and the model do not belong together"
                )
            features.append(
                VisionFeatures(
                    embeds.clone(),
                    tuple(level[place].clone() for level in deepstack),
                    None if grids is None else tuple(int(n) for n in grids[place]),  # pyright: ignore[reportArgumentType]
                    ids,
                    type(output),
                )
            )
        return features

    # ------------------------------------------------------------------------------------------------ scoring

    def encode_prefixes(self, prefixes: Sequence[TokenRow]) -> PrefixCache:
        """Keys and values of ``prefixes``, computed once for all their suffixes. Gradients flow if they are enabled."""
        _, layers, mask = self._forward(list(prefixes), None, None)
        return PrefixCache(tuple(prefixes), layers, mask)

    def answer_differences(
        self, prefixes: PrefixCache, owners: Sequence[int], suffixes: Sequence[TokenRow]
    ) -> Tensor:
        """float32 [n]: logit(Yes) - logit(No) after ``prefixes.rows[owners[i]] + suffixes[i]``."""
        hidden, _, _ = self._forward(list(suffixes), prefixes, list(owners))
        return self._difference(hidden)

    def full_differences(self, rows: Sequence[TokenRow]) -> Tensor:
        """float32 [n]: logit(Yes) - logit(No) after each whole sequence, no prefix shared."""
        hidden, _, _ = self._forward(list(rows), None, None)
        return self._difference(hidden)

    def answer_scores(self, requests: Sequence[Request]) -> np.ndarray:
        """float32 [n]: logit(Yes) - logit(No) as the first answer token of each request; batched, no gradient."""
        if not self._check_economical(requests):
            return self.plain_answer_scores(requests)
        scores = run_in_batches(requests, self._answer_batch, self.pair_batch_size)
        return np.asarray(scores, dtype=np.float32)

    def _answer_batch(self, requests: Sequence[Request]) -> list[float]:
        import torch

        self._see(requests)
        rows = [self.expand(self.tokenise(prompt), pictures) for prompt, pictures in requests]
        with torch.inference_mode():
            return self.full_differences(rows).tolist()

    def plain_answer_scores(self, requests: Sequence[Request]) -> np.ndarray:
        """The same numbers by the processor and the model's own forward pass: nothing cached, the slow yardstick."""
        scores = run_in_batches(requests, self._plain_batch, min(self.pair_batch_size, 16))
        return np.asarray(scores, dtype=np.float32)

    def _plain_batch(self, requests: Sequence[Request]) -> list[float]:
        import torch

        inputs = self._plain_inputs(requests)
        with torch.inference_mode():
            logits = self.model(**inputs, logits_to_keep=1).logits[:, -1].float()
        return (logits[:, self.yes_id] - logits[:, self.no_id]).tolist()

    def _plain_inputs(self, requests: Sequence[Request]) -> Any:
        texts = [self._chat_text(prompt) for prompt, _ in requests]
        images = [
            [pictures[part.name].open() for part in prompt.parts if isinstance(part, ImageSlot)]
            for prompt, pictures in requests
        ]
        self.tokenizer.padding_side = "left"
        return self.processor(
            text=texts,
            images=images,
            return_tensors="pt",
            padding=True,
            add_special_tokens=self._adds_specials(texts[0]),
        ).to(self.device)

    def _difference(self, hidden: Tensor) -> Tensor:
        # Two rows of the output head instead of the vocabulary, in float32: P(Yes) saturates in half precision.
        head = self.model.get_output_embeddings()
        weight = (head.weight[self.yes_id].float() - head.weight[self.no_id].float()).to(hidden.device)
        difference = hidden.float() @ weight
        if getattr(head, "bias", None) is not None:
            difference = difference + (head.bias[self.yes_id] - head.bias[self.no_id]).float()
        return difference

    # ------------------------------------------------------------------------------------------ the forward pass

    def _forward(
        self, rows: list[TokenRow], prefixes: PrefixCache | None, owners: list[int] | None
    ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...], Tensor]:
        """Last hidden state of each row [n, hidden], the keys and values, and the mask that goes with them.

        Rows are padded on the right and positions are given explicitly, so padding changes nothing.
        """
        import torch
        from transformers import DynamicCache

        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row.ids)] = torch.tensor(row.ids)
            mask[place, : len(row.ids)] = 1
        before = [TokenRow((), ())] * len(rows)
        cache = DynamicCache()
        mask = mask.to(self.device)
        if prefixes is not None and owners is not None:
            before = [prefixes.rows[owner] for owner in owners]
            index = torch.tensor(owners, device=self.device)
            mask = torch.cat([prefixes.mask[index], mask], dim=1)
            cache = DynamicCache(
                [(k.index_select(0, index), v.index_select(0, index)) for k, v in prefixes.layers]
            )
        output = self._backbone()(
            input_ids=ids.to(self.device),
            attention_mask=mask,
            position_ids=self._batch_positions(before, rows, longest).to(self.device),
            past_key_values=cache,
            mm_encoder_outputs=self._vision_outputs(rows),
            use_cache=True,
        )
        last = torch.tensor([len(row.ids) - 1 for row in rows], device=self.device)
        hidden = output.last_hidden_state[torch.arange(len(rows), device=self.device), last]
        kept: Any = cache.layers
        layers = tuple((layer.keys, layer.values) for layer in kept)
        return hidden, layers, mask

    def _backbone(self) -> Any:
        """The model without its output head: the head runs on one position, not on all."""
        return (
            self.model.base_model
            if not hasattr(self.model, "get_base_model")
            else self.model.get_base_model().base_model
        )

    def _vision_outputs(self, rows: list[TokenRow]) -> dict[str, Any] | None:
        images = [image for row in rows for image in row.images]
        if not images:
            return None
        fields: dict[str, Any] = {"pooler_output": [image.embeds for image in images]}
        if images[0].deepstack:
            fields["deepstack_features"] = [
                [image.deepstack[level] for image in images] for level in range(len(images[0].deepstack))
            ]
        return {"image": images[0].container(**fields)}

    def _batch_positions(self, before: list[TokenRow], rows: list[TokenRow], longest: int) -> Tensor:
        """Positions of ``rows``, which follow ``before``: [n, longest], or [3, n, longest] where images have their own."""
        import torch

        columns = []
        for start, row in zip(before, rows, strict=True):
            whole = self._positions(start + row)[..., len(start.ids) :]
            columns.append(torch.nn.functional.pad(whole, (0, longest - whole.shape[-1])))
        return torch.stack(columns, dim=-2)

    def _positions(self, row: TokenRow) -> Tensor:
        import torch

        if not hasattr(self._backbone(), "get_rope_index"):
            return torch.arange(len(row.ids))
        # Positions depend on where images stand and on their grids, not on the words: few structures, many rows.
        runs = tuple(
            (is_image, sum(1 for _ in run))
            for is_image, run in groupby(token == self.image_token_id for token in row.ids)
        )
        return self._structure_positions(runs, tuple(image.grid for image in row.images))

    def _rope_positions(
        self, runs: tuple[tuple[bool, int], ...], grids: tuple[tuple[int, int, int] | None, ...]
    ) -> Tensor:
        """[3, length]: the model's own multimodal rotary positions (text counts on, an image spans its grid)."""
        import torch

        kinds = torch.tensor([int(is_image) for is_image, length in runs for _ in range(length)])
        ids = torch.where(kinds == 1, self.image_token_id, self.pad_id)[None]
        backbone = self._backbone()
        offers = {
            "input_ids": ids,
            "mm_token_type_ids": kinds[None],
            "image_grid_thw": torch.tensor(grids) if grids else None,
            "attention_mask": torch.ones_like(ids),
        }
        accepted = inspect.signature(backbone.get_rope_index).parameters
        positions, _ = backbone.get_rope_index(
            **{key: value for key, value in offers.items() if key in accepted}
        )
        return positions[:, 0]

    # ---------------------------------------------------------------------------------------------- generating

    def generate(self, requests: Sequence[Request], max_new_tokens: int | None = None) -> list[str]:
        """The model's greedy answer to each request, special tokens removed; batches halve when memory is short."""
        limit = max_new_tokens or self.max_new_tokens
        if not self._check_economical(requests):
            return run_in_batches(
                requests, lambda batch: self._plain_generate(batch, limit), min(self.batch_size, 16)
            )
        return run_in_batches(requests, lambda batch: self._generate_batch(batch, limit), self.batch_size)

    def _generate_batch(self, requests: Sequence[Request], limit: int) -> list[str]:
        import torch

        self._see(requests)
        rows = [self.expand(self.tokenise(prompt), pictures) for prompt, pictures in requests]
        answers: list[list[int]] = [[] for _ in rows]
        alive = list(range(len(rows)))  # indices of the requests still being answered
        head = self.model.get_output_embeddings()
        with torch.inference_mode():
            hidden, layers, mask = self._forward(rows, None, None)
            prefixes = PrefixCache(tuple(rows), layers, mask)
            for _ in range(limit):
                tokens = head(hidden).float().argmax(-1).tolist()
                going = [place for place, token in enumerate(tokens) if token not in self.eos_ids]
                for place in going:
                    answers[alive[place]].append(tokens[place])
                if not going:
                    break
                new = [TokenRow((tokens[place],), ()) for place in going]
                hidden, layers, mask = self._forward(new, prefixes, going)
                grown = tuple(prefixes.rows[place] + row for place, row in zip(going, new, strict=True))
                prefixes = PrefixCache(grown, layers, mask)
                alive = [alive[place] for place in going]
        return [self._decode(answer) for answer in answers]

    def _plain_generate(self, requests: Sequence[Request], limit: int) -> list[str]:
        import torch

        inputs = self._plain_inputs(requests)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        return [self._decode(row) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip()

    # ---------------------------------------------------------------------------------------------- economy check

    def _see(self, requests: Sequence[Request]) -> None:
        # One vision batch for all requests instead of one per request.
        self.vision_features([picture for _, pictures in requests for picture in pictures.values()])

    def check_economical(self, requests: Sequence[Request]) -> bool:
        """Whether the caches reproduce the model's own forward pass on ``requests`` (asked once, then remembered)."""
        return self._check_economical(requests)

    def _check_economical(self, requests: Sequence[Request]) -> bool:
        """Compare both ways once: a new architecture may do something with images that the caches do not know."""
        if self.economical is None and requests:
            sample = sorted(
                requests[:16], key=lambda request: sum(len(str(part)) for part in request[0].parts)
            )
            sample = [sample[0], sample[-1]]  # of different length where possible, so padding is tried too
            plain = self.plain_answer_scores(sample)
            # In a memory of its own: whether the check ran must not show in any later result.
            kept, self._vision = self._vision, VisionMemory(VISION_CACHE_BYTES)
            try:
                cached = np.asarray(self._answer_batch(sample), dtype=np.float32)
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, SetrError):
                    raise
                _LOG.warning("%s: vision outputs cannot be reused (%s); slower", self.id, _first_line(error))
                self.economical = False
                return False
            finally:
                self._vision = kept
            # Half precision rounds a logit of 20 to 0.1; float32 is exact but for the order of sums.
            import torch

            close = 1e-2 if self.model.dtype == torch.float32 else 0.5
            self.economical = bool(np.allclose(plain, cached, atol=close, rtol=close / 10))
            if not self.economical:
                _LOG.warning(
                    "%s: cached scores %s differ from plain %s; caching is off", self.id, cached, plain
                )
        return bool(self.economical)


# ---------------------------------------------------------------------------------------------------------- helpers


def answer_token_ids(tokenizer: Any) -> tuple[int, int]:
    """The ids of the answers Yes and No: the first spelling of which both are one known token.

    Raises ``JudgeError`` when the tokenizer has no such spelling.
    """
    for forms in _ANSWER_FORMS:
        encoded = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        if all(len(ids) == 1 and ids[0] != tokenizer.unk_token_id for ids in encoded):
            yes, no = (int(ids[0]) for ids in encoded)
            if yes != no:
                return yes, no
    raise JudgeError(
        "this model's tokenizer has no single token for Yes and No in any spelling; it cannot judge"
    )


def model_identity(name: str, config: Any, dtype: str) -> str:
    """A name for the weights that does not depend on where they lie: ``folder@digest/dtype``, ``hub/id@commit/dtype``."""
    folder = Path(name)
    if folder.is_dir():
        return f"{folder.resolve().name}@{folder_digest(folder)}/{dtype}"
    commit = getattr(config, "_commit_hash", None) or "unknown"
    return f"{name}@{commit[:12]}/{dtype}"


def folder_digest(folder: Path) -> str:
    """12 hexadecimal digits of a model folder's or adapter folder's weights, configuration and tokenizer."""
    kinds = {".safetensors", ".json", ".jinja", ".txt", ".model"}
    parts = (path for path in folder.iterdir() if path.suffix in kinds and path.name not in ABOUT_A_MODEL)
    files = sorted(path for path in parts if path.is_file())
    if not files:
        raise JudgeError(f"{folder}: no model files there")
    return digest_strings(part for path in files for part in (path.name, fingerprint_file(path)))[:12]


def _with_adapter(model: Any, adapter: Path, *, merge: bool) -> Any:
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise JudgeError(f"{adapter}: no adapter_config.json there; it is not a PEFT adapter folder")
    with warnings.catch_warnings():
        # PEFT only warns when weights are absent, and goes on with random ones.
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            wrapped = PeftModel.from_pretrained(model, str(adapter))
        except (Warning, RuntimeError, ValueError, OSError) as error:
            raise JudgeError(
                f"{adapter}: the adapter does not fit this model ({_first_line(error)})"
            ) from error
    return wrapped.merge_and_unload() if merge else wrapped.get_base_model()  # pyright: ignore[reportCallIssue]


def _open_all(pictures: Sequence[Picture]) -> list[Image.Image]:
    if len(pictures) < 8:
        return [picture.open() for picture in pictures]
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(Picture.open, pictures))


def _as_ids(value: int | Sequence[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
