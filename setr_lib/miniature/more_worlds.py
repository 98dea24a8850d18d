"""Small GeneCIS, i-CIR and LaSCo in their official layouts: data sets that the miniature has only where
settings name them.

Each has a random stream of its own. They are there to try the kinds of data set without downloads; how
methods rank on them says nothing of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from setr_lib.miniature.difficulty import Difficulty
from setr_lib.miniature.lasco_worlds import plan_lasco
from setr_lib.miniature.pictures import BACKGROUNDS, COLOURS, PATTERNS, pick_background
from setr_lib.miniature.scenes import SHAPES, SIZES, Scene, Thing, random_thing
from setr_lib.miniature.worlds import Plan, World, dataset_stamp, scaled

if TYPE_CHECKING:
    from setr_lib.settings import MiniatureSettings

GENECIS_QUERIES = 20
"""Queries of a task, at size 1."""
GENECIS_CANDIDATES = {"focus_attribute": 10, "change_attribute": 15, "focus_object": 15, "change_object": 15}
"""Images that a query of a task ranks, as in the official files."""
ICIR_INSTANCES = 8
"""Instances, at size 1."""
ICIR_TEXTS, ICIR_POSITIVES, ICIR_LOOK_ALIKES = 3, 2, 8
"""Texts of an instance, right images of each, and images of other things in its database."""
_ATTRIBUTES: dict[str, tuple[str, ...]] = {"colour": COLOURS, "pattern": PATTERNS, "size": SIZES}
_BOX = (50.0, 52.0, 92.0, 92.0)
"""Where the one thing of a picture is: left, top, width, height in pixels."""


def more_world(root: Path, name: str, options: MiniatureSettings) -> World:
    """One of these data sets, as ``write_worlds`` takes it.

    Args:
        root: The miniature's folder.
        name: ``genecis``, ``icir`` or ``lasco``.
        options: Seed, size and dials.

    Returns:
        The data set, in the folder of its name below ``root``.
    """
    difficulty = Difficulty.of(options)
    # Of the dials only LaSCo reads any: those of scenes, as CIRCO does.
    stamp = dataset_stamp("circo" if name == "lasco" else "training", options.seed, options.size, difficulty)
    folder = root / name
    finish = partial(_cut, folder) if name == "genecis" else None
    return World(
        folder, stamp, partial(plan_more, name, folder, options.seed, options.size, difficulty), finish
    )


def plan_more(name: str, folder: Path, seed: int, size: float, difficulty: Difficulty) -> Plan:
    """What one of these data sets consists of; draws and writes nothing.

    Args:
        name: ``genecis``, ``icir`` or ``lasco``.
        folder: The data set's folder.
        seed: Of the world.
        size: Scales the number of queries or instances.
        difficulty: The dials.

    Returns:
        Image files and documents.
    """
    plan = Plan(folder, seed, name, difficulty)
    _PLANS[name](plan, size)
    return plan


# GeneCIS.


def _plan_genecis(plan: Plan, size: float) -> None:
    queries = scaled(GENECIS_QUERIES, size)
    pictures = sum(queries * (1 + candidates) for candidates in GENECIS_CANDIDATES.values())
    numbers = iter(plan.rng.sample(range(1, 2_400_000), pictures))
    for task, candidates in GENECIS_CANDIDATES.items():
        entries: list[dict[str, object]] = []
        for _ in range(queries):
            condition, shown = _TEMPLATES[task](plan.rng, candidates)
            reference, target, *others = (_genecis_image(plan, task, next(numbers), each) for each in shown)
            entries.append(
                {"reference": reference, "target": target, "gallery": others, "condition": condition}
            )
        plan.documents[plan.root / "genecis" / f"{task}.json"] = entries


def _genecis_image(plan: Plan, task: str, number: int, scene: Scene) -> dict[str, object]:
    if task.endswith("object"):
        plan.draw(f"val2017/{number:012d}.jpg", scene)
        return {"val_image_id": number}
    plan.draw(f"VG_100K/{number}.jpg", scene)
    return {"image_id": number, "instance_bbox": list(_BOX)}


def _focus_attribute(rng: Random, candidates: int) -> tuple[str, list[Scene]]:
    """The condition names an attribute; the target has the reference's value of it."""
    name = rng.choice(list(_ATTRIBUTES))
    thing = random_thing(rng)
    value = getattr(thing, name)
    others = [choice for choice in _ATTRIBUTES[name] if choice != value]
    target = replace(random_thing(rng), shape=thing.shape, **{name: value})
    wrong = [
        replace(random_thing(rng), shape=thing.shape, **{name: rng.choice(others)})
        for _ in range(candidates - 1)
    ]
    return {"colour": "color"}.get(name, name), [_alone(rng, each) for each in (thing, target, *wrong)]


