"""The dials of the miniature: each does what it says, as measured on planned pictures, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setr_lib.hashing import digest_json
from setr_lib.miniature import worlds
from setr_lib.miniature.difficulty import DOCUMENTED, Difficulty
from setr_lib.miniature.drawing import draw_picture
from setr_lib.miniature.families import AnyPicture
from setr_lib.miniature.garments import Garment
from setr_lib.miniature.scenes import Scene
from setr_lib.miniature.worlds import MiniatureError, Plan, plan_dataset, write_miniature
from setr_lib.progress import Progress
from setr_lib.settings import MiniatureSettings, SettingsError, load_settings

GALLERIES = ("cirr", "fashioniq", "circo")
ROOT = Path("world")
SMALL = 0.05
"""Few queries per gallery, so that a garment is seldom a near miss of a query that it was not drawn against.
"""
SEEDS = range(8)
TYPED = {"objects_per_scene": 1.25, "near_misses": 0.5, "background_correlation": 0.9}
difficulties = st.builds(
    Difficulty,
    st.floats(1, 2),
    st.floats(0, 4),
    st.none() | st.floats(0, 1),
)


@dataclass(frozen=True)
class Query:
    reference: AnyPicture
    target: AnyPicture


@dataclass(frozen=True)
class World:
    """One planned gallery with the queries whose targets its files tell."""

    queries: list[Query]
    distractors: list[AnyPicture]
    size: int
    drawn_first: list[Query]
    """Those whose reference was not drawn for another query: CIRR's second queries take what is there."""

    def near_misses_per_query(self) -> float:
        pairs = [(picture, query) for picture in self.distractors for query in self.queries]
        return sum(near(picture, query) for picture, query in pairs) / len(self.queries)

    def told_apart(self) -> list[tuple[AnyPicture, Query]]:
        """Near misses of one query only, which is therefore the one that they were drawn against."""
        found = [(each, [q for q in self.queries if near(each, q)]) for each in self.distractors]
        return [(picture, queries[0]) for picture, queries in found if len(queries) == 1]


def near(picture: AnyPicture, query: Query) -> bool:
    return one_step(picture, query.target) or one_step(picture, query.reference)


def one_step(one: AnyPicture, other: AnyPicture) -> bool:
    """Whether ``near_miss`` leads from ``other`` to ``one``."""
    if isinstance(one, Garment) and isinstance(other, Garment):
        names = ("colour", "pattern", "sleeves", "neck", "length")
        return sum(getattr(one, name) != getattr(other, name) for name in names) == 1
    if isinstance(one, Scene) and isinstance(other, Scene):
        return scene_steps(one, other)
    return False


def scene_steps(one: Scene, other: Scene) -> bool:
    if len(one.things) != len(other.things):
        few, many = sorted((one, other), key=lambda scene: len(scene.things))
        return few.things[0] in many.things
    if one.relation != other.relation:
        return one.things == other.things
    differing = [mine.differing(theirs) for mine, theirs in zip(one.things, other.things, strict=True)]
    return sum(map(len, differing)) == 1 or (one.things == other.things[::-1] and len(one.things) == 2)


def plan(name: str, difficulty: Difficulty, size: float = 0.4, seed: int = 0) -> Plan:
    return plan_dataset(name, ROOT / name, seed, size, difficulty)


@cache
def world(name: str, difficulty: Difficulty, size: float = SMALL, seed: int = 0) -> World:
    """The gallery of the val split (of FashionIQ, the dresses') with its queries."""
    planned = plan(name, difficulty, size, seed)
    pictures = {drawing.path.stem: drawing.picture for drawing in planned.drawings}
    documents: dict[str, Any] = {
        path.relative_to(planned.root).as_posix(): document for path, document in planned.documents.items()
    }
    pairs, needed, gallery = READERS[name](documents)
    queries = [Query(pictures[reference], pictures[target]) for reference, target in pairs]
    return World(
        queries,
        [pictures[image] for image in gallery if image not in needed],
        len(gallery),
        queries[::2] if name == "cirr" else queries,
    )


