"""Trains the small CLIP: open_clip's own architecture, its contrastive loss, and an auxiliary loss on
patches.

Two phases. In the first, every patch token must also tell what lies under it (shape, colour, background,
...). That makes the tower a useful frozen vision tower of the small multimodal model after minutes rather
than hours; the heads are thrown away. In the second, the trunk stays and the rest learns from captions as
terse as the web's (``learn_web_captions``).
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.miniature.checkpoint import load_checkpoint, save_checkpoint
from setr_lib.miniature.corpus import FAMILY_SIZE, GRID, IMAGE_SIDE, PATCH_LABELS, Corpus
from setr_lib.miniature.families import AnyPicture
from setr_lib.miniature.garments import Garment
from setr_lib.miniature.pictures import BACKGROUNDS
from setr_lib.miniature.scenes import RELATIONS
from setr_lib.miniature.tokenizer import save_clip_tokenizer, write_json
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    import torch

CONTEXT_LENGTH = 48
_THING_MENTIONS = {"colour": 0.9, "size": 0.08, "pattern": 0.1, "count": 0.5}
_GARMENT_MENTIONS = {"colour": 0.9, "pattern": 0.12, "sleeves": 0.06, "neck": 0.03, "length": 0.05}
_RELATION_MENTION = 0.08
"""How often a web caption mentions each: what makes the small CLIP weak where real ones are, at attributes
and relations."""
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def clip_config(vocabulary: int) -> dict[str, Any]:
    """The ``open_clip_config.json`` of the small CLIP.

    Args:
        vocabulary: Tokens of its tokenizer.

    Returns:
        The configuration as open_clip reads it.
    """
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
        "preprocess_cfg": {
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "resize_mode": "squash",
            "size": [64, 64],
        },
    }


def full_caption(picture: AnyPicture, rng: Random) -> str:
    """A caption of all that a picture shows; sometimes of one thing only, sometimes without the background.

    Args:
        picture: The picture.
        rng: Decides what is left out.

    Returns:
        The caption.
    """
    with_background = rng.random() < 0.45
    if not isinstance(picture, Garment) and len(picture.things) == 2 and rng.random() < 0.15:
        phrase = rng.choice(picture.things).phrase()
        return f"{phrase} {BACKGROUNDS[picture.background]}" if with_background else phrase
    return picture.caption(with_background)


def web_caption(picture: AnyPicture, rng: Random) -> str:
    """A caption as the web has them: kinds, colours and background; finer attributes and relations only now
    and then.

    Args:
        picture: The picture.
        rng: Decides what is left out.

    Returns:
        The caption.
    """
    background = f" {BACKGROUNDS[picture.background]}" if rng.random() < 0.5 else ""

    def left_out(shares: dict[str, float]) -> frozenset[str]:
        return frozenset(name for name, share in shares.items() if rng.random() > share)

    if isinstance(picture, Garment):
        return picture.caption_without(left_out(_GARMENT_MENTIONS)) + background
    things = [thing.phrase(without=left_out(_THING_MENTIONS)) for thing in picture.things]
    if len(things) == 2 and rng.random() < _RELATION_MENTION:
        return f" {RELATIONS[picture.relation]} ".join(things) + background
    rng.shuffle(things)
    return " and ".join(things if rng.random() < 0.85 else things[:1]) + background


def to_input(pixels: np.ndarray, device: str) -> torch.Tensor:
    """Pixels as the small CLIP takes them.

    Args:
        pixels: uint8 [n, 64, 64, 3].
        device: A torch device.

    Returns:
        Normalised float32 [n, 3, 64, 64].
    """
    import torch

    scaled = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
    return (scaled - MEAN[0]) / STD[0]


def train_clip(
    corpus: Corpus,
    folder: Path,
    seed: int,
    steps: int,
    batch: int,
    device: str,
    progress: Progress = silent,
    web_steps: int = 250,
    checkpoint_every: int = 200,
) -> dict[str, float]:
    """Train the small CLIP and write an open_clip folder (config, safetensors, tokenizer).

    The last 5 % of the families are held out. Resumes from the checkpoint in ``folder``; the second phase, a
    few minutes, has none of its own and starts over.

    Args:
        corpus: The drawn families.
        folder: Where checkpoint and model are written.
        seed: Of weights, batches and captions.
        steps: Optimiser steps of the first phase.
        batch: Families per step.
        device: A torch device.
        progress: Told how many steps are done.
        web_steps: Optimiser steps of the second phase.
        checkpoint_every: Steps between two checkpoints.

    Returns:
        Held-out scores by name.
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
    named = [
        *model.named_parameters(),
        *((f"heads.{name}", parameter) for name, parameter in heads.named_parameters()),
    ]
    checkpoint, run = folder / "checkpoint.safetensors", f"clip/{seed}/{steps}/{batch}/{len(corpus.pictures)}"
    first, spent = load_checkpoint(checkpoint, named, optimiser, schedule, run)
    started = time.monotonic() - spent
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step])
        rows = rng.choice(usable, batch, replace=False)
        words = Random(f"clip/{seed}/{step}")
        read = rows[: batch // 2]  # the patches teach the tower more than the captions do, and cost less
        texts = tokenizer([full_caption(corpus.pictures[row], words) for row in read]).to(device)
        texts = texts[
            :, : int((texts != 0).sum(1).max())
        ]  # positions past the longest caption are only padding
        labels = torch.from_numpy(corpus.labels[rows].astype(np.int64)).to(device)
        image_vectors, tokens = _look(model, to_input(corpus.pixels[rows], device))
        answers = heads(tokens)
        with torch.autocast(device, dtype=torch.bfloat16):
            text_vectors = _read(model, texts)
        logits = model.logit_scale.exp().clamp(max=100) * image_vectors[: len(read)] @ text_vectors.float().T
        truth = torch.arange(len(read), device=device)
        contrastive = (
            functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)
        ) / 2
        told = sum(
            functional.cross_entropy(
                answer.float().flatten(0, 1), labels[..., index].flatten(), ignore_index=-1
            )
            for index, answer in enumerate(answers.split(sizes, dim=-1))
        )
        loss = contrastive + 0.3 * told  # pyright: ignore[reportOperatorIssue]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % checkpoint_every == 0:
            save_checkpoint(checkpoint, named, optimiser, step + 1, run, time.monotonic() - started)
        if step % 50 == 0 or step == steps - 1:
            accuracy = (logits.argmax(1) == truth).float().mean().item()
            state = (
                f"contrastive {contrastive.item():.2f}, accuracy {accuracy:.2f}, patches "
                f"{torch.as_tensor(told).item() / len(sizes):.3f}"
            )
            progress(step + 1, steps, f"CLIP steps ({state})")
    scores = _evaluate(model, heads, sizes, corpus, usable, tokenizer, device)
    learn_web_captions(model, tokenizer, corpus, usable, seed, web_steps, device, progress)
    scores["accuracy_within_family_of_web_reader"] = _accuracy_within_family(
        model, corpus, usable, tokenizer, device
    )
    _save(model, folder)
    checkpoint.unlink(missing_ok=True)
    return {**scores, "minutes": (time.monotonic() - started) / 60, "steps": steps, "batch": batch}


