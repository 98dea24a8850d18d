"""Families of look-alike pictures: the raw material of galleries, of near misses, and of the models'
training.

A family starts from one picture; its members differ from it, or from one another, in one or two respects, and
share few backgrounds, so that a reference, a target and several near misses are all in it.
"""

from __future__ import annotations

from random import Random

from setr_lib.miniature.garments import CATEGORIES, Garment, random_garment
from setr_lib.miniature.pictures import pick_background
from setr_lib.miniature.scenes import Scene, random_scene

AnyPicture = Scene | Garment


def random_picture(rng: Random, garment_share: float = 0.35) -> AnyPicture:
    """A scene, or a garment of a random category.

    Args:
        rng: Decides what it shows.
        garment_share: The chance of a garment.

    Returns:
        A picture.
    """
    return (
        random_garment(rng, rng.choice(list(CATEGORIES)))
        if rng.random() < garment_share
        else random_scene(rng)
    )


def make_family(rng: Random, size: int, root: AnyPicture | None = None) -> list[AnyPicture]:
    """Pictures that differ from one another in one or two respects.

    Args:
        rng: Decides how they differ.
        size: How many.
        root: The picture to start from; a random one by default.

    Returns:
        The pictures, the root first.
    """
    root = root or random_picture(rng)
    places = [root.background, pick_background(rng, other_than=root.background)]
    members: list[AnyPicture] = [root]
    while len(members) < size:
        parent = root if len(members) < 1 + size // 2 else rng.choice(members)
        # One member in eight only moves to another background: the same answer in another place.
        child = parent if rng.random() < 0.125 else parent.near_miss(rng)
        members.append(child.on(rng.choice(places) if rng.random() < 0.6 else pick_background(rng)))
    return members
