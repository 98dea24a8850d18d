"""Trains the small multimodal LLM: a Llava (the small CLIP's frozen tower, a projector, a Llama of 2 M
parameters).

Taught together from the start: describing, composing, matching a caption, judging a candidate
(``lessons.py``). In the last seventh the judge is taught to be as lenient as general-purpose models are:
strictness is what an adapter is for.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.miniature.checkpoint import load_checkpoint, save_checkpoint
from setr_lib.miniature.clip_training import MEAN, STD, to_input
from setr_lib.miniature.corpus import FAMILY_SIZE, GRID, IMAGE_SIDE, Corpus
from setr_lib.miniature.lessons import IMAGE_TOKENS, REASON, TASKS, VERDICTS, Lesson, LessonWriter
from setr_lib.miniature.tokenizer import BOS, EOS, IMAGE, PAD, mllm_tokenizer, token_ids
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import torch

_TASK_WEIGHTS = {
    "describe": 0.5,
    "compose": 1.0,
    "match": 1.0,
    "judge near": 1.0,
    "judge easy": 0.4,
    "reason": 0.6,
}
_LENIENT_FROM = 6 / 7
"""From this share of the steps on, the judge is taught to accept look-alikes. A general-purpose model does,
and strictness is what an adapter is for: like the CLIP's second phase, it makes the small model weak where
real ones are."""
_RATE, _LENIENT_RATE = 2e-3, 6e-4
"""Peak learning rates of the two parts. The second starts at its peak: a rate that has almost run out would
leave the judge's order of candidates as strict as it was, whatever its answers."""
_DOUBT = 0.1
"""Label smoothing of the lenient judge: its answers are drawn to a probability of 0.9. Otherwise the margin
between Yes and No, which orders candidates, would still tell the right image from those that pass with it."""
CHAT_TEMPLATE = (
    "{{ '<bos>' }}{% for message in messages %}{{ '<user>' if message['role'] == 'user' else '<assistant>' "
    "}}{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in "
    "message['content'] %}{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% "
    "endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif "
    "%}"
)


