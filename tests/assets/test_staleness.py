"""What Dagster calls stale: after a change of a prompt, a model, a setting or the champion exactly what
depends on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from pydantic import BaseModel
from tiny_world import run_job, tables, write_world

from setr_assets.champion import CHAMPION, FUSION
from setr_assets.code_versions import NOT_READ, CodeVersions, When, keys_behind, reads_of
from setr_assets.definitions import blueprints, build_definitions
from setr_assets.jobs import EVALUATION, FULL_PIPELINE
from setr_assets.partitions import range_tags
from setr_assets.progress import listening
from setr_assets.state import state_in
from setr_lib.cli import main
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import (
    CoarseSettings,
    DatasetSettings,
    Section,
    Settings,
    SpaceSettings,
    load_settings,
)

KEYS = ["cirr-val", "fashioniq-val"]
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
OUTSIDE = {CHAMPION, FUSION}
"""What is observed, never made."""


def changed(settings: Settings, key: str, value: object) -> Settings:
    """``settings`` with ``key`` (``coarse.top_k``) set to ``value``."""
    section, _, name = key.rpartition(".")
    if not section:
        return settings.model_copy(update={name: value})
    old: Any = settings
    for part in section.split("."):
        old = old[part] if isinstance(old, dict) else getattr(old, part)
    new = {**old, name: value} if isinstance(old, dict) else old.model_copy(update={name: value})
    return changed(settings, section, new)


class Reader:
    """A listener of runs that notes which settings each asset looks up while it runs."""

    def __init__(self, settings: Settings) -> None:
        self.read: dict[str, set[str]] = {}
        self._step = ""
        self._places: dict[int, str] = {}
        for name in Settings.model_fields:
            self._find(getattr(settings, name), name)

    def _find(self, value: object, place: str) -> None:
        if isinstance(value, dict):
            for each in value.values():
                self._find(each, f"{place}.*")
        elif isinstance(value, Section):
            self._places[id(value)] = place
            for name in type(value).model_fields:
                self._find(getattr(value, name), f"{place}.{name}")

    def looked_up(self, section: Section, name: str, value: object) -> None:
        if self._step and id(section) in self._places and name in type(section).model_fields:
            key = f"{self._places[id(section)]}.{name}"
            if not isinstance(value, Section):
                self.read.setdefault(self._step, set()).add(key)

    def started(self, step: str) -> None:
        self._step = step

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None: ...

    def said(self, step: str, text: str, warning: bool) -> None: ...

    def finished(self, step: str, seconds: float, succeeded: bool) -> None:
        self._step = ""


@dataclass
class World:
    """A tiny world after one full run on an instance of its own."""

    settings: Settings
    instance: dg.DagsterInstance
    reader: Reader = field(repr=False)

    def run(self, settings: Settings, *assets: str, keys: list[str] | None = None, **config: Any) -> None:
        """Materialise ``assets`` (all without any) of ``keys`` in one run."""
        result = (
            build_definitions(settings)
            .resolve_job_def(FULL_PIPELINE)
            .execute_in_process(
                instance=self.instance,
                tags=range_tags(keys or KEYS),
                asset_selection=[dg.AssetKey(each) for each in assets] or None,
                run_config={**QUIET, **config},
            )
        )
        assert result.success

    def stale(self, settings: Settings) -> set[str]:
        """Assets of which a partition is stale by Dagster's own judgement; a partial one as ``asset:
        partition``.
        """
        graph = build_definitions(settings).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        found: set[str] = set()
        for key in graph.get_all_asset_keys():
            partitions = KEYS if graph.get(key).is_partitioned else [None]
            status = {each: resolver.get_status(key, each) for each in partitions}
            assert StaleStatus.MISSING not in status.values(), key
            old = [each for each, value in status.items() if value is StaleStatus.STALE]
            name = key.to_user_string()
            found |= {name} if len(old) == len(partitions) else {f"{name}: {each}" for each in old}
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("staleness")
    path = write_world(folder)
    from setr_lib.texts.folders import BUILT_IN

    shutil.copytree(BUILT_IN / "miniature", folder / "prompts")
    path.write_text(path.read_text().replace('prompts = "miniature"', 'prompts = "prompts"'))
    settings = load_settings(path)
    (home := folder / "dagster").mkdir()
    reader, original = Reader(settings), Section.__getattribute__

    def getattribute(self: Section, name: str) -> Any:
        value = original(self, name)
        if not name.startswith("_"):
            reader.looked_up(self, name, value)
        return value

    with (
        dg.DagsterInstance.local_temp(str(home), {"telemetry": {"enabled": False}}) as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        made = World(settings, instance, reader)
        patch.setattr(Section, "__getattribute__", getattribute)
        with listening(reader):
            made.run(settings)
        patch.undo()
        yield made


@pytest.fixture
def prompt(world: World) -> Iterator[Callable[[str, str], None]]:
    """Appends to a prompt file of the world; afterwards all are as they were."""
    folder = world.settings.base_dir / "prompts"
    before = {path: path.read_text() for path in folder.iterdir()}

    def append(name: str, text: str) -> None:
        path = folder / name
        path.write_text((path.read_text() if path.exists() else before[folder / "describe.jinja"]) + text)

    yield append
    for path in folder.iterdir():
        if path in before:
            path.write_text(before[path])
        else:
            path.unlink()


def test_nothing_is_stale_after_a_full_run(world: World) -> None:
    assert world.stale(world.settings) == set()


def test_changed_prompt_makes_what_reads_it_stale(world: World, prompt: Callable[[str, str], None]) -> None:
    prompt("describe.fashioniq.jinja", " Mind the colours.")
    assert world.stale(world.settings) == {"reference_captions"}


READERS = {
    "describe.jinja": {"reference_captions"},
    "compose.jinja": {"query_compositions", "reranking_fusion"},
    "judge.jinja": {"reranked_rankings", "reranker_adapter", "reranking_fusion"},
    "judge.fashioniq.jinja": set(),  # the judge has one prompt for all data sets
    "yes_no.jinja": set(),
}


@pytest.mark.parametrize("file", READERS)
def test_changed_prompt_changes_the_code_versions_of_what_reads_it(
    world: World, prompt: Callable[[str, str], None], file: str
) -> None:
    before = versions(world.settings)
    prompt(file, "{# another #}")
    after = versions(world.settings)
    assert {name for name in before if before[name] != after[name]} == READERS[file]


JUDGED = {"reference_captions", "query_compositions", "reranker_adapter", "promoted_reranker"}
JUDGED |= {"reranking_fusion", "reranked_rankings"}
ENCODED = {
    "gallery_embeddings",
    "training_embeddings",
    "coarse_rankings",
    "reranker_pairs",
    "reranking_fusion",
}
EXAMPLES: dict[str, set[str]] = {
    "datasets.fashioniq.gallery": {"gallery_images", "evaluation_report"},
    "training.captions": {"training_images"},
    "models.encoder.name": ENCODED,
    "models.judge.name": JUDGED,
    "coarse.default": {"reranked_rankings", "reranking_fusion"},
    "methods": {"coarse_rankings", "reranking_fusion"},
    "reranking.top_k": {"reranked_rankings", "reranking_fusion"},
    "reranking.methods": {"reranked_rankings", "reranking_fusion"},
    "reranking.rerankers": {"reranked_rankings", "reranking_fusion"},
    "reranking.adapter.rank": {"reranker_adapter"},
    "evaluation.limit": {"queries"},
}
"""Which assets some changes concern, written out: of every part of the graph one."""


def test_changed_settings_concern_what_is_written_here(world: World) -> None:
    for key, readers in EXAMPLES.items():
        assert differing(world.settings, changed(world.settings, key, CHANGES[key])) == readers, key


@pytest.mark.parametrize("key", ["models.judge.name", "datasets.fashioniq.gallery", "evaluation.limit"])
def test_changed_setting_makes_what_reads_it_stale(world: World, key: str) -> None:
    assert world.stale(changed(world.settings, key, CHANGES[key])) == EXAMPLES[key]


@pytest.mark.parametrize("key", ["models.judge.name", "datasets.fashioniq.gallery", "evaluation.limit"])
def test_status_calls_stale_what_dagster_does_and_what_follows_it(world: World, key: str) -> None:
    settings = changed(world.settings, key, CHANGES[key])
    known = state_in(settings, world.instance)
    steps = [*known.shared, *(step for each in KEYS for step in known.sets[each])]
    reasons = {
        step.step: {why for why in step.why.split("; ") if why} for step in steps if step.state == "stale"
    }
    own = {name for name, whys in reasons.items() if any(not why.endswith(" is stale") for why in whys)}
    assert own == world.stale(settings)
    assert own < set(reasons) or own == {"evaluation_report"}, "what follows is not current either"
    assert not any(step.state == "missing" for step in steps)
    assert {step.state for step in known.sets["cirr-test1"]} == {"missing"}


# Every setting that some asset reads, and another value for it.
CHANGES: dict[str, object] = {
    "datasets.fashioniq.gallery": "val",
    "datasets.cirr.rerank_top_k": 3,
    "training.captions": Path("others.jsonl"),
    "training.image_root": Path("elsewhere"),
    "training.triplets": Path("triplets.jsonl"),
    "training.dataset": "cirr",
    "training.background": "#000000",
    "training.upright": False,
    "datasets.cirr.background": "#ffffff",
    "datasets.cirr.upright": True,
    "images.max_pixels": 1000,
    "models.encoder.name": "ViT-B-32",
    "models.encoder.pretrained": "laion2b",
    "models.judge.name": "Qwen/Qwen3-VL-2B-Instruct",
    "models.judge.revision": "abc",
    "models.judge.dtype": "bfloat16",
    "models.judge.prompts": "standard",
    "models.judge.max_new_tokens": 9,
    "models.judge.endpoint.model": "big",
    "models.reranker.name": "Qwen/Qwen3-VL-Reranker-8B",
    "models.reranker.revision": "abc",
    "models.reranker.dtype": "bfloat16",
    "models.reranker.instruction": "Find it.",
    "coarse.strategies": ["union_text", "intersection"],
    "coarse.default": "sum",
    "coarse.top_k": 9,
    "coarse.anchor_share": 0.2,
    "coarse.caption_strategies": ["captions_text"],
    "coarse.caption_default": "captions_text",
    "reranking.methods": ["intersection", "sum"],
    "reranking.rerankers": ["base judge"],
    "reranking.top_k": 5,
    "reranking.fusion": "judge",
    "reranking.judge_weight": 2.0,
    "reranking.pairs.groups": 10,
    "reranking.pairs.held_out_share": 0.3,
    "reranking.pairs.negatives_per_group": {"coarse_negative": 1},
    "reranking.pairs.near_duplicate_cosine": 0.9,
    "reranking.pairs.writer": "model",
    "reranking.pairs.seed": 8,
    "reranking.adapter.rank": 4,
    "reranking.adapter.alpha": 8,
    "reranking.adapter.dropout": 0.1,
    "reranking.adapter.target_modules": ["q_proj"],
    "reranking.adapter.learning_rate": 0.1,
    "reranking.adapter.warmup_share": 0.1,
    "reranking.adapter.weight_decay": 0.1,
    "reranking.adapter.epochs": 2.0,
    "reranking.adapter.groups_per_batch": 2,
    "reranking.adapter.seed": 12,
    "evaluation.bootstrap_samples": 200,
    "evaluation.seed": 6,
    "evaluation.baselines": ["text"],
    "evaluation.caption_baselines": ["captions_text"],
    "evaluation.shown": ["sum"],
    "evaluation.contact_sheet_queries": 2,
    "evaluation.limit": 1,
    "registry.model": "other",
    "methods": {"intersection": {"share": 0.5}},
    "spaces": {"other": SpaceSettings(kind="open_clip", options={"name": "ViT-B-32"})},
}


def versions(settings: Settings) -> dict[str, str]:
    """The code version of every asset."""
    found = CodeVersions(settings)
    return {each.name: found.version(each.number, each.reads) for each in blueprints()}


def differing(one: Settings, other: Settings) -> set[str]:
    """Assets whose code versions are not the same with both settings."""
    before, after = versions(one), versions(other)
    return {name for name in before if before[name] != after[name]}


def general(key: str) -> str:
    """``key`` as declarations write it: ``datasets.*.gallery`` for ``datasets.cirr.gallery``."""
    parts = key.split(".")
    return ".".join([parts[0], "*", *parts[2:]]) if parts[0] == "datasets" else key


def declared(*settings: Settings) -> dict[str, set[str]]:
    """Settings keys that each asset reads with one of ``settings``; without any, that it may read."""
    found: dict[str, set[str]] = {}
    for each in blueprints():
        reads = {read for these in settings for read in reads_of(each.reads, these)}
        if not settings:
            reads = {
                read
                for entry in each.reads
                for read in (entry.reads if isinstance(entry, When) else (entry,))
            }
        found[each.name] = {key for read in reads for key in keys_behind(read)}
    return found


@pytest.mark.parametrize("key", CHANGES)
def test_changed_setting_changes_the_code_versions_of_those_that_declare_it(world: World, key: str) -> None:
    after = changed(world.settings, key, CHANGES[key])
    readers = {asset for asset, keys in declared(world.settings, after).items() if general(key) in keys}
    assert differing(world.settings, after) == readers
    # The last are read where a method searches the space, that re-ranker is named, or an endpoint.
    seldom = ("models.reranker.", "models.judge.endpoint.")
    assert readers or key in ("reranking.judge_weight", "spaces") or key.startswith(seldom)


def test_changes_of_a_key_that_nothing_reads_change_no_code_version(world: World) -> None:
    for key, value in {
        "models.device": "cuda:1",
        "registry.experiment": "x",
        "storage.root": Path("y"),
    }.items():
        assert differing(world.settings, changed(world.settings, key, value)) == set(), key


def test_depth_of_stage_1_counts_where_it_cuts_what_is_re_ranked(world: World) -> None:
    short = changed(world.settings, "coarse.top_k", 5)
    assert differing(world.settings, short) == {"coarse_rankings", "reranked_rankings", "reranking_fusion"}
    of_one = changed(world.settings, "datasets.cirr.rerank_top_k", 12)
    assert differing(of_one, changed(of_one, "coarse.top_k", 11)) == {"coarse_rankings", "reranked_rankings"}


def test_weight_counts_where_the_settings_choose_the_fusion(world: World) -> None:
    fixed = changed(world.settings, "reranking.fusion", "cosine_judge")
    heavier = changed(fixed, "reranking.judge_weight", 2.0)
    assert differing(fixed, heavier) == {"reranked_rankings"}
    assert differing(world.settings, changed(world.settings, "reranking.judge_weight", 2.0)) == set()


@pytest.mark.parametrize("key", [key for key in CHANGES if key.startswith("models.reranker.")])
def test_the_rerankers_model_concerns_what_runs_it(world: World, key: str) -> None:
    named = changed(world.settings, "reranking.rerankers", ["base judge", "qwen3-vl-reranker"])
    assert differing(named, changed(named, key, CHANGES[key])) == {"reranked_rankings", "reranking_fusion"}


def test_an_endpoint_concerns_what_reads_its_texts_and_its_address_nothing(world: World) -> None:
    asked = changed(world.settings, "models.judge.endpoint.url", "http://127.0.0.1:1/v1")
    texts = {"reference_captions", "query_compositions", "reranking_fusion"}
    assert differing(world.settings, asked) == texts
    assert differing(asked, changed(asked, "models.judge.endpoint.model", "big")) == texts
    assert not differing(asked, changed(asked, "models.judge.endpoint.url", "https://example.org/v1"))


def test_a_changed_space_concerns_what_searches_it(world: World) -> None:
    (world.settings.base_dir / "searching.py").write_text(
        "from setr_lib.methods.method import VectorMethod\n"
        "def texts(inputs): return inputs.queries.modification_vectors\n"
        'LARGE = VectorMethod("in_large", texts, space="large")\n'
    )
    large = {"large": SpaceSettings(kind="open_clip", options={"name": "local-dir:clip", "batch_size": 2})}
    described = changed(world.settings, "spaces", large)
    ranked = changed(described, "coarse.strategies", ["intersection", "searching:LARGE"])
    another = {"large": SpaceSettings(kind="open_clip", options={"name": "ViT-B-32"})}
    assert differing(ranked, changed(ranked, "spaces", another)) == {"gallery_embeddings", "coarse_rankings"}
    unused = {**large, "other": another["large"]}
    assert differing(ranked, changed(ranked, "spaces", unused)) == set(), "no method searches it"
    faster = {"large": SpaceSettings(kind="open_clip", options={"name": "local-dir:clip", "batch_size": 9})}
    assert differing(ranked, changed(ranked, "spaces", faster)) == set()
    judged = changed(ranked, "coarse.default", "searching:LARGE")
    searched = {"gallery_embeddings", "coarse_rankings", "training_embeddings", "reranking_fusion"}
    assert differing(judged, changed(judged, "spaces", another)) == searched
    alone = changed(judged, "coarse.strategies", ["searching:LARGE"])
    other_encoder = changed(alone, "models.encoder.name", "ViT-B-32")
    assert differing(alone, other_encoder) == {"training_embeddings", "reranker_pairs"}, (
        "pairs are mined there"
    )


def test_options_concern_their_method_and_what_it_takes_from_other_sections(world: World) -> None:
    (world.settings.base_dir / "dialled.py").write_text(
        "class Dialled:\n"
        '    name, option_keys = "dialled", {"depth": "reranking.top_k"}\n'
        "    def scores(self, inputs): ...\n"
    )
    ranked = changed(world.settings, "coarse.strategies", ["intersection", "dialled:Dialled"])
    own = changed(ranked, "methods", {"dialled": {"share": 0.5}})
    assert differing(ranked, own) == {"coarse_rankings"}, "its candidates are not re-ranked"
    deeper = changed(ranked, "reranking.top_k", 5)
    assert differing(ranked, deeper) == EXAMPLES["reranking.top_k"] | {"coarse_rankings"}


def test_a_methods_options_are_those_of_the_method_that_it_wraps_too(world: World) -> None:
    filtered = changed(world.settings, "coarse.strategies", ["intersection", "soft"])
    over = changed(filtered, "methods", {"soft": {"base": "pdv_f"}})
    scaled = changed(filtered, "methods", {"soft": {"base": "pdv_f"}, "pdv_f": {"image_scale": 1.7}})
    assert differing(over, scaled) == {"coarse_rankings"}


def test_code_of_a_method_that_is_chosen_by_its_own_name_counts(world: World) -> None:
    file = world.settings.base_dir / "named.py"
    text = "class Named:\n    name = 'own_name'\n    def scores(self, inputs): ...\n"
    file.write_text(text)
    ranked = changed(world.settings, "coarse.strategies", ["intersection", "named:Named"])
    judged = changed(ranked, "reranking.methods", ["own_name"])
    before = versions(judged)
    file.write_text(text + "# otherwise\n")
    after = versions(judged)
    assert before["reranking_fusion"] != after["reranking_fusion"]
    assert before["coarse_rankings"] != after["coarse_rankings"]


def test_another_data_set_leaves_the_others_current(world: World) -> None:
    more = DatasetSettings(kind="folder", root=Path("mine"))
    assert world.stale(changed(world.settings, "datasets.mine", more)) == set()


def leaves(section: type[BaseModel], place: str = "") -> Iterator[str]:
    for name, each in section.model_fields.items():
        kind = each.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, f"{place}{name}.")
        elif name == "datasets":
            yield from leaves(DatasetSettings, "datasets.*.")
        elif not each.exclude:
            yield place + name


def test_every_setting_is_read_by_an_asset_or_has_a_reason_why_not() -> None:
    read = set().union(*declared().values())
    assert set(leaves(Settings)) == read | {"systems"} | NOT_READ.keys()
    assert not read & NOT_READ.keys()
    assert read == {general(key) for key in CHANGES}


def test_the_settings_of_a_trained_system_are_read_by_its_assets(world: World) -> None:
    plain = changed(world.settings, "systems", {"prompt_tuned": {}})
    longer = changed(world.settings, "systems", {"prompt_tuned": {"steps": 7}})
    before, after = (
        {each.name: CodeVersions(settings).version(each.number, each.reads) for each in blueprints(settings)}
        for settings in (plain, longer)
    )
    assert {name for name in before if before[name] != after[name]} == {
        "training_triplets",
        "trained_prompt_tuned",
        "promoted_prompt_tuned",
    }


OPENED = {
    "datasets.*.gallery",
    "datasets.*.background",
    "datasets.*.upright",
    "images.max_pixels",
    "registry.model",
}
"""Looked up wherever an evaluation set is found, or the registry opened, by name."""
LOOKED_UP = {
    *(
        f"{asset}: {key}"
        for asset in ("reference_captions", "query_compositions")
        for key in ("coarse.caption_strategies", "coarse.default", "coarse.strategies", "reranking.methods")
    ),
    "evaluation_report: models.encoder.name",  # whether these are the miniature's, for a sentence of the page
    "evaluation_report: models.judge.name",
    "promoted_reranker: training.captions",
    "reranked_rankings: training.captions",  # whether an adapter that is left out is worth a warning
    "reranker_adapter: training.dataset",  # what its pairs were made of, for the label
    "reranker_adapter: training.triplets",
    "gallery_embeddings: coarse.caption_strategies",
    "gallery_embeddings: coarse.strategies",
    "training_embeddings: coarse.caption_strategies",
    "training_embeddings: coarse.default",
    "training_embeddings: coarse.strategies",
    "training_embeddings: reranking.methods",
    *(f"training_embeddings: training.{key}" for key in ("captions", "dataset", "image_root", "triplets")),
    "promoted_reranker: coarse.caption_strategies",
    "promoted_reranker: coarse.default",
    "promoted_reranker: coarse.strategies",
    "promoted_reranker: reranking.fusion",
    "promoted_reranker: reranking.judge_weight",
    "promoted_reranker: reranking.methods",
    "promoted_reranker: reranking.rerankers",
    "reranked_rankings: coarse.caption_strategies",
    "reranked_rankings: coarse.strategies",
    "reranking_fusion: coarse.caption_strategies",
    "reranking_fusion: reranking.fusion",
}
"""Looked up to observe the fusion in use, to tell other training images from those that are gone, to find a
method among all that settings name, or to find the embedding spaces that methods search (which
``spaces:ranked`` and ``spaces:reranked`` stand for) or whether they read captions and compositions (on
which what is declared depends)."""


def test_assets_read_no_setting_that_they_do_not_declare(world: World) -> None:
    assert world.reader.read.keys() >= {"queries", "coarse_rankings", "reranker_adapter", "reranked_rankings"}
    allowed = declared()
    undeclared = {
        f"{asset}: {key}"
        for asset, keys in world.reader.read.items()
        for key in keys - NOT_READ.keys() - allowed[asset] - OPENED
    }
    assert undeclared == LOOKED_UP


def test_assets_declare_no_setting_that_they_do_not_read(world: World) -> None:
    """Models, and what opens the registry, are looked up by the first asset that needs them; later ones get
    them as made.
    """
    unread = {
        f"{asset}: {key}"
        for asset, keys in declared(world.settings).items()
        for key in keys - world.reader.read.get(asset, set()) - OPENED
        if not key.startswith("models.")
    }
    assert unread == {"reranked_rankings: coarse.caption_default"}, "read where captions stand in for images"


def test_what_methods_need_follows_from_the_methods(world: World) -> None:
    share = "coarse.anchor_share"
    without = [name for name in CoarseSettings().strategies if name != "intersection_anchor"]
    plain = changed(world.settings, "coarse.strategies", without)
    assert (
        share in declared(world.settings)["coarse_rankings"]
        and share not in declared(plain)["coarse_rankings"]
    )
    assert share not in declared(world.settings)["reranking_fusion"], "its candidates are not re-ranked"
    judged = changed(world.settings, "reranking.methods", ["intersection_anchor", "union_text"])
    assert share in declared(judged)["reranking_fusion"]
    (fusion,) = (each for each in blueprints() if each.name == "reranking_fusion")
    assert "prompts:describe" in set(reads_of(fusion.reads, judged))
    assert "prompts:describe" not in set(reads_of(fusion.reads, world.settings))


def test_reads_that_depend_on_settings(world: World) -> None:
    (pairs,) = (each for each in blueprints() if each.name == "reranker_pairs")
    writes = changed(world.settings, "reranking.pairs.writer", "model")
    assert "model:judge" not in set(reads_of(pairs.reads, world.settings))
    assert "model:judge" in set(reads_of(pairs.reads, writes))
    assert CodeVersions(writes).value("prompts:write_modification") != {}


def test_missing_folders_are_marked_not_told_at_load(tmp_path: Path, world: World) -> None:
    settings = changed(world.settings, "models.judge.name", str(tmp_path / "no judge"))
    settings = changed(settings, "models.encoder.name", f"local-dir:{tmp_path / 'no clip'}")
    settings = changed(settings, "models.judge.prompts", str(tmp_path / "no prompts"))
    assert differing(world.settings, settings) == JUDGED | ENCODED


def test_model_folder_is_known_by_what_it_holds(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.settings.base_dir / "clip", tmp_path / "clip")
    moved = changed(world.settings, "models.encoder.name", f"local-dir:{tmp_path / 'clip'}")
    assert differing(world.settings, moved) == set()
    weights = next((tmp_path / "clip").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert differing(world.settings, moved) == ENCODED


class TestRuns:
    """In this order: each run leaves the world current again."""

    def test_equal_captions_leave_what_is_below_current(
        self, world: World, prompt: Callable[[str, str], None]
    ) -> None:
        prompt("describe.jinja", "{# read alike by the model #}")
        assert world.stale(world.settings) == {"reference_captions"}
        world.run(world.settings, "reference_captions")
        assert world.stale(world.settings) == set()

    def test_back_under_the_prompt_of_before(self, world: World) -> None:
        assert world.stale(world.settings) == {"reference_captions"}
        world.run(world.settings, "reference_captions")
        assert world.stale(world.settings) == set()

    @pytest.mark.soak
    def test_other_captions_make_what_reads_them_stale_partition_by_partition(
        self, world: World, prompt: Callable[[str, str], None]
    ) -> None:
        prompt("describe.fashioniq.jinja", " Which garment is it, and of what colour?")
        world.run(world.settings, "reference_captions")
        below = {"coarse_rankings: fashioniq-val", "evaluation_report: fashioniq-val"}
        assert world.stale(world.settings) == below
        world.run(world.settings, "coarse_rankings", keys=["fashioniq-val"])
        assert world.stale(world.settings) == below - {"coarse_rankings: fashioniq-val"} | {
            "reranked_rankings: fashioniq-val"
        }

    @pytest.mark.soak
    def test_world_is_current_again(self, world: World) -> None:
        world.run(world.settings)
        assert world.stale(world.settings) == set()

    def test_moved_champion_makes_reranked_rankings_stale(self, world: World) -> None:
        import mlflow

        registry = pipeline_context(world.settings).registry
        model, client = registry.model(world.settings.registry.model), registry.client
        first = model.version("1")
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(world.settings.tracking_uri)  # MLflow looks the model up in its global store
        other = client.create_model_version(model.name, first.model_uri, tags=dict(first.tags))
        mlflow.set_tracking_uri(before)
        client.set_registered_model_alias(model.name, "champion", str(other.version))
        assert world.stale(world.settings) == set(), "nobody has looked yet"
        world.run(world.settings, CHAMPION, FUSION)
        assert world.stale(world.settings) == {"reranked_rankings"}
        client.set_registered_model_alias(model.name, "champion", "1")
        world.run(world.settings, CHAMPION, FUSION)
        assert world.stale(world.settings) == set()

    def test_rankings_know_the_version_that_they_were_pinned_to(self, world: World) -> None:
        pinned = {"ops": {"reranked_rankings": {"config": {"champion_version": "2"}}}}
        world.run(world.settings, "reranked_rankings", keys=["cirr-val"], **pinned)
        assert world.stale(world.settings) == {"reranked_rankings: cirr-val", "evaluation_report: cirr-val"}

    def test_evaluation_job_observes_the_champion(self) -> None:
        job = build_definitions(load_settings(Path(__file__).parents[2] / "setr.toml")).resolve_job_def(
            EVALUATION
        )
        assert {key.to_user_string() for key in job.asset_layer.executable_asset_keys} >= OUTSIDE


@pytest.fixture(scope="module")
def copy(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, pl.DataFrame]]:
    """A copy of the world for runs that Dagster's instance of it is not to know of, and its tables."""
    folder = tmp_path_factory.mktemp("copy") / "world"
    shutil.copytree(world.settings.base_dir, folder)
    settings = load_settings(folder / "setr.toml")
    return settings, tables(settings)


