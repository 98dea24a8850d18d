"""Train splits of the miniature, large enough to train on: CIRR's, FashionIQ's and LaSCo's, in the official
layouts.

Each is a data set's folder of its own below ``train``, drawn only when something is trained on it, from a
random stream of its own: what is drawn for evaluation does not depend on it. No scene of a train split is one
of the data set's other splits, whatever its background. There are too few kinds of garment for that: no
garment of FashionIQ's is a query's reference or target there, and none is on a background on which a gallery
shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from setr_lib.miniature.difficulty import Difficulty
from setr_lib.miniature.garments import CATEGORIES, Garment, random_garment
from setr_lib.miniature.lasco_worlds import lasco_documents, plan_lasco
from setr_lib.miniature.pictures import describe_modification, pick_background
from setr_lib.miniature.worlds import (
    MiniatureError,
    Plan,
    World,
    catalogue_names,
    cirr_entry,
    dataset_stamp,
    look_alike_of,
    plan_dataset,
    scaled,
    scene_query,
)

if TYPE_CHECKING:
    from setr_lib.miniature.scenes import Scene
    from setr_lib.settings import MiniatureSettings

FOLDER = "train"
"""The folder of train splits, below that of the miniature."""
GROUPS = 200
"""Groups of six look-alikes of a split of scenes, at size 1."""
PAIRS_PER_GROUP = 4
"""Triplets of a group."""
GARMENT_TRIPLETS = 300
"""Triplets of a category, at size 1."""
_MEMBERS = 6
_TRIES, _PATIENCE = 20_000, 200
"""Tries at a pair of garments, and at a near miss of a scene."""


def train_world(root: Path, name: str, options: MiniatureSettings) -> World:
    """A train split of the miniature, as ``write_worlds`` takes it.

    Args:
        root: The miniature's folder.
        name: ``cirr``, ``fashioniq`` or ``lasco``.
        options: Seed, size and dials.

    Returns:
        The data set, in ``train/NAME`` below ``root``.
    """
    difficulty = Difficulty.of(options)
    stamp = dataset_stamp(_LIKE[name], options.seed, options.size, difficulty)
    folder = root / FOLDER / name
    return World(folder, stamp, partial(plan_train, name, folder, options.seed, options.size, difficulty))


def plan_train(name: str, folder: Path, seed: int, size: float, difficulty: Difficulty) -> Plan:
    """What a train split consists of; draws and writes nothing.

    Args:
        name: ``cirr``, ``fashioniq`` or ``lasco``.
        folder: The folder of the train split.
        seed: Of the world.
        size: Scales the number of triplets.
        difficulty: The dials, of the galleries that are kept apart.

    Returns:
        Image files and documents.

    Raises:
        MiniatureError: Galleries of that size and difficulty leave too few pictures.
    """
    plan = Plan(folder, seed, f"{FOLDER}/{name}", difficulty)
    _PLANS[name](plan, size)
    return plan


def _cirr(plan: Plan, size: float) -> None:
    taken = _shown(plan_dataset("cirr", plan.root, plan.seed, size, plan.difficulty))
    names: dict[str, str] = {}
    entries: list[dict[str, object]] = []
    for group in range(scaled(GROUPS, size)):
        members, pairs = _group(plan, taken)
        keys = [f"train-{group}-{index // 2}-img{index % 2}" for index in range(_MEMBERS)]
        order = plan.rng.sample(keys, _MEMBERS)
        for key, picture in zip(keys, members, strict=True):
            relative = f"train/{group % 100}/{key}.png"  # the official images are in such sub-folders
            names[key] = f"./{relative}"
            plan.draw(relative, picture)
        entries += [
            cirr_entry(len(entries) + row, group, keys[reference], keys[target], text, order, True)
            for row, (reference, target, text) in enumerate(pairs)
        ]
    plan.documents[plan.root / "captions" / "cap.rc2.train.json"] = entries
    plan.documents[plan.root / "image_splits" / "split.rc2.train.json"] = names


def _lasco(plan: Plan, size: float) -> None:
    gallery = Plan(plan.root, plan.seed, "lasco", plan.difficulty)
    plan_lasco(gallery, size)
    taken = _shown(gallery)
    pictures: list[Scene] = []
    triplets: list[tuple[int, int, str]] = []
    for _ in range(scaled(GROUPS, size)):
        members, pairs = _group(plan, taken)
        first = len(pictures)
        pictures += members
        triplets += [(first + reference, first + target, text) for reference, target, text in pairs]
    lasco_documents(plan, "train", pictures, triplets)


def _shown(plan: Plan) -> set[object]:
    """The foregrounds of all pictures of a data set."""
    return {drawing.picture.foreground for drawing in plan.drawings}


def _group(plan: Plan, taken: set[object]) -> tuple[list[Scene], list[tuple[int, int, str]]]:
    """Six look-alikes and the triplets among them: (reference, target, text) by index."""
    while True:
        query = scene_query(plan, taken, two_edits=0.3)
        members = [query.reference, query.target]
        while len(members) < _MEMBERS:
            near = plan.rng.choice(members)
            # Every other one may differ in the things themselves, their order or their number.
            made = _near_miss(plan.rng, near, taken) if len(members) % 2 else None
            members.append(made or look_alike_of(plan, query, taken, near))
        pairs = [(0, 1, query.modification.text), *_more_pairs(plan.rng, members)]
        if len(pairs) >= PAIRS_PER_GROUP:
            return members, pairs[:PAIRS_PER_GROUP]


def _near_miss(rng: Random, near: Scene, taken: set[object]) -> Scene | None:
    """A near miss whose foreground is new; None where none is found."""
    for _ in range(_PATIENCE):
        scene = near.near_miss(rng)
        if scene.foreground not in taken:
            taken.add(scene.foreground)
            return scene.on(pick_background(rng))
    return None


def _more_pairs(rng: Random, members: list[Scene]) -> list[tuple[int, int, str]]:
    """Pairs of members on different backgrounds with a text between them, the first two's own apart."""
    apart = [
        (i, j)
        for i in range(_MEMBERS)
        for j in range(i + 1, _MEMBERS)
        if (i, j) != (0, 1) and members[i].background != members[j].background
    ]
    found: list[tuple[int, int, str]] = []
    for pair in rng.sample(apart, len(apart)):
        i, j = rng.sample(pair, 2)
        modification = describe_modification(members[i], members[j], rng)
        if modification is not None:
            found.append((i, j, modification.text))
    return found


