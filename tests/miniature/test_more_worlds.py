"""GeneCIS, i-CIR and LaSCo of the miniature: the official layouts, drawn where settings name them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from setr_lib.cli import main
from setr_lib.datasets import evaluation_set, evaluation_sets, load_gallery, load_queries
from setr_lib.miniature import worlds
from setr_lib.miniature.source import Miniature
from setr_lib.progress import silent
from setr_lib.settings import Settings

SIZE = 0.15
NAMES = ("genecis", "icir", "lasco")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("more")
    config = folder / "setr.toml"
    sections = [f'[datasets.{name}]\nroot = "var/miniature/{name}"\n' for name in NAMES]
    config.write_text(
        "\n".join(sections) + f"[miniature]\nseed = 3\nsize = {SIZE}\n[coarse]\ntop_k = 100\n",
        encoding="utf-8",
    )
    Miniature(settings_of(folder)).prepare_more(NAMES, silent)
    yield config


def settings_of(folder: Path, *names: str) -> Settings:
    datasets = {name: {"kind": name, "root": f"var/miniature/{name}"} for name in names or NAMES}
    miniature = {"seed": 3, "size": SIZE, "training_images": 16}
    return Settings.model_validate({"base_dir": folder, "datasets": datasets, "miniature": miniature})


def test_doctor_reads_all_of_them_and_finds_every_image(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--config", str(config), "doctor", "--json"])
    sets = json.loads(capsys.readouterr().out)["evaluation_sets"]
    assert {each["dataset"] for each in sets} == set(NAMES)
    for each in sets:
        assert each["problems"] == [], each["key"]
        assert (each["counts_of"], each["images"]["coverage"]) == ("miniature", 1.0), each["key"]


def test_candidates_are_as_many_as_in_the_official_files(config: Path) -> None:
    settings = settings_of(config.parent)
    for each in evaluation_sets(settings):
        if each.dataset != "genecis":
            continue
        queries, gallery = load_queries(settings, each.key), load_gallery(settings, each.key)
        sizes = dict(gallery["galleries"].explode().value_counts().iter_rows())
        wanted = 10 if each.split == "focus_attribute" else 15
        assert {sizes[query] for query in queries["query_id"]} == {wanted}, each.key
        assert not each.benchmark.caveats(each)


def test_icir_databases_hold_right_images_near_misses_and_not_the_reference(config: Path) -> None:
    settings = settings_of(config.parent)
    queries, gallery = load_queries(settings, "icir"), load_gallery(settings, "icir")
    assert queries["target_ids"].list.len().eq(2).all()
    sizes = dict(gallery["galleries"].explode().drop_nulls().value_counts().iter_rows())
    assert set(sizes.values()) == {3 * 2 + 7 + 8}
    assert not set(queries["reference_id"]) & set(
        gallery.filter(pl.col("galleries").list.len() > 0)["image_id"]
    )


def candidates(settings: Settings, key: str) -> dict[str, list[str]]:
    """Gallery name -> its images, sorted: an order that knows nothing of targets."""
    frame = load_gallery(settings, key).explode("galleries").drop_nulls("galleries").sort("image_id")
    return {str(name): group["image_id"].to_list() for (name,), group in frame.group_by("galleries")}


def score(config: Path, key: str, lists: dict[str, list[str]], capsys: Any) -> dict[str, float]:
    """Metric -> percent."""
    evaluated = evaluation_set(settings_of(config.parent), key)
    file = config.parent / "mine.json"
    file.write_text(json.dumps(lists), encoding="utf-8")
    split = ["--split", evaluated.split]
    assert main(["--config", str(config), "score", evaluated.dataset, *split, str(file), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return {row["metric"]: row["value"] for row in rows}


@pytest.mark.parametrize(
    ("key", "metric", "chance"),
    [
        ("genecis-change_object", "R@1", 100 / 15),
        ("genecis-change_attribute", "R@1", 100 / 15),
        ("genecis-focus_object", "R@1", 100 / 15),
        ("genecis-focus_attribute", "R@1", 100 / 10),
        ("icir", "mAP", 18),
        ("lasco-val", "R@5", 500 / 40),
    ],
)
def test_a_perfect_ranking_gets_everything_and_a_random_one_about_what_chance_gets(
    config: Path, key: str, metric: str, chance: float, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, rng = settings_of(config.parent), Random(0)
    queries, pools = load_queries(settings, key), candidates(settings, key)
    perfect, shuffled = {}, {}
    for row in queries.iter_rows(named=True):
        pool = pools[row["gallery"]]
        perfect[row["query_id"]] = sorted(pool, key=lambda image: image not in row["target_ids"])
        shuffled[row["query_id"]] = rng.sample(pool, len(pool))
    assert score(config, key, perfect, capsys)[metric] == pytest.approx(100, abs=0.01)
    # Few queries: a hit more or less is worth many points.
    assert score(config, key, shuffled, capsys)[metric] == pytest.approx(chance, abs=35)


def test_they_are_drawn_where_settings_name_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(worlds, "_carry_out", lambda plan, *_: names.append(plan.name))
    Miniature(settings_of(tmp_path, "icir")).prepare(silent)
    assert names == ["cirr", "fashioniq", "circo", "training", "icir"]
