"""Modification texts written by the multimodal LLM instead of templates (``reranking.pairs.writer =
"model"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from setr_lib.content_cache import ContentCache
from setr_lib.models.device import run_in_batches
from setr_lib.models.multimodal import MultimodalModel, RenderedPrompt
from setr_lib.models.refusals import CONTROL_TEXT, run_without_refused
from setr_lib.progress import Progress, silent
from setr_lib.reranking.pairs import ModificationWriter
from setr_lib.texts.prompts import PromptTemplate

PROMPT_FILE = Path(__file__).with_name("write_modification.jinja")
CACHE_KIND = "written_modifications"
_LONGEST = 30
_BATCH = 64


def model_writer(
    model: MultimodalModel, cache: ContentCache | None = None, progress: Progress = silent
) -> ModificationWriter:
    """A writer of modification texts for ``synthesise_pairs``: one call of the model per different pair of
    captions.

    An answer of more than one line or more than 30 words is not a modification text: it becomes "", for which
    a template is used.

    Args:
        model: The multimodal LLM.
        cache: Where texts are kept.
        progress: Told how many are written.

    Returns:
        The writer.
    """
    template = PromptTemplate.read(PROMPT_FILE)

    def write(captions: Sequence[tuple[str, str]]) -> list[str]:
        keys = {pair: ContentCache.key_of(model.id, template.hash, *pair) for pair in dict.fromkeys(captions)}
        known = cache.get_many(keys.values()) if cache is not None else {}
        missing = [pair for pair, key in keys.items() if key not in known]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            prompts = [template.render(reference=mine, target=theirs) for mine, theirs in batch]
            texts = [
                _tidy(text)
                for text in run_in_batches(prompts, lambda part: _answers(model, part), model.batch_size)
            ]
            made = {keys[pair]: text for pair, text in zip(batch, texts, strict=True)}
            if cache is not None:
                cache.put_many(made)
            known |= made
            progress(start + len(batch), len(missing), "modification texts written")
        return [known[keys[pair]] for pair in captions]

    return write


def _answers(model: MultimodalModel, prompts: Sequence[RenderedPrompt]) -> list[str]:
    """An answer to each prompt; none, so that a template is used, to one that the tokenizer refuses."""
    plain = RenderedPrompt((CONTROL_TEXT,))
    ran = run_without_refused(prompts, lambda part: _generate(model, part), lambda: plain)
    return [ran.results.get(place, "") for place in range(len(prompts))]


def _generate(model: MultimodalModel, prompts: Sequence[RenderedPrompt]) -> list[str]:
    """Greedy answers to prompts without pictures: the tokenizer alone, no image processor."""
    import torch

    texts: list[str] = []
    for prompt in prompts:
        turns = [("system", prompt.system)] if prompt.system else []
        turns.append(("user", " ".join(part for part in prompt.parts if isinstance(part, str))))
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
        texts.append(
            model.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    # The template writes the first token itself, where there is one.
    inputs = model.tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(model.device)
    with torch.inference_mode():
        ids = model.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=2 * _LONGEST,
            do_sample=False,
        )
    answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [model.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]


def _tidy(answer: str) -> str:
    lines = [line.strip().strip("\"'").rstrip(".") for line in answer.strip().splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 and 0 < len(lines[0].split()) <= _LONGEST else ""