def _fashioniq(plan: Plan, size: float) -> None:
    gallery = plan_dataset("fashioniq", plan.root, plan.seed, size, plan.difficulty)
    taken: set[object] = {drawing.picture for drawing in gallery.drawings}

    def is_free(garment: Garment) -> bool:
        return garment.foreground not in gallery.asked and garment not in taken

    for category in CATEGORIES:
        triplets = [_garments(plan.rng, category, is_free) for _ in range(scaled(GARMENT_TRIPLETS, size))]
        names = catalogue_names(plan.rng, category, "train", 2 * len(triplets))
        entries = []
        for row, (reference, target, captions) in enumerate(triplets):
            wanted, candidate = names[2 * row : 2 * row + 2]
            plan.draw(f"images/{wanted}.png", target)
            plan.draw(f"images/{candidate}.png", reference)
            entries.append({"target": wanted, "candidate": candidate, "captions": captions})
        plan.documents[plan.root / "captions" / f"cap.{category}.train.json"] = entries
        plan.documents[plan.root / "image_splits" / f"split.{category}.train.json"] = sorted(names)


def _garments(
    rng: Random, category: str, is_free: Callable[[Garment], bool]
) -> tuple[Garment, Garment, list[str]]:
    """A reference, a target, and two shoppers' captions between them."""
    for _ in range(_TRIES):
        target = random_garment(rng, category)
        reference = target.near_miss(rng)
        if rng.random() < 0.65:
            reference = reference.near_miss(rng)
        reference = reference.on(pick_background(rng, other_than=target.background))
        if not (is_free(target) and is_free(reference)):
            continue
        modification = describe_modification(reference, target, rng)
        if modification is None:
            continue
        texts = list(modification.parts)
        if len(texts) == 1:
            again = describe_modification(reference, target, rng)
            texts += again.parts if again is not None else texts
        return reference, target, rng.sample(texts, 2)
    raise MiniatureError(
        f"the miniature's FashionIQ galleries show every {CATEGORIES[category]} already, and none is left "
        "for its train split: lower [miniature] near_misses or size"
    )


_PLANS: dict[str, Callable[[Plan, float], None]] = {
    "cirr": _cirr,
    "fashioniq": _fashioniq,
    "lasco": _lasco,
}
_LIKE = {"cirr": "cirr", "fashioniq": "fashioniq", "lasco": "circo"}
"""The data set whose dials a train split depends on: those of the galleries that it is kept apart from."""
TRAIN_SPLITS: Iterable[str] = tuple(_PLANS)
"""The data sets that have a train split."""
