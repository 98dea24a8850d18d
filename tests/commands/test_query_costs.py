"""What a query costs: what is counted, told from what is made once for a gallery."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from setr_lib.evaluation.row import Row
from setr_lib.pipeline import query_costs
from setr_lib.pipeline.comparison import Chosen, choose, compare
from setr_lib.pipeline.query_costs import QueryCosts
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.pipeline.trained_weights import CHAMPIONS
from setr_lib.settings import load_settings
from setr_lib.tables import GALLERY, QUERIES, RANKINGS

SLOW = """
from setr_lib.methods.method import Method

SECONDS = [0.0]


class Slow(Method):
    name = "slow"

    def statistics(self, gallery):
        SECONDS[0] += 500.0
        return {}

    def scores(self, inputs):
        if "prepared" not in inputs.statistics:
            inputs.statistics["prepared"] = True
            SECONDS[0] += 300.0
        if "centered" not in vars(inputs.gallery):
            SECONDS[0] += 70.0
        SECONDS[0] += 2.0
        return inputs.queries.modification_vectors @ inputs.gallery.centered.T
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.assets.tiny_world import write_world

    return write_world(tmp_path_factory.mktemp("costs"))


def compared(config: Path, methods: Sequence[str], reranked: Sequence[str] = (), limit: int = 4) -> Chosen:
    settings = load_settings(config)
    few = settings.evaluation.model_copy(update={"limit": limit})
    nobody = {} if reranked else {"rerankers": []}
    settings = settings.model_copy(
        update={"evaluation": few, "reranking": settings.reranking.model_copy(update=nobody)}
    )
    return choose(settings, methods, reranked, ["fashioniq-val" if not reranked else "cirr-val"])


def test_what_a_method_prepares_of_a_gallery_is_not_a_querys_cost(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (config.parent / "slow.py").write_text(SLOW)
    chosen = compared(config, ["slow:Slow"], limit=6)
    clock = import_module("slow").SECONDS
    monkeypatch.setattr(query_costs, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    frame, record = compare(chosen, sample=6)
    (cost,) = frame.filter(method="slow")["ms_per_query"].unique()
    queries = chosen.context.tables.read("queries", QUERIES, "fashioniq-val")
    blocks = queries["gallery"].n_unique()
    assert cost == pytest.approx(1000 * 2.0 * blocks / 6)
    assert [note for note in record.notes if "small set" not in note] == []


def test_texts_of_images_are_counted_over_the_whole_set(config: Path) -> None:
    file = next((config.parent / "data" / "fashioniq" / "captions").glob("cap.*.val.json"))
    annotated = json.loads(file.read_text())
    for one in annotated[1:]:
        one["candidate"] = annotated[0]["candidate"]
    file.write_text(json.dumps(annotated))
    chosen = compared(config, ["union_text"], limit=1000)
    frame, _ = compare(chosen, sample=1)
    queries = chosen.context.tables.read("queries", QUERIES, "fashioniq-val")
    expected = queries["reference_id"].n_unique() / queries.height
    assert expected < 1, "else a sample of one query would say the same"
    assert frame.filter(method="union_text")["llm_calls"].unique().to_list() == [pytest.approx(expected)]


def test_a_picture_that_cannot_be_read_any_more_does_not_end_the_timing(config: Path) -> None:
    shutil.copytree(config.parent / "data" / "cirr", config.parent / "own")
    own = config.with_name("own.toml")
    own.write_text(config.read_text().replace('root = "data/cirr"', 'root = "own"'))
    chosen = compared(own, ["sum"], ["sum"], limit=2)
    compare(chosen, sample=2)
    context = chosen.context
    rankings = context.tables.read(context.tables.coarse("cirr-val", "sum"), RANKINGS)
    gallery = context.tables.read("gallery_images", GALLERY, "cirr-val")
    candidate = rankings.filter(rank=1, pool="gallery")["image_id"][0]
    Path(gallery.filter(image_id=candidate)["path"][0]).write_bytes(b"not a picture")
    costs, row = QueryCosts(RerankingRun(context, CHAMPIONS), 2), Row("sum", "base judge")
    found = costs.of_set("cirr-val", [row])
    assert not costs.failed and found[row].ms > 0