def build_model(clip_folder: Path, vocabulary: int, image_token: int, ids: dict[str, int]) -> Any:
    """A fresh Llava whose vision tower is the small CLIP's.

    Args:
        clip_folder: The small CLIP's open_clip folder.
        vocabulary: Tokens of the language model.
        image_token: Id of the image placeholder.
        ids: Token -> id, of the special tokens.

    Returns:
        A transformers ``LlavaForConditionalGeneration`` with random weights but for the vision tower.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    clip = json.loads((clip_folder / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    vision = CLIPVisionConfig(
        hidden_size=clip["width"],
        intermediate_size=int(clip["width"] * clip["mlp_ratio"]),
        num_hidden_layers=clip["layers"],
        num_attention_heads=clip["width"] // clip["head_width"],
        image_size=IMAGE_SIDE,
        patch_size=IMAGE_SIDE // GRID,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    model.model.vision_tower.load_state_dict(_tower_weights(clip_folder, clip["layers"]), strict=False)
    return model


def _tower_weights(clip_folder: Path, layers: int) -> dict[str, torch.Tensor]:
    """open_clip's vision weights under the names of transformers' CLIPVisionModel."""
    from safetensors.torch import load_file

    source = {
        k.removeprefix("visual."): v.float()
        for k, v in load_file(clip_folder / "open_clip_model.safetensors").items()
    }
    weights = {
        "embeddings.class_embedding": source["class_embedding"],
        "embeddings.patch_embedding.weight": source["conv1.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
    }
    names = {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    for layer in range(layers):
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        names |= {
            f"{old}.ln_1": f"{new}.layer_norm1",
            f"{old}.ln_2": f"{new}.layer_norm2",
            f"{old}.attn.out_proj": f"{new}.self_attn.out_proj",
            f"{old}.mlp.c_fc": f"{new}.mlp.fc1",
            f"{old}.mlp.c_proj": f"{new}.mlp.fc2",
        }
        for kind in ("weight", "bias"):
            stacked = source[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", stacked, strict=True):
                weights[f"{new}.self_attn.{name}_proj.{kind}"] = part
    for old, new in names.items():
        for kind in ("weight", "bias"):
            weights[f"{new}.{kind}"] = source[f"{old}.{kind}"]
    return weights


def look_at_all(model: Any, pixels: np.ndarray, device: str) -> torch.Tensor:
    """The frozen tower's patch tokens of every image.

    Args:
        model: The Llava.
        pixels: uint8 [n, 64, 64, 3].
        device: A torch device.

    Returns:
        bfloat16 [n, 16, width], the CLS token left out.
    """
    import torch

    features = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 512):
            hidden = model.model.vision_tower(to_input(pixels[start : start + 512], device)).last_hidden_state
            features.append(hidden[:, 1:].bfloat16())
    return torch.cat(features)


def pack(lessons: list[Lesson], pad: int, device: str) -> dict[str, torch.Tensor]:
    """Lessons as one padded batch.

    Args:
        lessons: n lessons; L is the length of the longest.
        pad: Id of the padding token.
        device: A torch device.

    Returns:
        ``ids``, ``position``, ``label`` and ``task``, int64 [n, L]; ``mask``, float32 [n, 1, L, L], which
        lets a branch see the prefix and its own past only; ``images``, rows of the corpus.
    """
    import torch

    length = max(len(lesson.ids) for lesson in lessons)

    def padded(name: str, fill: int) -> torch.Tensor:
        rows = [getattr(lesson, name) + [fill] * (length - len(lesson.ids)) for lesson in lessons]
        return torch.tensor(rows, device=device)

    branch = padded("branch", -1)
    earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    mask = ((branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)) & earlier
    return {
        "ids": padded("ids", pad),
        "position": padded("position", 0),
        "label": padded("label", -100),
        "task": padded("task", 0),
        # Additive, as transformers' eager attention wants it; eager beats the fused kernel at these sizes on
        # a CPU.
        "mask": torch.zeros(mask.shape, device=device).masked_fill_(~mask, -1e4)[:, None],
        "images": torch.tensor([row for lesson in lessons for row in lesson.images], device=device),
    }


@dataclass(frozen=True)
class NearMisses:
    """Final shares of near misses among the lessons, between 0 and 1.

    Attributes:
        matched: Among the captions that are matched to an image; rises from two fifths of this share.
        judged: Among the candidates that are judged; rises from zero.
    """

    matched: float = 0.5
    judged: float = 0.7


_NEAR_MISSES = NearMisses()


def train_mllm(
    corpus: Corpus,
    clip_folder: Path,
    folder: Path,
    seed: int,
    steps: int,
    batch: int,
    device: str,
    progress: Progress = silent,
    near_misses: NearMisses = _NEAR_MISSES,
    checkpoint_every: int = 200,
) -> dict[str, float]:
    """Train the small multimodal LLM and write a transformers folder (config, safetensors, processor, chat
    template).

    The last 5 % of the families are held out. Resumes from the checkpoint in ``folder``.

    Args:
        corpus: The drawn families.
        clip_folder: The small CLIP's open_clip folder.
        folder: Where checkpoint and model are written.
        seed: Of weights and lessons.
        steps: Optimiser steps.
        batch: Lessons per step.
        device: A torch device.
        progress: Told how many steps are done.
        near_misses: How many of the lessons are near misses at the end; their shares rise during training.
        checkpoint_every: Steps between two checkpoints.

    Returns:
        Held-out scores by name.
    """
    import torch

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = mllm_tokenizer(seed)
    ids = token_ids(tokenizer)
    model = build_model(clip_folder, tokenizer.get_vocab_size(), ids[IMAGE], ids).to(device)
    model.model.vision_tower.requires_grad_(False)
    features = look_at_all(model.eval(), corpus.pixels, device)
    scale = features[:2000].float().std()
    writer = LessonWriter(tokenizer, corpus.pictures)
    families = len(corpus.pictures) // FAMILY_SIZE
    taught = range(families - families // 20)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.weight /= scale
    optimiser = torch.optim.AdamW(trained, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, steps) / _RATE)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    checkpoint, run = folder / "checkpoint.safetensors", f"mllm/{seed}/{steps}/{batch}/{len(corpus.pictures)}"
    first, spent = load_checkpoint(checkpoint, named, optimiser, schedule, run)
    started = time.monotonic() - spent
    running: dict[str, list[float]] = {}
    for step in range(first, steps):
        model.train()
        rng = Random(f"mllm/{seed}/{step}")
        ramp = min(1.0, step / (0.2 * steps))
        lenient = step >= _LENIENT_FROM * steps
        queries = [
            writer.query_lesson(rng, taught, 6, near_misses.judged * ramp, lenient) for _ in range(batch // 2)
        ]
        rows = [rng.choice(taught) * FAMILY_SIZE + rng.randrange(FAMILY_SIZE) for _ in range(batch // 2)]
        images = [writer.image_lesson(row, rng, 5, near_misses.matched * (0.4 + 0.6 * ramp)) for row in rows]
        optimiser.zero_grad()
        for lessons in (queries, images):  # apart, because padding one to the other's length wastes a quarter
            packed = pack(lessons, ids[PAD], device)
            loss, told = lesson_loss(model, packed, features, ids, _DOUBT if lenient else 0.0)
            loss.backward()
            for name, value in told.items():
                running.setdefault(name, []).append(value)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 25 == 0:
            progress(
                step + 1,
                steps,
                "MLLM steps (" + ", ".join(f"{k} {np.mean(v):.3f}" for k, v in running.items()) + ")",
            )
            running = {}
        if (step + 1) % checkpoint_every == 0:
            save_checkpoint(checkpoint, named, optimiser, step + 1, run, time.monotonic() - started)
    scores = evaluate_lessons(model, writer, range(taught.stop, families), features, ids, device)
    save_mllm(model, tokenizer, folder)
    checkpoint.unlink(missing_ok=True)
    return {**scores, "minutes": (time.monotonic() - started) / 60, "steps": steps, "batch": batch}


def learning_rate(step: int, steps: int) -> float:
    """The learning rate of a step: a short warm-up, a cosine down to a twentieth, a second cosine for the
    lenient part.

    Args:
        step: The step, from 0.
        steps: All steps.

    Returns:
        The rate.
    """
    warm, strict = 0.06 * steps, _LENIENT_FROM * steps
    if step < warm:
        return _RATE * (0.04 + 0.96 * step / warm)
    if step < strict:
        return _RATE * (0.05 + 0.95 * _cosine((step - warm) / (strict - warm)))
    return _LENIENT_RATE * _cosine((step - strict) / (steps - strict))


def _cosine(done: float) -> float:
    """From 1 at the start to 0 when all is ``done``."""
    return 0.5 * (1 + math.cos(math.pi * done))


def lesson_loss(
    model: Any,
    packed: dict[str, torch.Tensor],
    features: torch.Tensor,
    ids: dict[str, int],
    doubt: float = 0.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch of lessons.

    Args:
        model: The Llava.
        packed: The batch, as :func:`pack` gives it.
        features: bfloat16 [images, 16, width], patch tokens of the whole corpus.
        ids: Token -> id.
        doubt: Label smoothing of the Yes/No answers.

    Returns:
        The weighted sum over tasks of mean token losses, and task -> token accuracy (0 to 1).
    """
    import torch
    from torch.nn import functional

    logits = _logits(model, packed, features, ids)
    chosen = packed["label"] >= 0
    labels, tasks = packed["label"][chosen], packed["task"][chosen]
    losses = functional.cross_entropy(logits, labels, reduction="none")
    if doubt:
        verdict = torch.isin(tasks, torch.tensor(VERDICTS, device=tasks.device))
        sign = torch.where(labels == ids["Yes"], 1.0, -1.0)
        losses = losses + doubt * verdict * sign * (logits[:, ids["Yes"]] - logits[:, ids["No"]])
    total = torch.zeros((), device=logits.device)
    told: dict[str, float] = {}
    for number, name in enumerate(TASKS):
        rows = tasks == number
        if number and rows.any():
            mean = losses[rows].mean()
            # Texts: mean per token. Yes/No: fewer tokens but the harder skill, so a task weighs as much as a
            # text.
            total = total + mean * _TASK_WEIGHTS[name]
            told[name] = (logits[rows].argmax(-1) == labels[rows]).float().mean().item()
    return total, told


