"""Tiny, randomly initialised image-text-to-text models in local folders, for tests that need a real judge
offline.

Real architectures of transformers with processor, tokenizer and chat template, all built in code: ``llava``
(CLIP tower and a Llama), ``llava_qwen2``, ``qwen2_5_vl`` and ``qwen3_vl`` (multimodal rotary positions,
images of any size). Those that people name as their judge are in ``published_judges``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = [
    "Yes",
    "No",
    "describe",
    "compose",
    "match",
    "?",
    ",",
    ".",
    ":",
    "the",
    "a",
    "an",
    "is",
    "it",
    "and",
    "or",
    "of",
    "in",
    "on",
    "with",
    "without",
    "more",
    "less",
    "make",
    "red",
    "blue",
    "green",
    "dress",
    "shirt",
    "circle",
    "square",
    "large",
    "small",
    "striped",
    "image",
    "picture",
    "query",
    "candidate",
    "keep",
    "add",
    "remove",
    "drop",
    "target_caption",
    "{",
    "}",
    "[",
    "]",
    '"',
    "reference",
    "modification",
    "User",
    "Assistant",
    "JSON",
]
PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
HEADS, WIDTH, LAYERS = 4, 32, 3
_TURNS = (
    "{{% for message in messages %}}{{{{ message['role'] + ' : ' }}}}{{% if message['content'] is string "
    "%}}{{{{ message['content'] }}}}{{% else %}}{{% for part in message['content'] %}}{{% if part['type'] "
    "== 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif "
    "%}}{end}{{% endfor %}}{{% if add_generation_prompt %}}Assistant : {{% endif %}}"
)


def write_tiny_judge(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write the model, processor and tokenizer of ``kind`` to ``folder``; another ``seed``, another model."""
    import torch

    builders: dict[str, Callable[[Path], None]] = {
        "llava": _write_llava,
        "llava_qwen2": lambda path: _write_llava(path, qwen2=True),
        "qwen2_5_vl": lambda path: _write_qwen(path, "qwen2_5_vl"),
        "qwen3_vl": lambda path: _write_qwen(path, "qwen3_vl"),
    }
    torch.set_num_threads(1)  # these models are too small for two
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        builders[kind](folder)
    return folder


def _tokenizer(specials: list[str], **names: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: place for place, token in enumerate([PAD, BOS, EOS, UNK, *specials, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens([PAD, BOS, EOS, UNK, *specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNK, **names
    )


def _text_config(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,  # large enough for answers to depend on the picture
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _finish(model: Any, processor: Any, tokenizer: Any, folder: Path) -> None:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _write_llava(folder: Path, *, qwen2: bool = False) -> None:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Qwen2Config,
    )

    tokenizer = _tokenizer(["<image>"])
    side: Any = {"height": 32, "width": 32}
    images = CLIPImageProcessor(size=side, crop_size=side, do_center_crop=False)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=BOS + _TURNS.format(image="<image>", end=" "),
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        image_size=32,
        patch_size=8,
        initializer_range=0.2,
    )
    text = (Qwen2Config if qwen2 else LlamaConfig)(**_text_config(tokenizer))
    more: dict[str, Any] = {
        "initializer_range": 0.2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
    }
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        **more,
        image_seq_length=16,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    _finish(LlavaForConditionalGeneration(config), processor, tokenizer, folder)


def _write_qwen(folder: Path, kind: str) -> None:
    import transformers as hf

    tokenizer = _tokenizer(
        [VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD],
        extra_special_tokens={
            "image_token": IMAGE_PAD,
            "video_token": VIDEO_PAD,
            "vision_start_token": VISION_START,
            "vision_end_token": VISION_END,
        },
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", IMAGE_PAD),
            ("video_token_id", VIDEO_PAD),
            ("vision_start_token_id", VISION_START),
            ("vision_end_token_id", VISION_END),
        )
    }
    patch: dict[str, Any] = {
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 16 * 16,
        "max_pixels": 64 * 64,
    }
    template = _TURNS.format(image=VISION_START + IMAGE_PAD + VISION_END, end=EOS + " ")
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": HEADS,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": WIDTH,
        "initializer_range": 0.2,
    }
    half = WIDTH // HEADS // 2
    text = {
        **_text_config(tokenizer),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [half - 2, 1, 1],
        },
    }
    if kind == "qwen3_vl":
        config = hf.Qwen3VLConfig(
            vision_config={**vision, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
            text_config={**text, "head_dim": WIDTH // HEADS},
            **ids,
        )
        model: Any = hf.Qwen3VLForConditionalGeneration(config)
        processor: Any = hf.Qwen3VLProcessor(
            image_processor=hf.Qwen2VLImageProcessor(**patch),
            tokenizer=tokenizer,
            video_processor=hf.Qwen3VLVideoProcessor(),
            chat_template=template,
        )
    else:
        config = hf.Qwen2_5_VLConfig(
            vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 32, "tokens_per_second": 2},
            text_config=text,
            **ids,
        )
        model = hf.Qwen2_5_VLForConditionalGeneration(config)
        processor = hf.Qwen2_5_VLProcessor(
            image_processor=hf.Qwen2VLImageProcessor(**patch),
            tokenizer=tokenizer,
            video_processor=hf.Qwen2VLVideoProcessor(),
            chat_template=template,
        )
    _finish(model, processor, tokenizer, folder)


def tiny_picture(seed: int, side: tuple[int, int] = (48, 40)) -> bytes:
    """PNG bytes of a small random picture of ``side`` = (width, height)."""
    import io

    import numpy as np
    from PIL import Image

    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(side, Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