def _change_attribute(rng: Random, candidates: int) -> tuple[str, list[Scene]]:
    """The condition is a value; the target is the reference's thing with it."""
    name = rng.choice(list(_ATTRIBUTES))
    thing = random_thing(rng)
    value = rng.choice([choice for choice in _ATTRIBUTES[name] if choice != getattr(thing, name)])
    others = [choice for choice in _ATTRIBUTES[name] if choice != value]
    target = replace(thing, **{name: value})
    wrong = [
        replace(random_thing(rng), shape=thing.shape, **{name: rng.choice(others)})
        if number % 2
        else replace(random_thing(rng, thing.shape), **{name: value})
        for number in range(candidates - 1)
    ]
    return value, [_alone(rng, each) for each in (thing, target, *wrong)]


def _focus_object(rng: Random, candidates: int) -> tuple[str, list[Scene]]:
    """The condition names a thing; the target shares it with the reference, distractors the other one."""
    kept, other, *rest = rng.sample(SHAPES, len(SHAPES))
    wrong = [
        _two(rng, other if number % 2 else rest[0], rng.choice(rest[1:])) for number in range(candidates - 1)
    ]
    return kept, [_two(rng, kept, other), _two(rng, kept, rng.choice(rest)), *wrong]


def _change_object(rng: Random, candidates: int) -> tuple[str, list[Scene]]:
    """The condition names a thing that the target has beside one of the reference's."""
    kept, gone, wanted, *rest = rng.sample(SHAPES, len(SHAPES))
    wrong = [
        _two(rng, *((kept, rng.choice(rest)) if number % 2 else (wanted, rng.choice(rest))))
        for number in range(candidates - 1)
    ]
    return wanted, [_two(rng, kept, gone), _two(rng, kept, wanted), *wrong]


def _alone(rng: Random, thing: Thing) -> Scene:
    return Scene((thing,), "beside", pick_background(rng))


def _two(rng: Random, *shapes: str) -> Scene:
    things = tuple(replace(random_thing(rng), shape=shape) for shape in rng.sample(shapes, 2))
    return Scene(things, "beside", pick_background(rng))


_TEMPLATES: dict[str, Callable[[Random, int], tuple[str, list[Scene]]]] = {
    "focus_attribute": _focus_attribute,
    "change_attribute": _change_attribute,
    "focus_object": _focus_object,
    "change_object": _change_object,
}


def _cut(folder: Path) -> None:
    """Make the crops of the attribute tasks, as ``setr crop`` does."""
    from setr_lib.benchmarks.kinds.genecis import GeneCIS
    from setr_lib.benchmarks.sets import EvaluationSet

    benchmark = GeneCIS()
    for task in benchmark.splits:
        benchmark.cut_images(EvaluationSet(task, "genecis", benchmark, task, "all", folder, None))


# i-CIR.


def _plan_icir(plan: Plan, size: float) -> None:
    rng = plan.rng
    things: dict[Thing, None] = {}
    while len(things) < scaled(ICIR_INSTANCES, size):
        things[random_thing(rng)] = None
    queries: list[str] = []
    database: list[str] = []
    for thing in things:
        instance = f"{thing.size}_{thing.colour}_{thing.pattern}_{thing.shape}"
        places = rng.sample(list(BACKGROUNDS), len(BACKGROUNDS))
        asked, others = places[:ICIR_TEXTS], places[ICIR_TEXTS:]
        reference = f"query/{instance}/0.jpg"
        plan.draw(reference, Scene((thing,), "beside", others[0]))
        queries += [f"icir/{reference},{BACKGROUNDS[place]},{instance}" for place in asked]
        shown = [(thing, place, BACKGROUNDS[place]) for place in asked for _ in range(ICIR_POSITIVES)]
        # The thing in other places, and other things in the places that are asked for.
        shown += [(thing, place, "") for place in others]
        shown += [(_like(rng, thing), rng.choice(asked), "") for _ in range(ICIR_LOOK_ALIKES)]
        for number, (each, place, text) in enumerate(rng.sample(shown, len(shown))):
            path = f"database/{instance}/{number}.jpg"
            plan.draw(path, Scene((each,), "beside", place))
            database.append(f"icir/{path},{text},{instance}")
    for name, lines in (("query_files.csv", queries), ("database_files.csv", database)):
        plan.documents[plan.root / name] = "".join(f"{line}\n" for line in lines)


def _like(rng: Random, thing: Thing) -> Thing:
    """Another thing that differs in colour, pattern or size."""
    name = rng.choice(list(_ATTRIBUTES))
    return replace(
        thing, **{name: rng.choice([each for each in _ATTRIBUTES[name] if each != getattr(thing, name)])}
    )


_PLANS: dict[str, Callable[[Plan, float], None]] = {
    "genecis": _plan_genecis,
    "icir": _plan_icir,
    "lasco": plan_lasco,
}
MORE = tuple(_PLANS)
"""The data sets that the miniature has only where they are asked for."""