def read_cirr(documents: dict[str, Any]) -> tuple[list[tuple[str, str]], set[str], list[str]]:
    entries = documents["captions/cap.rc2.val.json"]
    pairs = [(entry["reference"], entry["target_hard"]) for entry in entries]
    needed = {image for pair in pairs for image in pair}
    return pairs, needed, list(documents["image_splits/split.rc2.val.json"])


def read_fashioniq(documents: dict[str, Any]) -> tuple[list[tuple[str, str]], set[str], list[str]]:
    pairs = [(e["candidate"], e["target"]) for e in documents["captions/cap.dress.val.json"]]
    return pairs, {name for pair in pairs for name in pair}, documents["image_splits/split.dress.val.json"]


def read_circo(documents: dict[str, Any]) -> tuple[list[tuple[str, str]], set[str], list[str]]:
    def stem(number: int) -> str:
        return f"{number:012d}"

    entries = documents["annotations/val.json"]
    needed = {stem(each) for e in entries for each in (e["reference_img_id"], *e["gt_img_ids"])}
    pairs = [(stem(e["reference_img_id"]), stem(e["target_img_id"])) for e in entries]
    images = documents["COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"]["images"]
    return pairs, needed, [stem(image["id"]) for image in images]


READERS = {"cirr": read_cirr, "fashioniq": read_fashioniq, "circo": read_circo}


def content(planned: Plan) -> str:
    drawings = [[each.path.as_posix(), each.picture.caption(), each.seed] for each in planned.drawings]
    return digest_json([drawings, {path.as_posix(): each for path, each in planned.documents.items()}])


DOCUMENTED_WORLDS = {
    ("cirr", 0): "0cc62acc35b6d937e1b5db51d3b55245",
    ("cirr", 7): "b80481e8cd1a92774be7f6fcb4cdeb80",
    ("fashioniq", 0): "daceb418de50a03c39996c7fc575d304",
    ("fashioniq", 7): "542de15879e0287d1fb1ef4c1048e88e",
    ("circo", 0): "c720e1872d9b6b02ff75f610ff25cca9",
    ("circo", 7): "f8a0e87bc92b4cd648f57cb36257d950",
    ("training", 0): "493dc92616c232d09e5541b196277db8",
    ("training", 7): "9e1131e9f023198e9b67970b8d9778ae",
}
"""Contents by data set and seed; where they change, ``WORLD_VERSION`` must too."""


@pytest.mark.parametrize(("name", "seed"), list(DOCUMENTED_WORLDS))
def test_at_their_defaults_the_dials_leave_the_documented_world_as_it_is(name: str, seed: int) -> None:
    scale = 1600 if name == "training" else 1.0
    assert content(plan_dataset(name, ROOT / name, seed, scale)) == DOCUMENTED_WORLDS[name, seed]


DOCUMENTED_PIXELS = {
    "cirr": "b26d489f815b8ec84bac3ef760b45762",
    "fashioniq": "ecd05af54d57c03e0c75da585b80aeae",
    "circo": "ef64e4e066cf8e7dc935abd3c26c5246",
    "training": "fd8fc8ed144104aae2fb0b33fb422397",
}
"""Digests of twenty pictures of seed 0 each, as drawn by the Pillow of the lock file."""


