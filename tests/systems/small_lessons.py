"""Small trainings of the trained retrieval systems: drawn pictures, triplets of them, the miniature's
encoder.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import torch
from encoders import miniature
from PIL import Image

from setr_lib.hashing import fingerprint_file
from setr_lib.systems.bundle import make_model
from setr_lib.systems.data import HELD_OUT, TRAIN, Features, SystemData
from setr_lib.systems.features import PATCHES, PIXELS
from setr_lib.systems.models.system_model import SystemModel
from setr_lib.systems.options import MinedOptions
from setr_lib.systems.recipe import RECIPES
from setr_lib.systems.training import Lesson
from setr_lib.tables import SPLIT_TRIPLETS, TRIPLET_IMAGES

TINY: dict[str, dict[str, Any]] = {
    name: {"batch_size": 4, "steps": 6, "checkpoint_every": 2, "learning_rate": 1e-2} for name in RECIPES
}
"""Options with which a training takes a second."""
TINY["prompt_tuned"] |= {"context_vectors": 4}
TINY["pic2word"] |= {"hidden": 8}
TINY["composing"] |= {"adapter_width": 4, "queue": 8, "hardest": 4}
TINY["retrieval_dpo_fused"] |= {"negatives": 2, "rank": 2}
TINY["qformer"] |= {
    "layers": 1,
    "hidden_size": 16,
    "heads": 2,
    "query_tokens": 2,
    "text_length": 8,
    "dimension": 8,
}


def draw_pictures(folder: Path, train: int = 10, held_out: int = 6) -> pl.DataFrame:
    """Pictures of random blocks of colour, as a TRIPLET_IMAGES table."""
    folder.mkdir(parents=True, exist_ok=True)
    random, rows = Random(4), []
    for number in range(train + held_out):
        path = folder / f"{number:02d}.png"
        picture = Image.frombytes("RGB", (4, 4), random.randbytes(48)).resize(
            (40, 40), Image.Resampling.NEAREST
        )
        picture.save(path)
        split = TRAIN if number < train else HELD_OUT
        row = [
            path.name,
            str(path),
            f"a picture of {number}",
            "ok",
            "",
            40,
            40,
            fingerprint_file(path),
            "",
            split,
        ]
        rows.append(row)
    return pl.DataFrame(rows, TRIPLET_IMAGES, orient="row")


def small_data(folder: Path) -> SystemData:
    """Ten training and six held-out pictures, nine and six triplets."""
    images = draw_pictures(folder)
    rows = []
    for split in (TRAIN, HELD_OUT):
        ids = images.filter(split=split)["image_id"].to_list()
        count = len(ids) - (split == TRAIN)
        rows += [(split, ids[n], f"make it {n}", ids[(n + 1) % len(ids)]) for n in range(count)]
    return SystemData("synthesised", pl.DataFrame(rows, SPLIT_TRIPLETS, orient="row"), images)


def features_of(data: SystemData, reads: frozenset[str] = frozenset({PATCHES, PIXELS})) -> Features:
    """The features of all its images by the miniature's encoder."""
    from setr_lib.pixels import read_image

    encoder, ids = miniature(), sorted(data.images["image_id"])
    paths = dict(data.images.select("image_id", "path").iter_rows())
    vectors = encoder.embed_images([encoder.preprocess(read_image(paths[image])) for image in ids])
    return Features(encoder, paths, ids, vectors, reads)


def base_of(name: str) -> dict[str, torch.Tensor] | None:
    """Tensors of the system that one builds on, moved away from where they start."""
    below = RECIPES[name].builds_on
    if below is None:
        return None
    model = make_model(RECIPES[below], miniature(), RECIPES[below].options(**TINY[below]))
    generator = torch.Generator().manual_seed(5)
    return {
        key: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        for key, tensor in model.state_dict().items()
    }


def untrained(name: str, **options: Any) -> SystemModel[Any]:
    """A system before its first step."""
    recipe = RECIPES[name]
    return make_model(recipe, miniature(), recipe.options(**{**TINY[name], **options}), base_of(name))


def lesson_of(name: str, data: SystemData, **options: Any) -> Lesson:
    """A training of a system on small data."""
    recipe, model = RECIPES[name], untrained(name, **options)
    rows = (
        data.training_triplets(None, 0) if recipe.learns_from == "triplets" else data.training_images(None, 0)
    )
    negatives: list[list[str]] = []
    if isinstance(model.options, MinedOptions):
        others = data.images.filter(split=TRAIN)["image_id"].to_list()
        wanted = model.options.negatives
        negatives = [[each for each in others if each != target][:wanted] for target in rows["target_id"]]
    return Lesson(name, model, data, rows, features_of(data, model.reads), f"run of {name}", negatives)
