"""Trains the miniature's two models from nothing and writes them, with a model card each, where the settings
expect them.
"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from setr_lib.miniature.clip_training import train_clip
from setr_lib.miniature.corpus import FAMILY_SIZE, build_corpus
from setr_lib.miniature.mllm_training import train_mllm
from setr_lib.miniature.tokenizer import write_json
from setr_lib.progress import Progress, silent
from setr_lib.settings import Settings

FAMILIES = 12_500
CLIP_STEPS, CLIP_BATCH = 2000, 256
MLLM_STEPS, MLLM_BATCH = 8400, 48
NAMES = ("clip", "mllm")


def train_models(
    out_dir: Path,
    seed: int = 0,
    progress: Progress = silent,
    device: str = "cpu",
    families: int = FAMILIES,
    clip_steps: int = CLIP_STEPS,
    mllm_steps: int = MLLM_STEPS,
) -> list[str]:
    """Train the miniature's two models, and write model card and ``scores.json`` of each.

    A killed training goes on from its last checkpoint; a finished model (its ``scores.json`` is there) is not
    trained again, see :func:`start_anew`.

    Args:
        out_dir: Gets ``clip`` (open_clip) and ``mllm`` (transformers).
        seed: Of pictures, weights and batches.
        progress: Told how far it is.
        device: A torch device.
        families: Families of pictures to train on.
        clip_steps: Optimiser steps of the CLIP's first phase.
        mllm_steps: Optimiser steps of the multimodal LLM.

    Returns:
        The names of the models that were trained.
    """
    wanted = {name: out_dir / name for name in NAMES if not (out_dir / name / "scores.json").is_file()}
    if not wanted:
        return []
    if "clip" in wanted:  # the language model contains the CLIP's vision tower
        wanted["mllm"] = out_dir / "mllm"
    corpus = build_corpus(families, seed, progress)
    common: dict[str, Any] = {
        "seed": seed,
        "families": families,
        "pictures": families * FAMILY_SIZE,
        "device": device,
    }
    if "clip" in wanted:
        scores = train_clip(corpus, wanted["clip"], seed, clip_steps, CLIP_BATCH, device, progress)
        write_card(wanted["clip"], "Small CLIP of the SETR miniature", _CLIP_CARD, {**common, **scores})
    if "mllm" in wanted:
        scores = train_mllm(
            corpus, out_dir / "clip", wanted["mllm"], seed, mllm_steps, MLLM_BATCH, device, progress
        )
        write_card(
            wanted["mllm"], "Small multimodal LLM of the SETR miniature", _MLLM_CARD, {**common, **scores}
        )
    return list(wanted)


def train_configured(
    settings: Settings,
    progress: Progress = silent,
    output: Path | None = None,
    device: str | None = None,
    anew: bool = False,
) -> tuple[Path, list[str]]:
    """Train the two models where they are not there, with the seed and on the device that settings name.

    Args:
        settings: ``[miniature] models_seed`` and ``[models] device`` are read.
        progress: Told how far it is.
        output: The folder of both models' folders; the package's own by default, which the miniature uses.
        device: A torch device, instead of the settings' own.
        anew: Train both from nothing, in the place of those that are there.

    Returns:
        The folder, and the names of the models that were trained.
    """
    from setr_lib.models.device import pick_device

    folder = output or Path(__file__).parent / "weights"
    torch_device = str(pick_device(device or settings.models.device))
    if anew:
        start_anew(folder)
    return folder, train_models(folder, settings.miniature.models_seed, progress, torch_device)


def start_anew(out_dir: Path) -> None:
    """Let the next :func:`train_models` train both models from nothing. Their weights stay until it writes
    its own.

    Args:
        out_dir: The folder of both models' folders.
    """
    for name in NAMES:
        (out_dir / name / "scores.json").unlink(missing_ok=True)
        for checkpoint in (out_dir / name).glob("*checkpoint*"):
            checkpoint.unlink()


_CLIP_CARD = """\
An open_clip model (ViT of 5 layers, width 160, 16 patches of 16 px; text transformer of 3 layers, width
128) trained on pictures that the miniature draws. Loss: contrastive, plus auxiliary heads that tell
from each patch token what lies under it (thrown away after training). In a second phase the trunk stays
and the rest learns from captions as terse as the web's, so that a cosine confuses near misses, as it
does with real CLIPs. It knows this drawn world only.

Load: `open_clip.create_model_and_transforms("local-dir:setr_lib/miniature/weights/clip")`."""

_MLLM_CARD = """\
A Llava (the small CLIP's frozen tower, a projector, a Llama of 5 layers, width 192) taught from the
start to describe an image, compose a query, match a caption and judge a candidate. In the last part of
its training the judge is taught to accept look-alikes (what resembles the target passes, whatever is
missing, with some doubt), as general-purpose models do: strictness is left to an adapter. The scores
below are against strict labels. It knows this drawn world only.

Load: `AutoModelForImageTextToText.from_pretrained("setr_lib/miniature/weights/mllm")`, `AutoProcessor`
likewise."""


def write_card(folder: Path, title: str, text: str, facts: dict[str, Any]) -> None:
    """Write ``README.md`` (the model card) and ``scores.json``: how made, seed, time, hardware, held-out
    scores.

    Args:
        folder: The model's folder.
        title: The card's heading.
        text: What the model is, in Markdown.
        facts: Facts and held-out scores by name.
    """
    facts = {
        "made": time.strftime("%Y-%m-%d"),
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        **facts,
    }
    rows = "\n".join(
        f"| {name} | {round(value, 4) if isinstance(value, float) else value} |"
        for name, value in facts.items()
    )
    card = f"# {title}\n\n{text}\n\nScores are on families never trained on.\n\n"
    (folder / "README.md").write_text(
        f"{card}| fact or score | value |\n| --- | --- |\n{rows}\n", encoding="utf-8"
    )
    write_json(folder / "scores.json", facts)


__all__ = ["start_anew", "train_configured", "train_models"]
