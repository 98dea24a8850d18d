"""Writes the miniature's data sets in the official on-disk layouts: CIRR, FashionIQ, CIRCO, and captioned
training images.

Everything follows from the seed: the same bytes and pixels on any machine. The three galleries and the
training images are drawn from separate streams of that seed.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.miniature.difficulty import DOCUMENTED, Difficulty
from setr_lib.miniature.drawing import SIDE, draw_picture
from setr_lib.miniature.families import AnyPicture, make_family
from setr_lib.miniature.garments import CATEGORIES, Garment, random_garment
from setr_lib.miniature.pictures import Modification, describe_modification, pick_background
from setr_lib.miniature.processes import drawing_processes
from setr_lib.miniature.scenes import Scene, random_scene
from setr_lib.progress import Progress, silent

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

WORLD_VERSION = 8
"""Raised by any change that alters a byte of what is written."""

CIRR_GROUPS = {"train": 20, "val": 150, "test1": 40}
"""Subsets of six images per split; two queries each."""
_CIRR_DISTRACTORS = (6, 4)
"""Drawn against each subset's first and second query: three make its six full, the others are in the gallery
only."""
FASHIONIQ_QUERIES = {"train": 30, "val": 60, "test": 30}
"""Queries per category and split."""
FASHIONIQ_IMAGES = {"train": 6, "val": 66, "test": 6}
"""Gallery images per query; what is not a target or a reference is mostly a near miss of some target."""
_FASHIONIQ_NEAR_MISSES = 0.9
"""Share of the distractors; the others are random garments."""
CIRCO_QUERIES = {"val": 200, "test": 40}
CIRCO_IMAGES = 3200
_CIRCO_DISTRACTORS = 2
"""Drawn along with each query; more fill the gallery up."""
_ASPECT = {
    "count": "cardinality",
    "addition": "addition",
    "removal": "negation",
    "size": "comparative_statement",
    "swap": "spatial_relations_background",
    "relation": "spatial_relations_background",
    "background": "spatial_relations_background",
    "colour": "compare_change",
    "pattern": "compare_change",
    "shape": "compare_change",
}
_SCENES_ON_REFERENCE_BACKGROUND = 0.7
_GARMENTS_ON_SOME_REFERENCE_BACKGROUND = 0.5
"""The documented worlds' background correlation; garments', with the background of any query's reference, has
none."""
_NAMES_BACKGROUND = 0.08
"""Share of scene queries whose text asks for another background."""
_STAMP = "miniature.json"
_DIALS = {
    "cirr": ("objects_per_scene", "near_misses", "background_correlation"),
    "fashioniq": ("near_misses", "background_correlation"),
    "circo": ("objects_per_scene", "near_misses", "background_correlation"),
    "training": (),
}
"""What each data set depends on: a dial that does not concern it leaves it alone."""
_PATIENCE = 200
"""Tries at a distractor before it may be further away than one step, and again before it may differ in more
than looks."""
_QUERY_TRIES = 20_000
"""Tries at a query before its gallery counts as full."""


class MiniatureError(SetrError):
    """The world asked for cannot be drawn; the message names the settings to change."""


@dataclass(frozen=True)
class _Drawing:
    """One image file to be drawn; ``seed`` decides jitter and texture."""

    path: Path
    picture: AnyPicture
    seed: str


class Plan:
    """What one data set consists of: image files to draw, and documents to write (text as it is, all else as
    JSON).

    Args:
        root: The data set's folder.
        seed: Of the world.
        name: ``cirr``, ``fashioniq``, ``circo`` or ``training``.
        difficulty: The dials.
    """

    def __init__(self, root: Path, seed: int, name: str, difficulty: Difficulty) -> None:
        self.root, self.name, self.seed, self.difficulty = root, name, seed, difficulty
        self.rng = Random(f"world/{seed}/{name}")
        self.drawings: list[_Drawing] = []
        self.asked: set[object] = set()
        """What references and targets of the garment queries of val and test show, backgrounds apart."""
        self.documents: dict[Path, object] = {}

    def draw(self, relative: str, picture: AnyPicture) -> None:
        """Add an image file.

        Args:
            relative: Its path from the data set's folder.
            picture: What it shows.
        """
        self.drawings.append(
            _Drawing(self.root / relative, picture, f"world/{self.seed}/{self.name}/{relative}")
        )


def write_miniature(
    root: Path,
    seed: int = 0,
    size: float = 1.0,
    training_images: int = 1600,
    progress: Progress = silent,
    processes: int = 2,
    difficulty: Difficulty = DOCUMENTED,
) -> bool:
    """Write the miniature's data sets: ``cirr``, ``fashioniq``, ``circo`` and ``training``.

    A stamp names what is there; another seed, size, version or dial replaces what it concerns, and nothing
    else.

    Args:
        root: The folder of the data sets.
        seed: Of the world.
        size: Scales the numbers of images and queries.
        training_images: Captioned training images.
        progress: Told how many images are drawn.
        processes: Processes that draw.
        difficulty: The dials.

    Returns:
        Whether anything had to be written.
    """
    stamps = {
        name: dataset_stamp(name, seed, training_images if name == "training" else size, difficulty)
        for name in _DIALS
    }
    return write_worlds(
        [
            World(
                root / name,
                stamp,
                functools.partial(plan_dataset, name, root / name, seed, stamp["size"], difficulty),
            )
            for name, stamp in stamps.items()
        ],
        progress,
        processes,
    )


@dataclass(frozen=True)
class World:
    """One data set to be written: where, what it depends on, and what makes its plan."""

    folder: Path
    stamp: Mapping[str, float]
    plan: Callable[[], Plan]
    finish: Callable[[], None] | None = None
    """What is to be done after its pictures are drawn."""


def write_worlds(worlds: Iterable[World], progress: Progress = silent, processes: int = 2) -> bool:
    """Write data sets that are absent, or that something else was written for.

    Args:
        worlds: The data sets.
        progress: Told how many images are drawn.
        processes: Processes that draw.

    Returns:
        Whether anything had to be written.
    """
    outdated = [world for world in worlds if _read_stamp(world.folder) != world.stamp]
    if not outdated:
        return False
    with drawing_processes(processes) as pool:
        for world in outdated:
            plan = world.plan()
            shutil.rmtree(world.folder, ignore_errors=True)
            _carry_out(plan, pool, progress)
            if world.finish is not None:
                world.finish()
            # Last: half a data set has no stamp and is written again.
            _write(world.folder / _STAMP, dict(world.stamp))
    return True


def dataset_stamp(name: str, seed: int, scale: float, difficulty: Difficulty) -> dict[str, float]:
    """All that a data set depends on, as ``miniature.json`` in its folder records it.

    Args:
        name: ``cirr``, ``fashioniq``, ``circo`` or ``training``.
        seed: Of the world.
        scale: The size, or for ``training`` the number of images.
        difficulty: The dials.

    Returns:
        Name -> value.
    """
    return {"version": WORLD_VERSION, "seed": seed, "size": scale} | difficulty.turned(_DIALS[name])


def plan_dataset(
    name: str, folder: Path, seed: int, scale: float, difficulty: Difficulty = DOCUMENTED
) -> Plan:
    """What :func:`write_miniature` will write for a data set; draws and writes nothing.

    Args:
        name: ``cirr``, ``fashioniq``, ``circo`` or ``training``.
        folder: The data set's folder.
        seed: Of the world.
        scale: The size, or for ``training`` the number of images.
        difficulty: The dials.

    Returns:
        Image files and documents.
    """
    plan = Plan(folder, seed, name, difficulty)
    match name:
        case "cirr":
            _plan_cirr(plan, scale)
        case "fashioniq":
            _plan_fashioniq(plan, scale)
        case "circo":
            _plan_circo(plan, scale)
        case _:
            _plan_training(plan, round(scale))
    return plan


def _read_stamp(folder: Path) -> object:
    path = folder / _STAMP
    return json.loads(path.read_text()) if path.is_file() else None


def _carry_out(plan: Plan, pool: ProcessPoolExecutor, progress: Progress) -> None:
    for folder in {drawing.path.parent for drawing in plan.drawings}:
        folder.mkdir(parents=True, exist_ok=True)
    for path, document in plan.documents.items():
        _write(path, document)
    for done, _ in enumerate(pool.map(_draw, plan.drawings, chunksize=32), start=1):
        if done % 100 == 0 or done == len(plan.drawings):
            progress(done, len(plan.drawings), f"{plan.name} pictures drawn")


def _draw(drawing: _Drawing) -> None:
    image = draw_picture(drawing.picture, Random(drawing.seed))
    if drawing.path.suffix == ".jpg":
        image.save(drawing.path, quality=90, subsampling=0)
    else:
        image.save(drawing.path, compress_level=6)


def _write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document) + "\n"
    path.write_text(text, encoding="utf-8")


def scaled(number: int, size: float, least: int = 2) -> int:
    """A number of images or queries at a size of the world.

    Args:
        number: The number at size 1.
        size: The size.
        least: The smallest number that is given.

    Returns:
        The scaled number.
    """
    return max(least, round(number * size))


# Scene queries, shared by CIRR and CIRCO.


@dataclass(frozen=True)
class SceneQuery:
    """A reference, a target, and the text between them."""

    reference: Scene
    target: Scene
    modification: Modification


def scene_query(plan: Plan, taken: set[object], two_edits: float) -> SceneQuery:
    """A reference and a target whose foregrounds are new to the gallery, and the text between them.

    Args:
        plan: What the query is for; its generator decides.
        taken: Foregrounds of the gallery; those of the query are added.
        two_edits: The chance of a second difference.

    Returns:
        The query.

    Raises:
        MiniatureError: No two such foregrounds are left.
    """
    rng = plan.rng
    for _ in range(_QUERY_TRIES):
        reference = random_scene(rng, plan.difficulty.objects_per_scene)
        target = reference.near_miss(rng)
        if rng.random() < two_edits:
            target = target.near_miss(rng)
        target = target.on(pick_background(rng, other_than=reference.background))
        if reference.foreground == target.foreground or {reference.foreground, target.foreground} & taken:
            continue
        modification = describe_modification(
            reference, target, rng, mention_background=rng.random() < _NAMES_BACKGROUND
        )
        if modification is not None:
            taken |= {reference.foreground, target.foreground}
            return SceneQuery(reference, target, modification)
    raise MiniatureError(
        f"the miniature's {plan.name} gallery shows every scene of so few objects already, and no query is "
        "left: raise [miniature] objects_per_scene, or lower near_misses or size"
    )


def _distractor(plan: Plan, query: SceneQuery, taken: set[object], near: Scene) -> Scene:
    """A picture that no query needs, drawn against ``query``: a look-alike of ``near``, or a random scene."""
    if plan.difficulty.wants_near_miss(plan.rng):
        return look_alike_of(plan, query, taken, near)
    objects = plan.difficulty.objects_per_scene
    return _beside(plan, query, _new_scene(plan.rng, taken, lambda: random_scene(plan.rng, objects)))


def look_alike_of(plan: Plan, query: SceneQuery, taken: set[object], near: Scene) -> Scene:
    """A picture that no query needs: a look-alike whose foreground is new to the gallery.

    Args:
        plan: What it is for; its generator decides.
        query: The query that it is drawn against.
        taken: Foregrounds of the gallery; its own is added.
        near: What it looks like.

    Returns:
        The scene, mostly on the background of the query's reference.
    """
    return _beside(plan, query, _new_scene(plan.rng, taken, lambda: near.look_alike(plan.rng)))


def _new_scene(rng: Random, taken: set[object], make: Callable[[], Scene]) -> Scene:
    """A scene whose foreground is new to the gallery; further and further away once ``make`` finds none any
    more.
    """
    scene = make()
    tries = 1
    while scene.foreground in taken:
        if tries < _PATIENCE:
            scene = make()
        else:
            scene = scene.look_alike(rng) if tries < 2 * _PATIENCE else scene.near_miss(rng)
        tries += 1
    taken.add(scene.foreground)
    return scene


def _beside(plan: Plan, query: SceneQuery, scene: Scene) -> Scene:
    """``scene`` where a distractor of ``query`` stands: mostly on the reference's background."""
    drag = plan.difficulty.on_reference_background(plan.rng, _SCENES_ON_REFERENCE_BACKGROUND)
    return scene.on(query.reference.background if drag else pick_background(plan.rng))