@pytest.mark.parametrize("name", list(DOCUMENTED_PIXELS))
def test_the_documented_pictures_are_drawn_pixel_for_pixel(name: str) -> None:
    drawings = plan_dataset(name, ROOT / name, 0, 1600 if name == "training" else 1.0).drawings
    some = drawings[:: len(drawings) // 20]
    pixels = [draw_picture(each.picture, Random(each.seed)).tobytes().hex() for each in some]
    assert digest_json(pixels) == DOCUMENTED_PIXELS[name]


def test_the_settings_default_to_the_documented_world() -> None:
    options = MiniatureSettings()
    dials = Difficulty(options.objects_per_scene, options.near_misses, options.background_correlation)
    assert dials == DOCUMENTED


@pytest.mark.parametrize("name", ["cirr", "circo"])
@pytest.mark.parametrize("objects", [1.0, 1.3, 2.0])
def test_references_show_as_many_objects_as_the_dial_says(name: str, objects: float) -> None:
    counts = [
        len(query.reference.things)
        for seed in range(3)
        for query in world(name, Difficulty(objects_per_scene=objects), 0.4, seed).drawn_first
        if isinstance(query.reference, Scene)
    ]
    assert sum(counts) / len(counts) == pytest.approx(objects, abs=0 if objects in (1, 2) else 0.12)


def mean_near_misses(name: str, near_misses: float) -> float:
    difficulty = Difficulty(near_misses=near_misses)
    return mean([world(name, difficulty, seed=seed).near_misses_per_query() for seed in SEEDS])


def gallery_sizes(name: str, near_misses: float) -> list[int]:
    return [world(name, Difficulty(near_misses=near_misses), seed=seed).size for seed in SEEDS]


@pytest.mark.parametrize("name", GALLERIES)
def test_fewer_near_misses_leave_room_for_random_pictures_in_a_gallery_of_the_same_size(name: str) -> None:
    assert gallery_sizes(name, 0) == gallery_sizes(name, 0.5) == gallery_sizes(name, 1)
    none, half, documented = (mean_near_misses(name, dial) for dial in (0, 0.5, 1))
    assert none < 0.6 * documented, "what is left are near misses by chance"
    assert half == pytest.approx((none + documented) / 2, rel=0.25)


@pytest.mark.parametrize("name", GALLERIES)
def test_more_near_misses_than_there_is_room_for_are_added(name: str) -> None:
    assert all(many > few for many, few in zip(gallery_sizes(name, 2), gallery_sizes(name, 1), strict=True))
    # Where near misses take all the room, so that none of the random pictures that are near by chance is
    # left.
    few, more, many = (mean_near_misses(name, dial) for dial in (1.2, 2, 2.8))
    assert more - few > 0.3 * few
    assert many - more == pytest.approx(more - few, rel=0.4), (
        "less where a scene has no more kinds of look-alikes"
    )


@pytest.mark.parametrize("near_misses", [0.0, 1.0, 1.5, 4.0])
def test_cirr_subsets_stay_at_six_of_the_gallery(near_misses: float) -> None:
    planned = plan("cirr", Difficulty(near_misses=near_misses))
    documents = {path.name: document for path, document in planned.documents.items()}
    gallery: Any = documents["split.rc2.val.json"]
    entries: Any = documents["cap.rc2.val.json"]
    for entry in entries:
        members = set(entry["img_set"]["members"])
        assert len(members) == 6
        assert {entry["reference"], entry["target_hard"]} <= members <= set(gallery)
    assert len(gallery) == 60 * 13 + round(60 * 10 * max(0, near_misses - 1))


def share_on_reference_background(name: str, correlation: float) -> float:
    # Twice the near misses leave no room for random pictures, so that each tells which query it was drawn
    # against.
    difficulty = Difficulty(near_misses=2, background_correlation=correlation)
    told = [pair for seed in SEEDS for pair in world(name, difficulty, seed=seed).told_apart()]
    assert len(told) > 80
    return mean([picture.background == query.reference.background for picture, query in told])


@pytest.mark.parametrize("name", GALLERIES)
def test_near_misses_stand_where_the_reference_does_as_often_as_the_dial_says(name: str) -> None:
    none, half, all_of_them = (share_on_reference_background(name, dial) for dial in (0, 0.5, 1))
    assert none < 0.2, "chance is one in ten"
    assert half == pytest.approx(0.55, abs=0.12)
    assert all_of_them > 0.97


@pytest.mark.parametrize("name", GALLERIES)
@pytest.mark.parametrize("correlation", [0.0, 1.0])
def test_the_target_never_stands_where_the_reference_does(name: str, correlation: float) -> None:
    for query in world(name, Difficulty(background_correlation=correlation)).queries:
        assert query.target.background != query.reference.background


@settings(max_examples=25)
@given(difficulties, st.integers(0, 2**32), st.sampled_from(GALLERIES))
def test_whatever_the_dials_say_no_distractor_is_an_answer(
    difficulty: Difficulty, seed: int, name: str
) -> None:
    gallery = world(name, difficulty, seed=seed)
    answers = {query.target.foreground for query in gallery.queries}
    assert not answers & {picture.foreground for picture in gallery.distractors}


def test_where_scenes_of_one_object_run_out_the_message_names_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worlds, "_QUERY_TRIES", 20)
    monkeypatch.setattr(worlds, "_PATIENCE", 50)
    with pytest.raises(MiniatureError, match="objects_per_scene"):
        plan("cirr", Difficulty(objects_per_scene=1, near_misses=4), size=3)


