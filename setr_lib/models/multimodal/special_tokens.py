"""The tokens of a model that must be known by id: image placeholder, padding, end of text, Yes and No."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from setr_lib.models.multimodal.errors import JudgeError

Answers = Sequence[tuple[str, str]]
"""Spellings of Yes and No, the one that is asked for first."""
ANSWERS: Answers = (("Yes", "No"), ("yes", "no"), (" Yes", " No"), (" yes", " no"), ("YES", "NO"))
"""Those of a model that was trained on none."""


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids of one model.

    Attributes:
        image_token: The text by which the chat template marks a picture, such as ``<image>``.
        image_token_id: The id of that placeholder token.
        pad_id: The id that fills short rows.
        eos_ids: The ids that end an answer.
        yes_id: The id of the answer Yes.
        no_id: The id of the answer No.
    """

    image_token: str
    image_token_id: int
    pad_id: int
    eos_ids: frozenset[int]
    yes_id: int
    no_id: int


def read_special_tokens(model: Any, processor: Any, answers: Answers = ANSWERS) -> SpecialTokens:
    """Look the special tokens up in a model's configuration and its tokenizer.

    Args:
        model: A transformers image-text-to-text model.
        processor: Its processor, with a tokenizer.
        answers: Spellings of Yes and No.

    Returns:
        The token ids.

    Raises:
        JudgeError: The tokenizer has no single token for Yes and No.
    """
    tokenizer = processor.tokenizer
    image_token: str = getattr(processor, "image_token", None) or "<image>"
    image_token_id = int(
        getattr(model.config, "image_token_id", None) or tokenizer.convert_tokens_to_ids(image_token)
    )
    eos_ids = frozenset(_as_ids(model.generation_config.eos_token_id) + _as_ids(tokenizer.eos_token_id))
    pad_id = int(next(iter(_as_ids(tokenizer.pad_token_id) + sorted(eos_ids)), 0))
    yes_id, no_id = answer_token_ids(tokenizer, answers)
    return SpecialTokens(image_token, image_token_id, pad_id, eos_ids, yes_id, no_id)


def answer_token_ids(tokenizer: Any, answers: Answers = ANSWERS) -> tuple[int, int]:
    """Find the token ids of the answers Yes and No: the first spelling of which both are one known token.

    Args:
        tokenizer: A transformers tokenizer.
        answers: Spellings of Yes and No.

    Returns:
        The ids of Yes and of No.

    Raises:
        JudgeError: The tokenizer has no such spelling.
    """
    for forms in answers:
        encoded = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in forms]
        if all(len(ids) == 1 and ids[0] != tokenizer.unk_token_id for ids in encoded):
            yes, no = (int(ids[0]) for ids in encoded)
            if yes != no:
                return yes, no
    raise JudgeError(
        "this model's tokenizer has no single token for Yes and No in any spelling; it cannot judge"
    )


def _as_ids(value: int | Sequence[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
