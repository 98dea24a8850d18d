"""``MultimodalModel``: a loaded image-text-to-text model that scores, answers, and can be trained.

For training an adapter, the same pieces are differentiable in the language model::

    base = MultimodalModel.load(settings.models.judge, name=settings.judge_name)
    peft_model = get_peft_model(base.model, config)       # LoRA layers are injected in place
    base.vision.precompute(pictures)                      # frozen vision tower: once, without gradient
    prefix, suffixes = base.rows.judge_rows(prompt, reference, candidates)
    d = base.packed.answer_differences([prefix], [suffixes])  # float32 [n], logit(Yes) - logit(No)
    loss = binary_cross_entropy_with_logits(d, labels)    # the cross-entropy over the two answer tokens

This costs one prefix per (reference, modification text) instead of one per pair; ``full_differences`` is the
same quantity from whole sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from setr_lib.models.device import run_in_batches
from setr_lib.models.multimodal.answering import Answering
from setr_lib.models.multimodal.architectures import accepts_vision_outputs
from setr_lib.models.multimodal.caching_check import caches_reproduce_plain_scores
from setr_lib.models.multimodal.features import vision_cache_bytes
from setr_lib.models.multimodal.forward import LanguageModelPass, PrefixCache
from setr_lib.models.multimodal.kept_features import FeaturesFolder
from setr_lib.models.multimodal.loading import LoadedModel, load_model
from setr_lib.models.multimodal.packed_pass import PackedPass
from setr_lib.models.multimodal.plain_pass import PlainPass
from setr_lib.models.multimodal.prompt import Request
from setr_lib.models.multimodal.shared_prefix import (
    SharedPrefixPass,
    check_shared_prefixes,
    pairs_run_together,
)
from setr_lib.models.multimodal.token_rows import PromptTokenizer, RowBuilder, TokenRow
from setr_lib.models.multimodal.vision import VisionTower

if TYPE_CHECKING:
    from torch import Tensor

    from setr_lib.settings import JudgeSettings

_LOG = logging.getLogger(__name__)
_COMPARED = 4
"""Of so many requests the scores with shared prefixes are compared."""
_PLAIN_BATCH = 16
"""Requests per batch of the plain pass at most: each runs its images through the vision tower anew."""


class MultimodalModel:
    """A multimodal LLM with caches of vision outputs and prompt beginnings. Make one with :meth:`load`.

    Args:
        loaded: The model, its processor and identity.
        batch_size: Images per forward pass of the vision tower, and answers that are generated side by side.
        pair_batch_size: Pairs to score per forward pass.
        max_new_tokens: Tokens at most in a generated answer.
        vision_bytes: Memory for vision outputs; None for as much as :func:`vision_cache_bytes` says.
        features: Where vision outputs are kept on disk; None for nowhere.

    Attributes:
        model, processor, tokenizer, device: Those of transformers and torch.
        id, base_id: Identity of the weights with and without adapter, independent of where they are stored;
            ``id`` is part of every cache key.
        image_token, image_token_id, pad_id, eos_ids, yes_id, no_id: Special tokens.
        prompts, rows: Prompts to token ids, and to token rows with their pictures.
        vision, forward, plain: The vision tower, the forward pass over token rows, the uncached one.
        shared, packed: The pass over rows that continue shared prefixes, and the one for training.
        caches_are_exact: Whether cached vision outputs and prefixes reproduce this architecture's own forward
            pass; ``None`` until the first request, which finds it out. Where not, every request is a plain
            forward pass: slower, the same answer.
        answering: Generates answers.
        prefixes_are_shared: Whether pairs read their query's keys and values in place, which the first
            request finds out, too; where not, each pair has a copy of them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = 64,
        pair_batch_size: int = 128,
        max_new_tokens: int = 256,
        vision_bytes: int | None = None,
        features: FeaturesFolder | None = None,
    ) -> None:
        special = loaded.special_tokens
        self.model, self.processor, self.tokenizer = loaded.model, loaded.processor, loaded.tokenizer
        self.device, self.id, self.base_id = loaded.device, loaded.id, loaded.base_id
        self.image_token, self.image_token_id = special.image_token, special.image_token_id
        self.pad_id, self.eos_ids = special.pad_id, special.eos_ids
        self.yes_id, self.no_id = special.yes_id, special.no_id
        self.batch_size, self.pair_batch_size = batch_size, pair_batch_size
        self.max_new_tokens = max_new_tokens
        reusable = accepts_vision_outputs(type(loaded.model))
        if not reusable:
            _LOG.warning("%s: each pair is judged as a whole prompt of its own; slower", loaded.id)
        room = vision_cache_bytes(loaded.device) if vision_bytes is None else vision_bytes
        self.vision = VisionTower(loaded, batch_size, room, features, reusable=reusable)
        self.forward = LanguageModelPass(loaded)
        self.prompts = PromptTokenizer(loaded)
        self.rows = RowBuilder(loaded, self.prompts, self.vision)
        self.plain = PlainPass(loaded, self.prompts)
        self.shared = SharedPrefixPass(loaded, self.forward)
        self.packed = PackedPass(loaded, self.forward)
        self.answering = Answering(loaded, self.forward, self.rows, self.plain, self.vision)
        self._loaded = loaded
        self.prefixes_are_shared = False
        self.caches_are_exact: bool | None = None if reusable else False

    @classmethod
    def load(
        cls,
        judge: JudgeSettings,
        *,
        adapter: Path | None = None,
        device: str = "auto",
        name: str | None = None,
        merge_adapter: bool = True,
        features: Path | None = None,
    ) -> MultimodalModel:
        """Load a model and, if given, a LoRA adapter.

        Args:
            judge: The settings section ``models.judge``. ``dtype = "auto"`` is the checkpoint's own, and
                float32 on a CPU.
            adapter: A PEFT LoRA adapter folder.
            device: A torch device, or ``auto``: CUDA, then MPS, then CPU.
            name: A local folder or a hub id, in place of ``judge.name``.
            merge_adapter: Add the adapter to the model's weights, so that it costs nothing at inference; in
                float32 only, as half precision would round it away.
            features: The folder for vision outputs, up to ``judge.features_mb``; None for nowhere.

        Returns:
            The model in evaluation mode.

        Raises:
            JudgeError: Model, chat template, answer tokens or adapter cannot be had.
            DeviceError: The device does not exist on this machine.
        """
        loaded = load_model(judge, adapter=adapter, device=device, name=name, merge_adapter=merge_adapter)
        return cls(
            loaded,
            batch_size=judge.batch_size,
            pair_batch_size=judge.pair_batch_size,
            max_new_tokens=judge.max_new_tokens,
            vision_bytes=None if judge.vision_memory_mb is None else judge.vision_memory_mb * 2**20,
            features=FeaturesFolder.of(features, judge.features_mb),
        )

    @property
    def pairs_in_work(self) -> int:
        """Pairs whose queries' prefixes are run in one batch; see :func:`pairs_run_together`."""
        return pairs_run_together(self._loaded, self.pair_batch_size)

    @property
    def pairs_per_pass(self) -> int:
        """Pairs per forward pass at most; a pass over prefixes in place is run in parts on a CPU."""
        in_parts = self.prefixes_are_shared and self.device.type == "cpu"
        return self.pairs_in_work if in_parts else self.pair_batch_size

    # --- differentiable forward passes

    def encode_prefixes(self, prefixes: Sequence[TokenRow]) -> PrefixCache:
        """Attention keys and values of prefixes, shared by all their suffixes; gradients flow if enabled.

        Args:
            prefixes: The beginnings of prompts.

        Returns:
            The cache for :meth:`answer_differences`.
        """
        return self.forward.run(prefixes)[1]

    def answer_differences(
        self, prefixes: PrefixCache, owners: Sequence[int], suffixes: Sequence[TokenRow]
    ) -> Tensor:
        """logit(Yes) - logit(No) after prefix and suffix; one batch, gradients flow if enabled.

        Without gradients a prefix's keys and values are read in place where ``prefixes_are_shared``; with
        them each suffix has a copy, as the kernels' log-sum-exps are not differentiable.

        Args:
            prefixes: The cached prefixes.
            owners: For each suffix, the index of its prefix.
            suffixes: The ends of prompts.

        Returns:
            float32 [suffixes].
        """
        import torch

        if not torch.is_grad_enabled() and self.prefixes_are_shared:
            hidden = self.shared.last_hidden(suffixes, prefixes, owners)
        else:
            hidden = self.forward.run(suffixes, prefixes, owners)[0]
        return self.forward.answer_differences(hidden)

    def full_differences(self, rows: Sequence[TokenRow]) -> Tensor:
        """logit(Yes) - logit(No) after whole sequences; one batch, gradients flow if enabled.

        Args:
            rows: Whole prompts.

        Returns:
            float32 [rows].
        """
        return self.forward.answer_differences(self.forward.run(rows)[0])

    # --- scores and answers

    def answer_scores(self, requests: Sequence[Request]) -> np.ndarray:
        """logit(Yes) - logit(No) as the first answer token; any number of requests, no gradient.

        Args:
            requests: Prompts with their pictures.

        Returns:
            float32 [requests].

        Raises:
            PictureError: A picture cannot be read.
            JudgeError: A prompt shows a picture that was not given.
            DeviceError: Not even one request fits in memory; larger batches are halved before.
        """
        if not self.check_caches(requests):
            return self.plain_answer_scores(requests)
        scores = run_in_batches(requests, self._cached_scores, self.pair_batch_size)
        return np.asarray(scores, dtype=np.float32)

    def plain_answer_scores(self, requests: Sequence[Request]) -> np.ndarray:
        """The same as :meth:`answer_scores` by transformers' own forward pass: nothing cached, slow.

        Args:
            requests: Prompts with their pictures.

        Returns:
            float32 [requests].
        """
        scores = run_in_batches(requests, self._plain_scores, min(self.pair_batch_size, _PLAIN_BATCH))
        return np.asarray(scores, dtype=np.float32)

    def generate(self, requests: Sequence[Request], max_new_tokens: int | None = None) -> list[str]:
        """One greedy answer per request, in order; see :meth:`answers`."""
        found = dict(self.answers(requests, max_new_tokens))
        return [found[place] for place in range(len(requests))]

    def answers(
        self, requests: Sequence[Request], max_new_tokens: int | None = None
    ) -> Iterator[tuple[int, str]]:
        """Greedy answers, each as soon as it has ended; see :meth:`Answering.answers`.

        Args:
            requests: Prompts with their pictures; any number.
            max_new_tokens: Tokens at most in each answer, in place of the model's own limit.

        Yields:
            The place of a request, and its answer without special tokens.
        """
        limit = max_new_tokens or self.max_new_tokens
        side_by_side = self.caches_are_exact is not False
        yield from self.answering.answers(requests, limit, self.batch_size, side_by_side=side_by_side)

    def check_caches(self, requests: Sequence[Request]) -> bool:
        """Whether caches reproduce the model's own forward pass; compared at the first call, then known.

        Args:
            requests: Requests to compare on; where there are none, nothing is found out.

        Returns:
            ``caches_are_exact``, False where that is unknown.
        """
        if self.caches_are_exact is None and requests:
            self.caches_are_exact = caches_reproduce_plain_scores(
                requests, self._loaded, self.vision, self.plain_answer_scores, self._cached_scores
            )
            if self.caches_are_exact:
                with self.vision.separate_memory():
                    rows = self.rows.rows(requests[:_COMPARED])
                self.prefixes_are_shared = check_shared_prefixes(self.shared, rows)
        return bool(self.caches_are_exact)

    def _cached_scores(self, requests: Sequence[Request]) -> list[float]:
        import torch

        rows = self.rows.rows(requests)
        with torch.inference_mode():
            return self.full_differences(rows).tolist()

    def _plain_scores(self, requests: Sequence[Request]) -> list[float]:
        import torch

        with torch.inference_mode():
            return self.plain.answer_differences(requests).tolist()
