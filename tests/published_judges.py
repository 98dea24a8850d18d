"""Tiny random models of the architectures that people name as their judge, in local folders.

Each is made of the configuration class, the processor and the image processor of a published checkpoint, with
its way of cutting pictures in tiles, its special tokens, its pattern of layers and its kind of chat template;
only sizes are small. The tokenizer is a byte-level BPE, trained here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.tiny_judges import BOS, EOS, HEADS, LAYERS, PAD, UNK, WIDTH, WORDS

PUBLISHED = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "idefics3", "smolvlm", "gemma3")
"""SmolVLM's first version has the classes of Idefics3, its second its own."""
TILE, PATCH = 32, 8
"""Side of a tile, and of the patches that it is cut in."""
_IMAGE = "{%- if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for part in message['content'] %}" + _IMAGE + "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% for part in message['content'] %}" + _IMAGE + "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_GEMMA = (  # a system text begins the user's turn
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<start_of_turn>user\\n' + message['content'][0]['text'] + '\\n\\n' }}{% else %}"
    "{% if messages[0]['role'] != 'system' %}{{ '<start_of_turn>user\\n' }}{% endif %}"
    "{% for part in message['content'] %}"
    + _IMAGE
    + "{% endfor %}{{ '<end_of_turn>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def write_published_judge(kind: str, folder: Path, seed: int = 0, **options: Any) -> Path:
    """Write the model and processor of ``kind`` to ``folder``.

    Args:
        kind: One of ``PUBLISHED``.
        folder: Where.
        seed: Of the random weights.
        options: Of the whole model's configuration, such as ``tie_word_embeddings``.

    Returns:
        ``folder``.
    """
    import torch

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = _BUILDERS[kind](options)
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


@cache
def _trained_bpe(specials: tuple[str, ...]) -> str:
    """A byte-level BPE that knows the words of the tests, as JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[PAD, BOS, EOS, UNK, *specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([line for word in WORDS for line in (word, f"the {word}\n\n")] * 4, trainer)
    return raw.to_str()


def _tokenizer(names: dict[str, str], others: tuple[str, ...], end: str) -> Any:
    """A tokenizer whose answers end with ``end``; special tokens of ``names`` are its attributes, too."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(_trained_bpe((*names.values(), *others)))
    made = {"pad_token": PAD, "bos_token": BOS, "eos_token": end, "unk_token": UNK}
    return PreTrainedTokenizerFast(tokenizer_object=raw, extra_special_tokens=names, **made)


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer) + 7,  # published models have more rows than tokens
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
        **more,
    }


def _vision(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "image_size": TILE,
        "patch_size": PATCH,
        "initializer_range": 0.2,
        **more,
    }


def _siglip(**more: Any) -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(**_vision(vision_use_head=False, **more))