# CIRR.


def _plan_cirr(plan: Plan, size: float) -> None:
    for split, groups in CIRR_GROUPS.items():
        taken: set[object] = set()
        names: dict[str, str] = {}
        queries: list[dict[str, object]] = []
        folder = "dev" if split == "val" else split
        for group in range(scaled(groups, size)):
            members, pairs = _cirr_group(plan, taken, group)
            keys = [f"{folder}-{group}-{index // 2}-img{index % 2}" for index in range(len(members))]
            order = plan.rng.sample(keys[:6], 6)
            for key, picture in zip(keys, members, strict=True):
                names[key] = f"./{folder}/{key}.png"
                plan.draw(f"{folder}/{key}.png", picture)
            for reference, target, text in pairs:
                queries.append(
                    cirr_entry(
                        len(queries), group, keys[reference], keys[target], text, order, split != "test1"
                    )
                )
        plan.documents[plan.root / "captions" / f"cap.rc2.{split}.json"] = queries
        plan.documents[plan.root / "image_splits" / f"split.rc2.{split}.json"] = names


def _cirr_group(plan: Plan, taken: set[object], group: int) -> tuple[list[Scene], list[tuple[int, int, str]]]:
    """A subset of six and two queries among them: (reference, target, text) by member index.

    What comes after the sixth member is in the gallery only, in no subset.
    """
    of_first, of_second = (plan.difficulty.distractors_of(group, each) for each in _CIRR_DISTRACTORS)
    while True:
        query = scene_query(plan, taken, two_edits=0.3)
        # The third member is a near miss whatever the dials say: the second query needs a pair with a text
        # between.
        members = [query.reference, query.target, look_alike_of(plan, query, taken, query.target)]
        for number in range(of_first):
            near = query.reference if number % 3 == 2 else query.target
            members.append(_distractor(plan, query, taken, near))
        pair = _second_query(plan.rng, members)
        if pair is None:
            continue
        i, j, modification = pair
        second = SceneQuery(members[i], members[j], modification)
        members += [_distractor(plan, second, taken, second.target) for _ in range(of_second)]
        return members, [(0, 1, query.modification.text), (i, j, modification.text)]


