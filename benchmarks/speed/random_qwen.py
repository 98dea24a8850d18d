"""A Qwen3-VL with random weights, between the miniature's model and a real one in size, in a local folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PAD, _EOS, _UNK = "<pad>", "<|im_end|>", "<unk>"
_START, _END, _IMAGE, _VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' : ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@dataclass(frozen=True)
class QwenSize:
    """The sizes of a model.

    Attributes:
        hidden: Width of the hidden states; a multiple of twice ``head_size``.
        layers: Decoder layers.
        side: Width and height of pictures in pixels after preprocessing; a token has 32 x 32 of them.
        head_size: Components of an attention head; a multiple of 64.
        vocabulary: Tokens.
        vision_hidden: Width of the vision tower; a multiple of 64.
        vision_layers: Its layers.
        deepstack: Those whose outputs enter the language model, too.
        dtype: Number format of the weights that are written.
    """

    hidden: int = 640
    layers: int = 10
    side: int = 256
    head_size: int = 64
    vocabulary: int = 32_768
    vision_hidden: int = 384
    vision_layers: int = 6
    deepstack: tuple[int, ...] = (1, 3, 5)
    dtype: str = "float32"

    @property
    def weights(self) -> int:
        """Parameters of all layers: those that each token is multiplied with, but for the output head."""
        attention = 3 * self.hidden * self.hidden  # keys and values have half as many heads
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layers."""
        return 3 * self.hidden

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.vocabulary * self.hidden


QWEN3_VL_2B = QwenSize(
    hidden=2048,
    layers=28,
    side=512,
    head_size=128,
    vocabulary=151_936,
    vision_hidden=1024,
    vision_layers=24,
    deepstack=(5, 11, 17),
    dtype="bfloat16",
)
"""As Qwen/Qwen3-VL-2B-Instruct's published configuration has them; pictures of 512 x 512 pixels."""


def write_random_qwen(folder: Path, size: QwenSize, words: str) -> Path:
    """Write the model with its processor, unless it is there.

    Args:
        folder: Where to.
        size: Of the language model.
        words: Texts whose words are tokens of their own.

    Returns:
        The folder.
    """
    import torch
    import transformers as hf

    if (folder / "written").is_file():
        return folder
    tokenizer = _tokenizer(words, size.vocabulary)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image", _IMAGE),
            ("video", _VIDEO),
            ("vision_start", _START),
            ("vision_end", _END),
        )
    }
    config = hf.Qwen3VLConfig(
        text_config=_text_config(size, tokenizer), vision_config=_vision_config(size), **ids
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = hf.Qwen3VLForConditionalGeneration(config).to(getattr(torch, size.dtype))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = hf.Qwen3VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(
            patch_size=16,
            temporal_patch_size=2,
            merge_size=2,
            min_pixels=size.side**2,
            max_pixels=size.side**2,
        ),
        tokenizer=tokenizer,
        video_processor=hf.Qwen3VLVideoProcessor(),
        chat_template=_TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "written").touch()
    return folder


def _text_config(size: QwenSize, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.hidden // size.head_size,
        "num_key_value_heads": size.hidden // (2 * size.head_size),
        "head_dim": size.head_size,
        "max_position_embeddings": 8192,
        "initializer_range": 0.05,  # large enough for answers to differ from picture to picture
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [part * size.head_size // 64 for part in (12, 10, 10)],
            "mrope_interleaved": True,
        },
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _vision_config(size: QwenSize) -> dict[str, Any]:
    return {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": 4 * size.vision_hidden,
        "num_heads": size.vision_hidden // 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.hidden,
        "deepstack_visual_indexes": list(size.deepstack),
        "num_position_embeddings": 2304,
        "initializer_range": 0.05,
    }


def _tokenizer(words: str, vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = [_PAD, _EOS, _UNK, _START, _END, _IMAGE, _VIDEO]
    known = ["Yes", "No", *re.findall(r"\w+|[^\w\s]+", f"{words} user system assistant :")]
    tokens = list(dict.fromkeys([*specials, *known]))
    tokens += [f"word{number}" for number in range(vocabulary - len(tokens))]
    raw = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token=_UNK))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=_PAD,
        eos_token=_EOS,
        unk_token=_UNK,
        extra_special_tokens={
            "image_token": _IMAGE,
            "video_token": _VIDEO,
            "vision_start_token": _START,
            "vision_end_token": _END,
        },
    )
