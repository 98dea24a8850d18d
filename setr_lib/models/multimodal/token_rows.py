"""Prompts as token ids: chat template, tokenising, placeholders expanded to a token per vision output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from setr_lib.models.multimodal.architectures import longest_prompt
from setr_lib.models.multimodal.errors import JudgeError, RefusedTextError
from setr_lib.models.multimodal.features import VisionFeatures
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.pictures import Picture
from setr_lib.models.multimodal.prompt import CANDIDATE, ImageSlot, RenderedPrompt, Request
from setr_lib.models.multimodal.vision import VisionTower
from setr_lib.models.refusals import CONTROL_TEXT, may_be_a_refusal, reason_of

_TOKENISED_PROMPTS = 20_000


@dataclass(frozen=True)
class PromptTokens:
    """A tokenised prompt in which each picture is still one placeholder token.

    Attributes:
        ids: Token ids of the whole chat, up to where the answer begins.
        slots: The names of the picture slots, in the order of the placeholders.
    """

    ids: tuple[int, ...]
    slots: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TokenRow:
    """A token sequence, or a part of one, with the vision outputs of its images; ``+`` concatenates.

    Attributes:
        ids: Token ids, each placeholder expanded to as many as its image has.
        images: The vision outputs of the images, in order.
    """

    ids: tuple[int, ...]
    images: tuple[VisionFeatures, ...]

    def __add__(self, other: TokenRow) -> TokenRow:
        return TokenRow(self.ids + other.ids, self.images + other.images)


class PromptTokenizer:
    """A model's chat template and tokenizer, applied to rendered prompts; results are cached.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._special = loaded.special_tokens
        self._cached = lru_cache(maxsize=_TOKENISED_PROMPTS)(self._tokenise)
        self._longest = longest_prompt(loaded.model.config)

    def tokenise(self, prompt: RenderedPrompt) -> PromptTokens:
        """Token ids of a prompt in the model's chat template, ready to be answered.

        Args:
            prompt: The prompt; its texts cannot bring in pictures or other control tokens.

        Returns:
            The ids, one placeholder per picture.

        Raises:
            JudgeError: The chat template does not show each picture exactly once.
            RefusedTextError: The tokenizer refuses the text, or it is longer than the model reads.
        """
        return self._cached(prompt)

    def check(self, prompt: RenderedPrompt) -> None:
        """Refuse a prompt whose texts the tokenizer refuses, or that is longer than the model reads.

        Args:
            prompt: The prompt.

        Raises:
            RefusedTextError: It is one.
        """
        self._checked_ids(prompt, self.chat_text(prompt))

    def _checked_ids(self, prompt: RenderedPrompt, text: str) -> tuple[int, ...]:
        try:
            ids = self._ids(text)
        except Exception as error:
            if not may_be_a_refusal(error) or not self._works():
                raise
            raise RefusedTextError(
                f"the model's tokenizer refuses the text ({reason_of(error)})", prompt
            ) from error
        if self._longest is not None and len(ids) > self._longest:
            raise RefusedTextError(
                f"the prompt has {len(ids):,} tokens, the model reads at most {self._longest:,}", prompt
            )
        return ids

    def _works(self) -> bool:
        try:
            self._ids(CONTROL_TEXT)
        except Exception as error:
            if not may_be_a_refusal(error):
                raise
            return False
        return True

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(
            self._loaded.tokenizer(text, add_special_tokens=self.adds_special_tokens(text))["input_ids"]
        )

    def _tokenise(self, prompt: RenderedPrompt) -> PromptTokens:
        text = self.chat_text(prompt)
        slots = tuple(part.name for part in prompt.parts if isinstance(part, ImageSlot))
        ids = self._checked_ids(prompt, text)
        shown = ids.count(self._special.image_token_id)
        if shown != len(slots):
            raise JudgeError(
                f"the chat template of {self._loaded.id} shows {shown} pictures "
                f"for {len(slots)} in the prompt"
            )
        return PromptTokens(ids, slots)

    def chat_text(self, prompt: RenderedPrompt) -> str:
        """A prompt in the chat template, with the model's control tokens, up to where the answer begins.

        Args:
            prompt: The prompt.

        Returns:
            The text that is tokenised.
        """
        content = [
            {"type": "image"}
            if isinstance(part, ImageSlot)
            else {"type": "text", "text": self._without_control_tokens(part)}
            for part in prompt.parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if prompt.system:
            system = [{"type": "text", "text": self._without_control_tokens(prompt.system)}]
            messages.insert(0, {"role": "system", "content": system})
        return self._loaded.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer must add the first token itself: not where the chat template has written it.

        Args:
            text: The output of ``chat_text``.

        Returns:
            What to pass as ``add_special_tokens``, decided as the processor itself decides it.
        """
        first = self._loaded.tokenizer.bos_token
        return not (first is not None and text.startswith(first))

    def _without_control_tokens(self, text: str) -> str:
        """``text`` without control tokens: a modification text that says "<image>" is text, not a picture."""
        for token in {self._special.image_token, *self._loaded.tokenizer.all_special_tokens}:
            if token in text:
                text = text.replace(token, token.strip("<|>[]"))
        return text


class RowBuilder:
    """Prompts and pictures to token rows: tokenising plus vision outputs.

    Args:
        loaded: The model.
        tokenizer: Its chat template and tokenizer.
        vision: Its vision tower.
    """

    def __init__(self, loaded: LoadedModel, tokenizer: PromptTokenizer, vision: VisionTower) -> None:
        self._image_token_id = loaded.special_tokens.image_token_id
        self._tokenizer = tokenizer
        self._vision = vision

    def rows(self, requests: Sequence[Request]) -> list[TokenRow]:
        """Whole rows of several requests, the images of all in one batch of the vision tower.

        Args:
            requests: Prompts with their pictures.

        Returns:
            One row per request, in order.

        Raises:
            PictureError: A picture cannot be read.
            JudgeError: A prompt shows a picture that was not given.
        """
        shown: dict[int, list[Picture]] = {}
        for prompt, pictures in requests:
            count = sum(isinstance(part, ImageSlot) for part in prompt.parts)
            shown.setdefault(min(count, 2), []).extend(pictures.values())
        for count, pictures in shown.items():
            self._tower(count).features(pictures)
        return [self.expand(self._tokenizer.tokenise(prompt), pictures) for prompt, pictures in requests]

    def expand(self, tokens: PromptTokens, pictures: Mapping[str, Picture]) -> TokenRow:
        """A tokenised prompt with each placeholder expanded to its picture's tokens.

        Args:
            tokens: The tokenised prompt.
            pictures: The pictures by slot name.

        Returns:
            The row.

        Raises:
            PictureError: A picture cannot be read.
            JudgeError: The picture of a slot was not given.
        """
        missing = [slot for slot in tokens.slots if slot not in pictures]
        if missing:
            raise JudgeError(f"the prompt shows {missing} but no such picture was given")
        features = self._tower(len(tokens.slots)).features([pictures[slot] for slot in tokens.slots])
        return self._with_images(tokens.ids, features)

    def judge_rows(
        self, prompt: RenderedPrompt, reference: Picture, candidates: Sequence[Picture]
    ) -> tuple[TokenRow, list[TokenRow]]:
        """A judge prompt in two parts: all before the candidate's picture, and the rest for each candidate.

        Args:
            prompt: A prompt with one candidate slot, which is its last picture.
            reference: The picture for all other slots.
            candidates: The candidates' pictures.

        Returns:
            The prefix, and one suffix per candidate in order; ``prefix + suffix`` is the whole tokenised
            prompt.

        Raises:
            PictureError: A picture cannot be read.
            JudgeError: The prompt does not end in exactly one candidate.
        """
        tokens = self._tokenizer.tokenise(prompt)
        if tokens.slots.count(CANDIDATE) != 1 or tokens.slots[-1] != CANDIDATE:
            raise JudgeError(
                f"a judge prompt shows one candidate, as its last picture; this one shows {tokens.slots}"
            )
        placeholders = [index for index, token in enumerate(tokens.ids) if token == self._image_token_id]
        cut = placeholders[-1]
        tower = self._tower(len(placeholders))
        reference_features = tower.features([reference] * (len(placeholders) - 1))
        prefix = self._with_images(tokens.ids[:cut], reference_features)
        suffixes = [
            self._with_images(tokens.ids[cut:], [features]) for features in tower.features(candidates)
        ]
        return prefix, suffixes

    def _tower(self, pictures: int) -> VisionTower:
        """The vision tower for the pictures of a prompt that shows so many."""
        return self._vision if pictures < 2 else self._vision.among

    def _with_images(self, ids: Sequence[int], features: Sequence[VisionFeatures]) -> TokenRow:
        expanded: list[int] = []
        left = iter(features)
        for token in ids:
            expanded.extend(next(left).placeholder if token == self._image_token_id else (token,))
        return TokenRow(tuple(expanded), tuple(features))