def _second_query(rng: Random, members: list[Scene]) -> tuple[int, int, Modification] | None:
    """Two of a subset's other members on different backgrounds with a text between them, by index."""
    pairs = [
        (i, j) for i in range(1, 6) for j in range(1, 6) if members[i].background != members[j].background
    ]
    for i, j in rng.sample(pairs, len(pairs)):
        modification = describe_modification(members[i], members[j], rng)
        if modification is not None:
            return i, j, modification
    return None


def cirr_entry(
    number: int, group: int, reference: str, target: str, text: str, order: list[str], has_target: bool
) -> dict[str, object]:
    """A row of a caption file of CIRR's."""
    shown: dict[str, object] = {"id": group, "members": order, "reference_rank": order.index(reference)}
    entry: dict[str, object] = {"pairid": 3 * number + 1, "reference": reference}
    if has_target:
        entry |= {"target_hard": target, "target_soft": {target: 1.0}}
        shown["target_rank"] = order.index(target)
    return entry | {"caption": text, "img_set": shown}


# FashionIQ.


def _plan_fashioniq(plan: Plan, size: float) -> None:
    for split, count in FASHIONIQ_QUERIES.items():
        for category in CATEGORIES:
            _plan_category(plan, split, category, scaled(count, size), FASHIONIQ_IMAGES[split])