def downstream(settings: Settings) -> dict[str, set[str]]:
    """Asset -> all that lie below it."""
    below: dict[str, set[str]] = {}
    graph = build_definitions(settings).resolve_asset_graph()
    for key in reversed(graph.toposorted_asset_keys):
        children = {child.to_user_string() for child in graph.get(key).child_keys}
        below[key.to_user_string()] = children.union(*(below[child] for child in children))
    return below


REPORTED = {"evaluation_report/cirr-val.parquet", "leaderboard.parquet"}
RERANKED = {
    f"reranked_rankings/cirr-val/intersection--{reranker}.parquet" for reranker in ("base-judge", "adapter")
}


@pytest.mark.soak
@pytest.mark.parametrize(
    ("key", "value", "must", "may"),
    [
        ("coarse.anchor_share", 1.0, {"coarse_rankings/cirr-val/intersection_anchor.parquet"}, REPORTED),
        ("reranking.top_k", 2, RERANKED, REPORTED),
        ("evaluation.bootstrap_samples", 250, REPORTED, set()),
        ("evaluation.contact_sheet_queries", 2, set(), set()),
    ],
)
def test_an_evaluation_after_a_change_makes_anew_what_depends_on_it(
    copy: tuple[Settings, dict[str, pl.DataFrame]], key: str, value: object, must: set[str], may: set[str]
) -> None:
    settings, before = copy
    after = changed(settings, key, value)
    run = run_job(after, EVALUATION, ["cirr-val"])
    assert run.success, run.failures
    made = tables(settings)
    assert made.keys() == before.keys()
    altered = {name for name, frame in made.items() if not frame.equals(before[name])}
    assert must <= altered <= must | may, altered
    below, readers = downstream(settings), differing(settings, after)
    stale = readers.union(*(below[asset] for asset in readers))
    assert {name.split("/")[0].removesuffix(".parquet") for name in altered} <= stale


def test_lists_too_short_for_a_metric_leave_it_out_to_the_end(
    copy: tuple[Settings, dict[str, pl.DataFrame]], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = changed(copy[0], "coarse.top_k", 8)
    assert settings.rerank_depth("cirr") == 6
    run = run_job(settings, EVALUATION, ["fashioniq-val", "circo-val"])
    assert run.success, run.failures
    rows = pl.read_parquet(settings.table_path("evaluation_report", "fashioniq-val"))
    assert set(rows["method"]) == {"random"}, "R@10 and R@50 are all that FashionIQ has"
    page = (settings.report_root / "fashioniq-val" / "index.html").read_text(encoding="utf-8")
    assert "left out: R@10" in page and "a ranking is only 8 long" in page
    rows = pl.read_parquet(settings.table_path("evaluation_report", "circo-val"))
    measured = set(rows.filter(rows["method"] != "random")["metric"])
    assert {"mAP@5", "R@5"} <= measured and not {"mAP@10", "R@50"} & measured
    assert main(["--config", str(settings.base_dir / "setr.toml"), "leaderboard"]) == 0
    assert "fashioniq val" in capsys.readouterr().out
