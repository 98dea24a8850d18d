"""Greedy generation with cached vision outputs: answers that have ended leave the batch."""

from __future__ import annotations

from collections.abc import Sequence

from setr_lib.models.multimodal.forward import LanguageModelPass
from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.plain_pass import decode_answer
from setr_lib.models.multimodal.token_rows import TokenRow


class GreedyGeneration:
    """Generation of the most probable token, one at a time, for a batch of rows.

    Args:
        loaded: The model.
        forward: Its forward pass over token rows.
    """

    def __init__(self, loaded: LoadedModel, forward: LanguageModelPass) -> None:
        self._loaded = loaded
        self._forward = forward

    def generate(self, rows: Sequence[TokenRow], max_new_tokens: int) -> list[str]:
        """Answers to one batch of prompts.

        Args:
            rows: Whole prompts as token rows.
            max_new_tokens: Tokens at most in each answer.

        Returns:
            One answer per row, special tokens removed.
        """
        import torch

        answers: list[list[int]] = [[] for _ in rows]
        alive = list(range(len(rows)))  # indices of the rows still being answered
        head = self._loaded.model.get_output_embeddings()
        with torch.inference_mode():
            hidden, prefixes = self._forward.run(rows)
            for _ in range(max_new_tokens):
                tokens = head(hidden).float().argmax(-1).tolist()
                going = [
                    index
                    for index, token in enumerate(tokens)
                    if token not in self._loaded.special_tokens.eos_ids
                ]
                for index in going:
                    answers[alive[index]].append(tokens[index])
                if not going:
                    break
                new = [TokenRow((tokens[index],), ()) for index in going]
                hidden, prefixes = self._forward.run(new, prefixes, going)
                alive = [alive[index] for index in going]
        return [decode_answer(self._loaded.tokenizer, answer) for answer in answers]
