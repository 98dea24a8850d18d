"""Trains the small CLIP: open_clip's own architecture, its contrastive loss, and a help for the tower.

The help: every patch token must also tell what lies under it (shape, colour, background, ...). That makes the tower a
useful frozen eye for the small multimodal model after minutes rather than hours; the heads are thrown away.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.miniature.corpus import GRID, IMAGE_SIDE, PATCH_LABELS, Corpus
from setr_lib.miniature.families import AnyPicture
from setr_lib.miniature.garments import Garment
from setr_lib.miniature.pictures import BACKGROUNDS
from setr_lib.miniature.tokenizer import save_clip_tokenizer, write_json
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import torch

CONTEXT_LENGTH = 48
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def clip_config(vocabulary: int) -> dict[str, Any]:
    """The ``open_clip_config.json`` of the small CLIP."""
    return {
        "model_cfg": {
            "embed_dim": 96,
            "vision_cfg": {
                "image_size": IMAGE_SIDE,
                "patch_size": IMAGE_SIDE // GRID,
                "width": 160,
                "layers": 5,
                "head_width": 32,
                "mlp_ratio": 3.0,
            },
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": vocabulary,
                "width": 128,
                "heads": 4,
                "layers": 3,
                "mlp_ratio": 3.0,
                "hf_tokenizer_name": ".",
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": [64, 64]},
    }


def training_caption(picture: AnyPicture, rng: Random) -> str:
    """What a web caption would say: sometimes with the place, sometimes about one thing only."""
    with_background = rng.random() < 0.45
    if not isinstance(picture, Garment) and len(picture.things) == 2 and rng.random() < 0.15:
        phrase = rng.choice(picture.things).phrase()
        return f"{phrase} {BACKGROUNDS[picture.background]}" if with_background else phrase
    return picture.caption(with_background)


def to_input(pixels: np.ndarray, device: str) -> torch.Tensor:
    """uint8 [n, 64, 64, 3] -> normalised float32 [n, 3, 64, 64]."""
    import torch

    scaled = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
    return (scaled - MEAN[0]) / STD[0]


def train_clip(
    corpus: Corpus, folder: Path, seed: int, steps: int, batch: int, device: str, progress: Progress = silent
) -> dict[str, float]:
    """Train and write an open_clip folder (config, safetensors, tokenizer). Returns held-out scores.

    The last 5 % of the families are held out. Resumes from ``folder/training_state.safetensors``.
    """
    import open_clip
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = save_clip_tokenizer(folder, seed, CONTEXT_LENGTH)
    config = clip_config(vocabulary)
    write_json(folder / "open_clip_config.json", config)
    tokenizer: Any = open_clip.get_tokenizer(f"local-dir:{folder}")
    model: Any = open_clip.CLIP(
        config["model_cfg"]["embed_dim"],
        open_clip.CLIPVisionCfg(**config["model_cfg"]["vision_cfg"]),
        open_clip.CLIPTextCfg(**config["model_cfg"]["text_cfg"]),
    ).to(device)
    width = config["model_cfg"]["vision_cfg"]["width"]
    sizes = [len(values) for values in PATCH_LABELS.values()]
    heads = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, sum(sizes))).to(device)
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=steps, pct_start=0.08)
    held_out = len(corpus.pictures) // 20
    usable = len(corpus.pictures) - held_out
    started = time.monotonic()
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        rows = rng.choice(usable, batch, replace=False)
        words = Random(f"clip/{seed}/{step}")
        texts = tokenizer([training_caption(corpus.pictures[row], words) for row in rows]).to(device)
        texts = texts[:, : int((texts != 0).sum(1).max())]  # positions past the longest caption are only padding
        labels = torch.from_numpy(corpus.labels[rows].astype(np.int64)).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            image_vectors, tokens = _look(model, to_input(corpus.pixels[rows], device))
            text_vectors = _read(model, texts)
            answers = heads(tokens)
        logits = model.logit_scale.exp().clamp(max=100) * image_vectors.float() @ text_vectors.float().T
        truth = torch.arange(batch, device=device)
        contrastive = (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2
        told = sum(
            functional.cross_entropy(answer.float().flatten(0, 1), labels[..., index].flatten(), ignore_index=-1)
            for index, answer in enumerate(answers.split(sizes, dim=-1))
        )
        loss = contrastive + 0.3 * told  # pyright: ignore[reportOperatorIssue]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            accuracy = (logits.argmax(1) == truth).float().mean().item()
            progress(step + 1, steps, f"CLIP steps (contrastive {contrastive.item():.2f}, accuracy {accuracy:.2f}, patches {told / len(sizes):.3f})")  # pyright: ignore
    scores = _evaluate(model, heads, sizes, corpus, usable, tokenizer, device)
    _save(model, folder)
    return {**scores, "minutes": (time.monotonic() - started) / 60, "steps": steps, "batch": batch}


def _look(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised image vectors [n, d] and the last layer's patch tokens [n, 16, width]."""
    from torch.nn import functional

    visual = model.visual
    hidden = visual.transformer(visual._embeds(pixels))
    pooled, _ = visual._pool(hidden)
    return functional.normalize(pooled @ visual.proj, dim=-1), hidden[:, 1:]


def _read(model: Any, texts: torch.Tensor) -> torch.Tensor:
    """Normalised text vectors [n, d]; what ``model.encode_text`` gives, for texts cut to the longest of the batch."""
    import torch
    from torch.nn import functional

    length = texts.shape[1]
    hidden = model.token_embedding(texts) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    pooled = hidden[torch.arange(len(texts)), texts.argmax(dim=-1)]
    return functional.normalize(pooled @ model.text_projection, dim=-1)


def _evaluate(
    model: Any, heads: Any, sizes: list[int], corpus: Corpus, start: int, tokenizer: Any, device: str
) -> dict[str, float]:
    import torch
    from torch.nn import functional

    rows = np.arange(start, len(corpus.pictures))
    with torch.no_grad():
        vectors, tokens = _look(model.eval(), to_input(corpus.pixels[rows], device))
        texts = tokenizer([corpus.pictures[row].caption() for row in rows]).to(device)
        captions = functional.normalize(model.encode_text(texts), dim=-1)
        answers = heads(tokens).split(sizes, dim=-1)
    labels = torch.from_numpy(corpus.labels[rows].astype(np.int64)).to(device)
    scores = {}
    for index, name in enumerate(PATCH_LABELS):
        asked = labels[..., index] >= 0
        right = (answers[index].argmax(-1) == labels[..., index]) & asked
        scores[f"patch_{name}"] = right.sum().item() / max(1, asked.sum().item())
    # Each caption against its own family of eight look-alikes; equal captions share the credit.
    n = len(rows) // 8 * 8
    similarity = torch.einsum("fid,fjd->fij", captions[:n].view(-1, 8, captions.shape[1]), vectors[:n].view(-1, 8, vectors.shape[1]))
    best = similarity.argmax(-1).flatten().tolist()
    right = sum(
        corpus.pictures[rows[i]].caption() == corpus.pictures[rows[i // 8 * 8 + best[i]]].caption() for i in range(n)
    )
    scores["accuracy_within_family"] = right / n
    return scores


def _save(model: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: tensor.detach().half().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