def _plan_category(plan: Plan, split: str, category: str, count: int, images: int) -> None:
    rng = plan.rng
    targets, references, captions = _garment_queries(rng, category, count)
    others = _garment_distractors(plan, targets, references, (images - 2) * count)
    gallery = [*targets, *references, *others]
    if split != "train":
        plan.asked |= {garment.foreground for garment in (*targets, *references)}
    names = catalogue_names(rng, category, split, len(gallery))
    for name, garment in zip(names, gallery, strict=True):
        plan.draw(f"images/{name}.png", garment)
    entries = []
    for index, texts in enumerate(captions):
        entry: dict[str, object] = {} if split == "test" else {"target": names[index]}
        entries.append(entry | {"candidate": names[count + index], "captions": texts})
    plan.documents[plan.root / "captions" / f"cap.{category}.{split}.json"] = entries
    plan.documents[plan.root / "image_splits" / f"split.{category}.{split}.json"] = sorted(names)


def _garment_distractors(
    plan: Plan, targets: list[Garment], references: list[Garment], documented: int
) -> list[Garment]:
    """Near misses of targets and random garments, none of which is a target's kind; each drawn against one
    query.
    """
    rng, difficulty = plan.rng, plan.difficulty
    wanted = {target.foreground for target in targets}
    others: list[Garment] = []
    while len(others) < difficulty.distractors(documented, _FASHIONIQ_NEAR_MISSES):
        query = rng.choice(range(len(targets)))
        near_miss = difficulty.wants_near_miss(rng, _FASHIONIQ_NEAR_MISSES)
        other = targets[query].look_alike(rng) if near_miss else random_garment(rng, targets[query].category)
        if other.foreground not in wanted:
            others.append(other.on(_garment_background(plan, references, query)))
    return others