def test_a_random_stream_is_not_touched_where_the_answer_is_certain() -> None:
    rng = Random(0)
    before = rng.getstate()
    assert Difficulty(near_misses=2).wants_near_miss(rng)
    assert rng.getstate() == before


# Stamps.


@pytest.fixture
def redrawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the data sets that were to be drawn; nothing is."""
    names: list[str] = []

    def note(plan: Plan, pool: object, progress: Progress) -> None:
        names.append(plan.name)

    monkeypatch.setattr(worlds, "_carry_out", note)
    return names


def test_a_turned_dial_redraws_what_it_concerns_and_nothing_else(tmp_path: Path, redrawn: list[str]) -> None:
    def write(difficulty: Difficulty) -> list[str]:
        redrawn.clear()
        assert write_miniature(tmp_path, 1, 0.02, 8, processes=1, difficulty=difficulty) == bool(redrawn)
        return list(redrawn)

    assert write(DOCUMENTED) == ["cirr", "fashioniq", "circo", "training"]
    assert write(DOCUMENTED) == []
    for dial, value in TYPED.items():
        concerned = ["cirr", "circo"] if dial == "objects_per_scene" else ["cirr", "fashioniq", "circo"]
        turned = replace(DOCUMENTED, **{dial: value})
        assert write(turned) == concerned
        assert write(turned) == []
        assert write(DOCUMENTED) == concerned


def test_the_stamp_of_the_documented_world_names_no_dial(tmp_path: Path, redrawn: list[str]) -> None:
    write_miniature(tmp_path, 1, 0.02, 8)
    assert set(json.loads((tmp_path / "cirr" / "miniature.json").read_text())) == {"version", "seed", "size"}
    assert redrawn


# In the settings.


def test_dials_come_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "setr.toml"
    path.write_text("[miniature]\nnear_misses = 3\n", encoding="utf-8")
    for dial, value in TYPED.items():
        monkeypatch.setenv(f"SETR_MINIATURE__{dial.upper()}", str(value))
    options = load_settings(path).miniature
    assert {dial: getattr(options, dial) for dial in TYPED} == TYPED


@pytest.mark.parametrize(
    ("dial", "value"),
    [
        ("objects_per_scene", "0.5"),
        ("objects_per_scene", "3"),
        ("near_misses", "-1"),
        ("near_misses", "inf"),
        ("background_correlation", "1.5"),
        ("background_correlation", "nan"),
    ],
)
def test_a_dial_turned_too_far_is_named(tmp_path: Path, dial: str, value: str) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(f"[miniature]\n{dial} = {value}\n", encoding="utf-8")
    with pytest.raises(
        SettingsError, match=rf"miniature\.{dial}: (write a finite number|it has to be at (most|least))"
    ):
        load_settings(path)