def _logits(
    model: Any, packed: dict[str, torch.Tensor], features: torch.Tensor, ids: dict[str, int]
) -> torch.Tensor:
    """Logits [labelled positions, vocabulary] in float32."""
    import torch

    llava = model.model
    with torch.autocast(packed["ids"].device.type, dtype=torch.bfloat16):
        embedded = llava.get_input_embeddings()(packed["ids"])
        looked = llava.multi_modal_projector(features[packed["images"]].float())
        where = (packed["ids"] == ids[IMAGE])[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(where, looked.to(embedded.dtype))
        hidden = llava.language_model(
            inputs_embeds=embedded,
            attention_mask=packed["mask"],
            position_ids=packed["position"],
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[packed["label"] >= 0])
    return logits.float()


def evaluate_lessons(
    model: Any,
    writer: LessonWriter,
    families: range,
    features: torch.Tensor,
    ids: dict[str, int],
    device: str,
) -> dict[str, float]:
    """Held-out scores, near misses apart.

    Args:
        model: The Llava.
        writer: Draws the lessons.
        families: The held-out families.
        features: bfloat16 [images, 16, width], patch tokens of the whole corpus.
        ids: Token -> id.
        device: A torch device.

    Returns:
        Token accuracy of texts, share of exact compositions, accuracy and AUC of Yes/No, by name (0 to 1).
    """
    import torch

    rng = Random("evaluation")
    model.eval()
    right: dict[str, list[float]] = {}
    margins: dict[str, list[tuple[float, bool]]] = {}
    with torch.inference_mode():
        for _ in range(12):
            lessons = [writer.query_lesson(rng, families, 6, 0.6) for _ in range(32)]
            lessons += [
                writer.image_lesson(rng.choice(families) * FAMILY_SIZE + rng.randrange(8), rng, 5, 0.7)
                for _ in range(32)
            ]
            packed = pack(lessons, ids[PAD], device)
            logits = _logits(model, packed, features, ids)
            chosen = packed["label"] >= 0
            labels, tasks = packed["label"][chosen], packed["task"][chosen]
            correct = logits.argmax(-1) == labels
            margin = logits[:, ids["Yes"]] - logits[:, ids["No"]]
            owner = torch.arange(len(lessons), device=device)[:, None].expand_as(packed["label"])[chosen]
            for number, name in enumerate(TASKS[1:], start=1):
                rows = tasks == number
                right.setdefault(f"{name} accuracy", []).append(correct[rows].float().mean().item())
                if number in (1, 2):
                    wrong = torch.zeros(len(lessons), device=device).index_add_(
                        0, owner[rows], (~correct[rows]).float()
                    )
                    asked = torch.zeros(len(lessons), device=device).index_add_(
                        0, owner[rows], torch.ones_like(wrong[owner[rows]])
                    )
                    right.setdefault(f"{name} exact", []).append(
                        (wrong[asked > 0] == 0).float().mean().item()
                    )
                elif number != REASON:
                    pairs = zip(margin[rows].tolist(), (labels[rows] == ids["Yes"]).tolist(), strict=True)
                    margins.setdefault(name, []).extend(pairs)
    scores = {name: float(np.mean(values)) for name, values in right.items()}
    positives = [pair for pair in margins["judge near"] + margins["judge easy"] if pair[1]]
    for name in ("judge near", "judge easy"):
        scores[f"{name} AUC"] = area_under_curve(positives + [pair for pair in margins[name] if not pair[1]])
    scores["match AUC"] = area_under_curve(margins["match"])
    return scores


def area_under_curve(pairs: list[tuple[float, bool]]) -> float:
    """The chance that a positive scores above a negative; ties count half.

    Args:
        pairs: (score, whether it is a positive).

    Returns:
        The AUC, 0 to 1.
    """
    scores = np.array([score for score, _ in pairs])
    truth = np.array([label for _, label in pairs])
    order = scores[:, None]
    wins = (order[truth] > order[~truth].T).mean() + 0.5 * (order[truth] == order[~truth].T).mean()
    return float(wins)


def save_mllm(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the folder that ``AutoModelForImageTextToText`` and ``AutoProcessor`` load; weights in half
    precision.

    Args:
        model: The trained Llava.
        tokenizer: The language model's tokenizer.
        folder: The folder to write.
    """
    from safetensors.torch import load_file, save_file
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE},
    )
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    images = CLIPImageProcessor(
        size=side,
        do_resize=True,
        do_center_crop=False,
        resample=3,
        image_mean=list(MEAN),
        image_std=list(STD),
        crop_size=side,
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=fast,
        patch_size=IMAGE_SIDE // GRID,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    )
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = (
        fast.bos_token_id,
        fast.eos_token_id,
    )
    model.generation_config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.half() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    processor.save_pretrained(folder)
