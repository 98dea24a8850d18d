"""Tiny, randomly initialised models of sentence-transformers in local folders: a text model, and a multimodal
embedder of Qwen3-VL-Embedding's architecture (Qwen3-VL, last token, norm 1).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_judges import WIDTH, WORDS, write_tiny_judge

INSTRUCTION = "describe the picture ."
"""The embedder's own default prompt."""


def write_tiny_text_model(
    folder: Path, seed: int = 0, prompts: dict[str, str] | None = None, **options: Any
) -> Path:
    """Write a BERT of two layers with mean pooling to ``folder``; another ``seed``, another model."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    specials = ["<pad>", "<unk>", "<cls>"]
    vocabulary = {
        token: place for place, token in enumerate([*specials, *dict.fromkeys(map(str.lower, WORDS))])
    }
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token, no password
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")  # noqa: S106
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    parts = folder / "parts"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(parts)
    tokenizer.save_pretrained(parts)
    return _saved(folder, parts, "mean", prompts, **options)


def write_tiny_embedder(folder: Path, seed: int = 0) -> Path:
    """Write a multimodal embedder to ``folder``; another ``seed``, another model."""
    parts = write_tiny_judge("qwen3_vl", folder / "parts", seed)
    return _saved(folder, parts, "lasttoken", {"default": INSTRUCTION}, default_prompt_name="default")


def _saved(folder: Path, parts: Path, pooling: str, prompts: dict[str, str] | None, **options: Any) -> Path:
    import shutil

    from setr_lib.spaces.sentence_space import forget_folder_named_datasets, sentence_transformers

    package = sentence_transformers("the test")
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    mode: Any = pooling
    modules = [Transformer(str(parts)), Pooling(WIDTH, pooling_mode=mode), Normalize()]
    model = package.SentenceTransformer(modules=modules, prompts=prompts, device="cpu", **options)
    model.save_pretrained(str(folder), create_model_card=False)
    forget_folder_named_datasets()
    shutil.rmtree(parts)
    return folder