def _garment_background(plan: Plan, references: list[Garment], query: int) -> str:
    """Where a distractor of ``query`` stands.

    In the documented world, in half the cases where just any reference does, so that a gallery has its common
    places.
    """
    rng = plan.rng
    if not plan.difficulty.on_reference_background(rng, _GARMENTS_ON_SOME_REFERENCE_BACKGROUND):
        return pick_background(rng)
    documented = plan.difficulty.background_correlation is None
    return (rng.choice(references) if documented else references[query]).background


def _garment_queries(
    rng: Random, category: str, count: int
) -> tuple[list[Garment], list[Garment], list[list[str]]]:
    """Targets (each the only one of its kind in the gallery), references, and two shoppers' captions per
    query.
    """
    targets: list[Garment] = []
    wanted: set[object] = set()
    while len(targets) < count:
        target = random_garment(rng, category)
        # Beyond half of all kinds of garment there would be no room for references that are not targets too.
        if target.foreground not in wanted and len(wanted) < 140:
            wanted.add(target.foreground)
            targets.append(target)
        elif len(wanted) >= 140:
            targets.append(rng.choice(targets).on(pick_background(rng)))
    references: list[Garment] = []
    captions: list[list[str]] = []
    for target in targets:
        reference, texts = _garment_reference(rng, target, wanted)
        references.append(reference)
        captions.append(texts)
    return targets, references, captions


def _garment_reference(rng: Random, target: Garment, wanted: set[object]) -> tuple[Garment, list[str]]:
    while True:
        reference = target.near_miss(rng)
        if rng.random() < 0.65:
            reference = reference.near_miss(rng)
        if reference.foreground in wanted:
            continue
        reference = reference.on(pick_background(rng, other_than=target.background))
        modification = describe_modification(reference, target, rng)
        if modification is None:
            continue
        texts = list(modification.parts)
        if len(texts) == 1:
            again = describe_modification(reference, target, rng)
            texts += again.parts if again is not None else texts
        return reference, rng.sample(texts, 2)


def catalogue_names(rng: Random, category: str, split: str, count: int) -> list[str]:
    """Names that look like the shop's article numbers, unique over categories and splits of a data set."""
    prefix = (
        "B"
        + {"dress": "0D", "shirt": "0S", "toptee": "0T"}[category]
        + {"train": "T", "val": "V", "test": "X"}[split]
    )
    return [f"{prefix}{number:06d}" for number in rng.sample(range(10**6), count)]


# CIRCO.


