"""The comparison of trained systems: what was trained once is kept, and claims are read off intervals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from tiny_encoder import write_tiny_clip

from benchmarks.compare import TRAINED
from benchmarks.comparison import Gap
from benchmarks.material import MEASURED
from benchmarks.pages import kept, section_of, with_section
from benchmarks.trained_ablations import Laboratory
from benchmarks.trained_claims import Key, Study, verdict
from benchmarks.trained_page import section
from benchmarks.trained_results import JUDGED, STAGE_1, Measured, Results
from benchmarks.trained_worlds import World, world_settings
from setr_lib.miniature.worlds import write_miniature
from setr_lib.pipeline.ablation import ABLATION_TAG, Ablation, train_ablation
from setr_lib.progress import silent
from setr_lib.settings import Settings, load_settings
from setr_lib.systems.data import SystemData

SETTINGS = """
[datasets.cirr]
kind = "cirr"
root = "data/cirr"
splits = ["val"]

[training]
captions = "data/training/captions.jsonl"

[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"
batch_size = 4

[coarse]
strategies = ["text", "sum", "prompt_tuned"]
caption_strategies = []
default = "sum"
top_k = 10

[reranking]
rerankers = []

[reranking.pairs]
groups = 20

[evaluation]
bootstrap_samples = 100

[systems.prompt_tuned]
steps = 2
batch_size = 4
"""
OTHER_RATE = Ablation("prompt_tuned: another rate", "prompt_tuned", {"learning_rate": 0.5})
AS_CONFIGURED = Ablation("prompt_tuned: as configured", "prompt_tuned")
NOISY = Ablation("prompt_tuned: noisy", "prompt_tuned", shuffled=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("world")
    write_miniature(made / "data", seed=1, size=0.02, training_images=48, processes=1)
    write_tiny_clip(made / "clip")
    (made / "setr.toml").write_text(SETTINGS, encoding="utf-8")
    return made


def prepared(settings: Settings) -> World:
    world = World(settings, False, lambda words: None, silent)
    world.prepare()
    return world


def runs_of(world: World) -> list[dict[str, str]]:
    """The tags of every MLflow run."""
    registry = world.context.registry
    found = registry.client.search_runs([registry.found_experiment().experiment_id])
    return [dict(run.data.tags) for run in found]


def test_an_ablation_is_a_run_and_no_version(folder: Path) -> None:
    world = prepared(load_settings(folder / "setr.toml"))
    first = train_ablation(world.context, OTHER_RATE)
    again = train_ablation(world.context, OTHER_RATE)
    noisy = train_ablation(world.context, NOISY)
    assert not first.result.reused
    assert again.result.reused
    assert again.run_id == first.run_id
    assert again.result.ranks == first.result.ranks
    assert noisy.result.run != first.result.run
    tags = Counter(tags[ABLATION_TAG] for tags in runs_of(world))
    assert tags == {OTHER_RATE.name: 1, NOISY.name: 1}
    run = world.context.registry.client.get_run(first.run_id)
    assert run.inputs is not None
    inputs = {data.dataset.name for data in run.inputs.dataset_inputs}
    words = first.system.trained_on().source
    assert inputs == {f"images of {words}", f"triplets of {words}"}
    assert world.context.registry.model("setr-prompt-tuned").versions() == []


def test_the_model_of_an_ablation_is_what_was_trained(folder: Path) -> None:
    import torch

    world = prepared(load_settings(folder / "setr.toml"))
    done = train_ablation(world.context, OTHER_RATE)
    trained, untrained = done.model().state_dict(), done.system.untrained().state_dict()
    assert trained.keys() == untrained.keys()
    assert any(not torch.equal(trained[name], untrained[name]) for name in trained)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_second_call_trains_nothing(folder: Path) -> None:
    settings = load_settings(folder / "setr.toml")
    stored, world, same = [], prepared(settings), None
    for _ in range(2):
        world = prepared(settings)
        world.train()
        world.rank(timed=True)
        Laboratory(world).run(OTHER_RATE)
        same = Laboratory(world).run(AS_CONFIGURED)
        versions = [one.version for one in world.context.registry.model("setr-prompt-tuned").versions()]
        files = sorted(world.results.folder.iterdir())
        stored.append((versions, len(runs_of(world)), [(file, file.stat().st_mtime_ns) for file in files]))
    assert stored[0] == stored[1]
    assert stored[0][0] == ["1"]
    rows = world.results.of(STAGE_1)
    assert set(rows) == {"text", "sum", "prompt_tuned"}
    facts = rows["prompt_tuned"].facts
    assert (facts["model"], facts["version"]) == ("setr-prompt-tuned", "1")
    assert "setr-prompt-tuned" in facts["versions"] or facts["versions"] == "1"
    assert facts["parameters"] > 0
    order = ["query_id", "metric"]
    assert same is not None
    assert same.per_query.sort(order).equals(rows["prompt_tuned"].per_query.sort(order))
    tags = [tags.get(ABLATION_TAG) for tags in runs_of(world)]
    assert AS_CONFIGURED.name not in tags, "the registered training is taken as it is"
    assert "version" not in rows["sum"].facts
    assert set(rows["sum"].facts["ms"]) == {"cirr"}


def test_other_worlds_are_in_folders_of_their_own(tmp_path: Path) -> None:
    text = SETTINGS.replace('"data/', '"var/miniature/')
    (tmp_path / "setr.toml").write_text(text, encoding="utf-8")
    settings = load_settings(tmp_path / "setr.toml")
    other = world_settings(settings, 1)
    assert world_settings(settings, 0) == settings
    assert other.miniature.seed == 1
    assert other.storage_root != settings.storage_root
    assert other.datasets["cirr"].root == other.miniature_root / "cirr"
    assert other.training.captions == other.miniature_root / "training" / "captions.jsonl"
    assert other.tracking_uri != settings.tracking_uri


def per_query(values: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "query_id": [f"q{number}" for number in range(len(values))],
            "stratum": "",
            "metric": "R@10",
            "value": values,
            "dataset": "cirr",
        }
    )


def test_the_worlds_queries_are_pooled() -> None:
    a, b = Key(STAGE_1, "a"), Key(STAGE_1, "b")
    worlds = {
        seed: {
            a: Measured(STAGE_1, "a", "", per_query(first)),
            b: Measured(STAGE_1, "b", "", per_query([0.0, 0.0, 0.0, 0.0])),
        }
        for seed, first in ((0, [1.0, 1.0, 1.0, 1.0]), (1, [1.0, 1.0, 0.0, 0.0]))
    }
    study = Study(worlds, 200, 0)
    gap = study.gap(a, b, "cirr")
    assert gap is not None
    assert gap.value == pytest.approx(75.0)  # six of eight, not 100 or 50
    assert 25 < gap.low < 75 <= gap.high
    del worlds[1][b]
    alone = study.gap(a, b, "cirr")
    assert alone is not None
    assert alone.value == pytest.approx(100.0)  # of the world that has both
    assert study.seeds(a, b) == [0]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ([(1, 2), (0.5, 3)], "**shows**"),
        ([(1, 2), (-1, 3)], "**shows** on CIRR only"),
        ([(1, 2), (-3, -1)], "**shows** on CIRR only; the other way round on FashionIQ"),
        ([(-1, 2), (0, 3)], "**does not show**"),
        ([(-3, -2), (-1, 3)], "**does not show**; the other way round on CIRR"),
    ],
)
def test_a_claim_shows_where_intervals_are_above_zero(bounds: list[tuple[float, float]], words: str) -> None:
    gaps = {
        kind: Gap("", (low + high) / 2, low, high)
        for kind, (low, high) in zip(("cirr", "fashioniq"), bounds, strict=True)
    }
    assert verdict(gaps) == words


def test_nothing_measured_is_no_verdict() -> None:
    assert verdict({}) == "not measured"


def test_results_are_found_by_what_they_are_of(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.store(Measured(STAGE_1, "a: b", "one", per_query([1.0]), {"version": "3"}))
    found = results.find(STAGE_1, "a: b", "one")
    assert found is not None
    assert found.facts == {"version": "3"}
    assert found.per_query.equals(per_query([1.0]))
    assert results.find(STAGE_1, "a: b", "two") is None
    assert results.find(STAGE_1, "a", "one") is None


def test_two_programs_share_a_page() -> None:
    page = with_section("# Page\n", TRAINED, "old")
    page = with_section(page, TRAINED, r"new \1")
    assert section_of(page, TRAINED).count("new") == 1
    assert "old" not in page
    assert page.startswith("# Page\n")
    again = kept("# Other\n", page, TRAINED)
    assert again.startswith("# Other\n")
    assert section_of(again, TRAINED) == section_of(page, TRAINED)
    assert kept("# Other\n", "# Page\n", TRAINED) == "# Other\n"


def test_texts_are_shuffled_among_training_triplets_alone() -> None:
    rows = [("train", f"r{n}", f"text {n}", f"t{n}") for n in range(40)]
    rows += [("held_out", f"h{n}", f"held {n}", f"g{n}") for n in range(10)]
    columns = ["split", "reference_id", "modification", "target_id"]
    triplets = pl.DataFrame(rows, schema=columns, orient="row").sample(fraction=1, shuffle=True, seed=3)
    data = SystemData("synthesised", triplets, pl.DataFrame())
    noisy = data.with_shuffled_texts(0.3, seed=13)
    changed = triplets["modification"] != noisy.triplets["modification"]
    assert changed.sum() == 12  # of distinct texts, every chosen one moves
    assert set(triplets.filter(changed)["split"]) == {"train"}
    assert sorted(noisy.triplets["modification"]) == sorted(triplets["modification"])
    assert noisy.triplets.drop("modification").equals(triplets.drop("modification"))
    assert noisy.triplets.equals(data.with_shuffled_texts(0.3, seed=13).triplets)
    assert not noisy.triplets.equals(data.with_shuffled_texts(0.3, seed=14).triplets)
    assert data.with_shuffled_texts(0.0, seed=13).triplets.equals(triplets)


def of_sets(values: list[float]) -> pl.DataFrame:
    """The same values on every data set, in every metric that is compared."""
    return pl.concat(
        per_query(values).with_columns(dataset=pl.lit(kind), metric=pl.lit(metric))
        for kind, metrics in MEASURED.items()
        for metric in metrics
    )


def stage_1(name: str, values: list[float], **facts: object) -> tuple[Key, Measured]:
    told = {"labels": dict.fromkeys(MEASURED, "zero-shot; 4 queries"), "ms": {}, "random": {}, **facts}
    told["gallery"] = {"space": "clip", "bytes": 2**20}
    return Key(STAGE_1, name), Measured(STAGE_1, name, "", of_sets(values), told)


def test_the_section_names_versions_and_says_what_does_not_show() -> None:
    made = {"model": "setr-composing", "version": "4", "before": 10.0, "after": 20.0}
    rows = dict(
        [
            stage_1("text", [0.0] * 4),
            stage_1("sum", [0.0] * 4),
            stage_1("mapping", [1.0] * 4, **{**made, "model": "setr-mapping"}),
            stage_1("composing", [1.0] * 4, **made),
            stage_1("pic2word", [0.0] * 4, **{**made, "model": "setr-pic2word"}),
        ]
    )
    for reranker, value in (("", 0.0), ("base judge", 1.0)):
        title = f"mapping · {reranker}" if reranker else "mapping"
        facts = {"method": "mapping", "reranker": reranker}
        rows[Key(JUDGED, title)] = Measured(JUDGED, title, "", of_sets([value] * 4), facts)
    text = section(Study({0: rows}, 100, 0), "", 5)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if " | " in line}
    assert "| setr-composing v4 | zero-shot | 10.0 → 20.0 | 100.0" in text
    assert "**shows** |" in lines["`mapping` over `pic2word`"]
    assert "**does not show** |" in lines["`composing` over `mapping`"]
    assert "not measured" in lines["adapters over LoRA"]
    assert "one hit in 6,016 queries where about 12 are expected" in text
    judged = next(line for line in text.splitlines() if line.startswith("| `mapping` | base judge |"))
    assert judged.count("+100.0 (+100.0 to +100.0)") == 3
    assert "+100.0 (+100.0 to +100.0)" in lines["`mapping` over `pic2word`"]