def _qwen(kind: str, options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as hf

    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    tokenizer = _tokenizer(names, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": HEADS,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": WIDTH,
        "initializer_range": 0.2,
    }
    half = WIDTH // HEADS // 2
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [half - 2, 1, 1],
    }
    images = hf.Qwen2VLImageProcessor(
        patch_size=PATCH, temporal_patch_size=2, merge_size=2, min_pixels=16 * 16, max_pixels=64 * 64
    )
    template = _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    if kind == "qwen3_vl":
        deep = {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64}
        text = _text(tokenizer, rope_parameters=rope, head_dim=WIDTH // HEADS)
        config: Any = hf.Qwen3VLConfig(vision_config={**vision, **deep}, text_config=text, **ids, **options)
        processor: Any = hf.Qwen3VLProcessor(
            image_processor=images,
            tokenizer=tokenizer,
            video_processor=hf.Qwen3VLVideoProcessor(),
            chat_template=template,
        )
        return hf.Qwen3VLForConditionalGeneration(config), processor
    windows = {"fullatt_block_indexes": [1], "window_size": 32, "tokens_per_second": 2}
    text = _text(tokenizer, rope_parameters=rope)
    config = hf.Qwen2_5_VLConfig(vision_config={**vision, **windows}, text_config=text, **ids, **options)
    processor = hf.Qwen2_5_VLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(),
        chat_template=template,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def _llava_onevision(options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as hf

    names = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = _tokenizer(names, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")
    grids = [[TILE * rows, TILE * columns] for rows in (1, 2) for columns in (1, 2)]
    side: Any = {"height": TILE, "width": TILE}
    processor = hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=grids),
        tokenizer=tokenizer,
        video_processor=hf.LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=(TILE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_CHATML.replace("IMAGE", "<image>"),
    )
    config = hf.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=hf.Qwen2Config(**_text(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grids,
        **options,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def _internvl(options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as hf

    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(names, ("<|im_start|>", "<|im_end|>"), "<|im_end|>")
    tokens = (TILE // PATCH // 2) ** 2
    side: Any = {"height": TILE, "width": TILE}
    processor = hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(size=side, max_patches=6),
        tokenizer=tokenizer,
        video_processor=hf.InternVLVideoProcessor(size=side),
        image_seq_length=tokens,
        chat_template=_CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = hf.InternVLConfig(
        vision_config=_vision(image_size=[TILE, TILE], patch_size=[PATCH, PATCH]),
        text_config=hf.Qwen2Config(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        **{"tie_word_embeddings": False, **options},
    )
    return hf.InternVLForConditionalGeneration(config), processor


def _smolvlm(options: dict[str, Any], *, first: bool = False) -> tuple[Any, Any]:
    import transformers as hf

    names = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "end_of_utterance_token": "<end_of_utterance>",
        "global_image_token": "<global-img>",
    }
    rows = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))
    tokenizer = _tokenizer(names, ("<|im_start|>", *rows), "<end_of_utterance>")
    side: Any = {"longest_edge": TILE}
    sizes: dict[str, Any] = {"size": {"longest_edge": 2 * TILE}, "max_image_size": side}
    common: dict[str, Any] = {
        "tokenizer": tokenizer,
        "image_seq_len": (TILE // PATCH // 2) ** 2,
        "chat_template": _SMOL.replace("IMAGE", "<image>"),
    }
    config: dict[str, Any] = {
        "vision_config": _vision(),
        "text_config": hf.LlamaConfig(**_text(tokenizer)),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "scale_factor": 2,
        **options,
    }
    if first:
        processor: Any = hf.Idefics3Processor(image_processor=hf.Idefics3ImageProcessor(**sizes), **common)
        return hf.Idefics3ForConditionalGeneration(hf.Idefics3Config(**config)), processor
    videos = hf.SmolVLMVideoProcessor(size=side, max_image_size=side)
    processor = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(**sizes), video_processor=videos, **common
    )
    return hf.SmolVLMForConditionalGeneration(hf.SmolVLMConfig(**config)), processor


def _gemma3(options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers as hf

    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    turns = ("<start_of_turn>", "<end_of_turn>")
    tokenizer = _tokenizer(names, turns, "<end_of_turn>")
    tokens = (TILE // PATCH // 2) ** 2
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size={"height": TILE, "width": TILE}),
        tokenizer=tokenizer,
        chat_template=_GEMMA.replace("IMAGE", "<start_of_image>"),
        image_seq_length=tokens,
    )
    text = _text(
        tokenizer,
        head_dim=WIDTH // HEADS,
        query_pre_attn_scalar=WIDTH // HEADS,
        sliding_window=16,  # less than a prompt
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )
    config = hf.Gemma3Config(
        vision_config=_siglip(),
        text_config=hf.Gemma3TextConfig(**text),
        mm_tokens_per_image=tokens,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        **options,
    )
    model: Any = hf.Gemma3ForConditionalGeneration(config)
    model.get_input_embeddings().weight.data.mul_(0.2)  # else each answer would repeat its last token
    model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(std=0.2)  # it is made of zeros
    return model, processor


def pixtral_processor() -> Any:
    """The processor of Pixtral and Mistral 3: it asks its image processor for sizes of its own choice."""
    import transformers as hf

    names = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    return hf.PixtralProcessor(
        image_processor=hf.PixtralImageProcessor(
            size={"longest_edge": 2 * TILE}, patch_size={"height": PATCH, "width": PATCH}
        ),
        tokenizer=_tokenizer(names, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
        patch_size=PATCH,
        spatial_merge_size=2,
        chat_template=_CHATML.replace("IMAGE", "[IMG]"),
    )


_BUILDERS: dict[str, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    "qwen2_5_vl": lambda options: _qwen("qwen2_5_vl", options),
    "qwen3_vl": lambda options: _qwen("qwen3_vl", options),
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "idefics3": lambda options: _smolvlm(options, first=True),
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
}