def _plan_circo(plan: Plan, size: float) -> None:
    rng = plan.rng
    taken: set[object] = set()
    pictures: list[Scene] = []
    drafts: dict[str, list[tuple[SceneQuery, int, list[int]]]] = {}
    for split, count in CIRCO_QUERIES.items():
        drafts[split] = [_circo_query(plan, taken, pictures, index) for index in range(scaled(count, size))]
    documented = sum(
        1 + len(truths) + _CIRCO_DISTRACTORS for each in drafts.values() for _, _, truths in each
    )
    room = max(0, scaled(CIRCO_IMAGES, size, least=20) - documented)
    for _ in range(plan.difficulty.distractors(room)):
        query, _, _ = rng.choice(drafts["val"])
        near = query.target if rng.random() < 0.6 else query.reference
        pictures.append(_distractor(plan, query, taken, near))
    ids = rng.sample(range(1000, 600_000), len(pictures))
    folder = "COCO2017_unlabeled/unlabeled2017"
    for number, picture in zip(ids, pictures, strict=True):
        plan.draw(f"{folder}/{number:012d}.jpg", picture)
    order = sorted(ids)
    plan.documents[plan.root / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"] = {
        "info": {"description": "SETR miniature", "year": 2017},
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "width": SIDE, "height": SIDE}
            for number in order
        ],
        "licenses": [],
        "categories": [],
    }
    for split, queries in drafts.items():
        entries = [
            _circo_entry(index, query, reference, truths, ids, split == "val")
            for index, (query, reference, truths) in enumerate(queries)
        ]
        plan.documents[plan.root / "annotations" / f"{split}.json"] = entries


def _circo_query(
    plan: Plan, taken: set[object], pictures: list[Scene], index: int
) -> tuple[SceneQuery, int, list[int]]:
    """Adds a query's pictures, those drawn along with it included; returns it with the indices of its
    reference and of its ground truths.
    """
    rng = plan.rng
    query = scene_query(plan, taken, two_edits=0.4)
    reference = len(pictures)
    pictures.append(query.reference)
    names_background = "background" in query.modification.kinds
    truths = []
    for number in range(rng.choice((1, 2, 3, 3, 4, 5))):
        truths.append(len(pictures))
        place = query.target.background if number == 0 or names_background else pick_background(rng)
        pictures.append(query.target.on(place))
    along = plan.difficulty.distractors_of(index, _CIRCO_DISTRACTORS)
    pictures += [_distractor(plan, query, taken, query.target) for _ in range(along)]
    return query, reference, truths


def _circo_entry(
    index: int, query: SceneQuery, reference: int, truths: list[int], ids: list[int], has_targets: bool
) -> dict[str, object]:
    kinds = query.modification.kinds
    shared = " and ".join(thing.phrase() for thing in query.reference.things)
    entry: dict[str, object] = {"reference_img_id": ids[reference]}
    if has_targets:
        entry["target_img_id"] = ids[truths[0]]
    entry |= {"relative_caption": query.modification.text, "shared_concept": shared}
    if has_targets:
        entry["gt_img_ids"] = [ids[truth] for truth in truths]
    entry["id"] = index
    if has_targets:
        aspects = {_ASPECT[kind] for kind in kinds}
        aspects |= {"statement_with_conjunction"} if len(kinds) == 2 else set()
        imperative = query.modification.text.split()[0] in (
            "make",
            "add",
            "put",
            "remove",
            "replace",
            "change",
            "paint",
            "show",
        )
        aspects |= {"direct_addressing"} if imperative else set()
        entry["semantic_aspects"] = sorted(aspects)
    return entry


# Captioned training images.


def _plan_training(plan: Plan, count: int) -> None:
    lines = []
    for index, picture in enumerate(_training_pictures(plan.rng, count)):
        name = f"images/{index:06d}.png"
        plan.draw(name, picture)
        lines.append({"image": name, "caption": picture.caption()})
    plan.documents[plan.root / "captions.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines)


def _training_pictures(rng: Random, count: int) -> Iterator[AnyPicture]:
    made = 0
    while made < count:
        family = make_family(rng, min(8, count - made))
        made += len(family)
        yield from family


__all__ = [
    "WORLD_VERSION",
    "MiniatureError",
    "Plan",
    "World",
    "dataset_stamp",
    "plan_dataset",
    "write_miniature",
    "write_worlds",
]
