"""The model's own forward pass and generation: nothing cached, slow, right for every architecture.

It is the reference that the cached passes are compared with, and what runs where they give other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from setr_lib.models.multimodal.loading import LoadedModel
from setr_lib.models.multimodal.pictures import processed
from setr_lib.models.multimodal.prompt import ImageSlot, Request
from setr_lib.models.multimodal.token_rows import PromptTokenizer

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class PlainPass:
    """A model run as transformers runs it, from texts and images.

    Args:
        loaded: The model.
        tokenizer: Its chat template and tokenizer.
    """

    def __init__(self, loaded: LoadedModel, tokenizer: PromptTokenizer) -> None:
        self._loaded = loaded
        self._tokenizer = tokenizer

    def inputs(self, requests: Sequence[Request]) -> Any:
        """The processor's output for one batch: the keyword arguments of the model.

        Args:
            requests: Prompts with their pictures.

        Returns:
            A transformers ``BatchFeature`` of tensors on the model's device, ``input_ids`` int64 [requests,
            longest] padded on the left.

        Raises:
            PictureError: Pictures cannot be read, or the processor refuses them.
            RefusedTextError: The tokenizer refuses a text.
        """
        for prompt in dict.fromkeys(prompt for prompt, _ in requests):
            self._tokenizer.check(prompt)
        texts = [self._tokenizer.chat_text(prompt) for prompt, _ in requests]
        shown = [
            [pictures[part.name] for part in prompt.parts if isinstance(part, ImageSlot)]
            for prompt, pictures in requests
        ]

        def process(images: list[Image.Image]) -> Any:
            left = iter(images)
            nested = [[next(left) for _ in of_request] for of_request in shown]
            return self._loaded.processor(
                text=texts,
                images=nested if images else None,
                return_tensors="pt",
                padding=True,
                add_special_tokens=self._tokenizer.adds_special_tokens(texts[0]),
            )

        self._loaded.tokenizer.padding_side = "left"
        return processed(
            [picture for of_request in shown for picture in of_request],
            process,
            lambda image: self._loaded.processor.image_processor(images=[image], return_tensors="pt"),
        ).to(self._loaded.device)

    def answer_differences(self, requests: Sequence[Request]) -> Tensor:
        """logit(Yes) - logit(No) of the first answer token; one batch, with gradients where they are enabled.

        Args:
            requests: Prompts with their pictures.

        Returns:
            float32 [requests].

        Raises:
            PictureError: A picture cannot be read.
        """
        special = self._loaded.special_tokens
        logits = self._loaded.model(**self.inputs(requests), logits_to_keep=1).logits[:, -1].float()
        return logits[:, special.yes_id] - logits[:, special.no_id]

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]:
        """Greedy answers by transformers' own ``generate``; one batch.

        Args:
            requests: Prompts with their pictures.
            max_new_tokens: Tokens at most in each answer.

        Returns:
            One answer per request, special tokens removed.

        Raises:
            PictureError: A picture cannot be read.
        """
        import torch

        inputs = self.inputs(requests)
        with torch.inference_mode():
            ids = self._loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return [decode_answer(self._loaded.tokenizer, answer) for answer in answers]


def decode_answer(tokenizer: Any, ids: list[int]) -> str:
    """The text of a generated answer.

    Args:
        tokenizer: The model's tokenizer.
        ids: The generated token ids.

    Returns:
        The text without special tokens and without white space around it.
    """
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.strip()