def _look(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised image vectors [n, d] and the last layer's patch tokens [n, 16, width]."""
    from torch.nn import functional

    visual = model.visual
    hidden = visual.transformer(visual._embeds(pixels))
    pooled, _ = visual._pool(hidden)
    return functional.normalize(pooled @ visual.proj, dim=-1), hidden[:, 1:]


def _read(model: Any, texts: torch.Tensor) -> torch.Tensor:
    """Normalised text vectors [n, d]; what ``model.encode_text`` gives, for texts cut to the longest of the
    batch.
    """
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

    rows = np.arange(start, len(corpus.pictures))
    with torch.no_grad():
        _, tokens = _look(model.eval(), to_input(corpus.pixels[rows], device))
        answers = heads(tokens).split(sizes, dim=-1)
    labels = torch.from_numpy(corpus.labels[rows].astype(np.int64)).to(device)
    scores = {}
    for index, name in enumerate(PATCH_LABELS):
        asked = labels[..., index] >= 0
        right = (answers[index].argmax(-1) == labels[..., index]) & asked
        scores[f"patch_{name}"] = right.sum().item() / max(1, asked.sum().item())
    return scores | {
        "accuracy_within_family": _accuracy_within_family(model, corpus, start, tokenizer, device)
    }


def _accuracy_within_family(model: Any, corpus: Corpus, start: int, tokenizer: Any, device: str) -> float:
    """Each full caption against its own family of eight look-alikes; equal captions share the credit."""
    import torch

    rows = np.arange(start, len(corpus.pictures))
    told = [corpus.pictures[row].caption() for row in rows]
    with torch.no_grad():
        vectors, _ = _look(model.eval(), to_input(corpus.pixels[rows], device))
        captions = _read(model, tokenizer(told).to(device))
    families = len(rows) // FAMILY_SIZE
    n, shape = families * FAMILY_SIZE, (families, FAMILY_SIZE, -1)
    best = (
        torch.einsum("fid,fjd->fij", captions[:n].view(shape), vectors[:n].view(shape))
        .argmax(-1)
        .flatten()
        .tolist()
    )
    return sum(told[i] == told[i // FAMILY_SIZE * FAMILY_SIZE + best[i]] for i in range(n)) / n


def learn_web_captions(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    usable: int,
    seed: int,
    steps: int,
    device: str,
    progress: Progress,
) -> None:
    """Second phase: text tower and image projection learn from captions as the web writes them; the trunk
    stays.

    A CLIP that reads every attribute would leave a judge nothing to do; captions of the web do not make such
    a CLIP.

    Args:
        model: The CLIP of the first phase; trained in place.
        tokenizer: Its tokenizer.
        corpus: The drawn families.
        usable: Pictures to learn from: the first so many of the corpus.
        seed: Of batches and captions.
        steps: Optimiser steps.
        device: A torch device.
        progress: Told how many steps are done.
    """
    import torch
    from torch.nn import functional

    visual = model.visual
    seen = []
    with torch.no_grad():
        for start in range(0, usable, 512):
            seen.append(
                visual.transformer(visual._embeds(to_input(corpus.pixels[start : start + 512], device)))
            )
            seen[-1] = seen[-1][:, :1].clone()
    cls = torch.cat(seen)
    head = [visual.proj, *visual.ln_post.parameters()]
    trunk = {id(parameter) for parameter in visual.parameters()} - {id(parameter) for parameter in head}
    parameters = [parameter for parameter in model.parameters() if id(parameter) not in trunk]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        rows = np.random.default_rng([seed, step, 2]).choice(usable, min(512, usable), replace=False)
        words = Random(f"web/{seed}/{step}")
        texts = tokenizer([web_caption(corpus.pictures[row], words) for row in rows]).to(device)
        texts = texts[:, : int((texts != 0).sum(1).max())]
        pooled, _ = visual._pool(cls[torch.from_numpy(rows).to(device)])
        image_vectors = functional.normalize(pooled @ visual.proj, dim=-1)
        with torch.autocast(device, dtype=torch.bfloat16):
            text_vectors = _read(model, texts)
        logits = model.logit_scale.exp().clamp(max=100) * image_vectors @ text_vectors.float().T
        truth = torch.arange(len(rows), device=device)
        loss = (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            progress(step + 1, steps, f"CLIP steps on web captions (contrastive {loss.item():.2f})")


def _save(model: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: tensor.detach().half().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
