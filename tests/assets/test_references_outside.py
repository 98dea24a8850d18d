"""References outside of the gallery, the whole way: embedded, composed, judged and shown, never ranked."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import polars as pl
import pytest
from PIL import Image
from tiny_encoder import write_tiny_clip
from tiny_judges import write_tiny_judge

import setr_lib.miniature
from setr_lib.cli import main
from setr_lib.evaluation.report_history import evaluations
from setr_lib.evaluation.row import Row
from setr_lib.pipeline.context import PipelineContext, pipeline_context
from setr_lib.pipeline.evaluating import Evaluated, evaluate
from setr_lib.pipeline.report_page import write_page
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.pipeline.trained_weights import CHAMPIONS
from setr_lib.records import RerankedRow
from setr_lib.settings import load_settings
from setr_lib.tables import CAPTIONS, COMPOSITIONS, FAILURES

SETTINGS = """
[datasets.mine]
kind = "folder"
root = "mine"
image_root = "mine/gallery"
reference_root = "mine/refs"

[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"

[models.judge]
name = "judge"
prompts = "miniature"
max_new_tokens = 4

[coarse]
strategies = ["sum", "union_text", "intersection"]
default = "intersection"
top_k = 12

[reranking]
rerankers = ["base judge"]
fusion = "judge"
top_k = 4

[evaluation]
bootstrap_samples = 100
contact_sheet_queries = 2
baselines = ["sum"]
"""
REFERENCES = ("x.png", "sub/y.png")


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((32, 32)).save(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    for number in range(12):
        draw(folder / f"mine/gallery/{number:02d}.png", number)
    for number, name in enumerate(REFERENCES):
        draw(folder / "mine/refs" / name, 100 + number)
    rows = ["x.png,make it red,00.png|03.png", "sub/y.png,smaller,01.png", "02.png,bluer,05.png"]
    (folder / "mine/queries.csv").write_text("\n".join(["reference,modification,targets", *rows]))
    write_tiny_clip(folder / "clip")
    write_tiny_judge("llava", folder / "judge")
    (folder / "setr.toml").write_text(SETTINGS, encoding="utf-8")
    return folder / "setr.toml"


@pytest.fixture(scope="module")
def evaluated(config: Path) -> Evaluated:
    return evaluate(RerankingRun(pipeline_context(load_settings(config)), CHAMPIONS), "mine")


def test_every_row_ranks_the_gallery_alone(evaluated: Evaluated) -> None:
    assert evaluated.result is not None
    gallery = {f"{number:02d}.png" for number in range(12)}
    assert set(evaluated.result.rankings) >= {
        Row("sum"),
        Row("intersection"),
        Row("intersection", "base judge"),
    }
    for ranking in evaluated.result.rankings.values():
        of_query = ranking.group_by("query_id").agg("image_id")
        assert of_query.height == 3
        assert all(set(images) == gallery for images in of_query["image_id"])


def test_they_are_embedded_described_and_composed(evaluated: Evaluated) -> None:
    tables = evaluated.context.tables
    assert set(tables.read("reference_captions", CAPTIONS, "mine")["image_id"]) == {*REFERENCES, "02.png"}
    assert tables.read("query_compositions", COMPOSITIONS, "mine").height == 3


def test_the_report_counts_the_gallery_alone_and_shows_them(evaluated: Evaluated) -> None:
    assert evaluated.result is not None
    page = write_page(evaluated.context, "mine", evaluated.result).read_text(encoding="utf-8")
    assert "<span>12 gallery images</span>" in page
    assert "sub/y.png" in page
    assert "Toy models" not in page and "drawn pictures" not in page and "in the run" not in page


def test_a_page_links_to_its_files_and_pictures_and_the_index_to_it(evaluated: Evaluated) -> None:
    assert evaluated.result is not None
    page = write_page(evaluated.context, "mine", evaluated.result)
    links = re.findall(r'<a href="(\.?[^"#]+)', page.read_text(encoding="utf-8"))
    beside = [unquote(link) for link in links]
    assert "../index.html" in beside
    assert all((page.parent / link).is_file() for link in beside)
    assert any(link.endswith("mine/refs/sub/y.png") for link in beside)
    assert any(link.endswith(".csv") for link in beside)
    index = (page.parent.parent / "index.html").read_text(encoding="utf-8")
    assert 'href="mine/index.html"' in index
    table = evaluated.context.tables.read("query_failures", FAILURES, "mine")
    assert table["query_id"].to_list() == ["0", "1", "2"] and set(table["reranker"]) == {"base judge"}


def test_the_order_is_told_and_left_out_where_an_earlier_record_does_not_state_it(
    evaluated: Evaluated,
) -> None:
    assert evaluated.result is not None
    result, context = evaluated.result, evaluated.context
    words = "ordered by the judge alone: logit(Yes) − logit(No)"
    assert words in write_page(context, "mine", result).read_text(encoding="utf-8")
    rows = [RerankedRow(method=row.method, reranker=row.reranker) for row in result.note.rows]
    earlier = replace(result, note=result.note.model_copy(update={"rows": rows}))
    page = write_page(context, "mine", earlier).read_text(encoding="utf-8")
    assert words not in page and "ordered by cosine" in page and "base judge" in page
    listed = evaluations(context.settings.report_root / "mine")
    assert len(listed) == 2 and listed[1]["page"] != "index.html", "other results: the first page is kept"


def test_the_miniatures_models_on_photographs_are_told_before_anything_else(
    evaluated: Evaluated, config: Path
) -> None:
    assert evaluated.result is not None
    settings = load_settings(config)
    weights = Path(setr_lib.miniature.__file__ or "").parent / "weights"
    encoder = settings.models.encoder.model_copy(update={"name": f"local-dir:{weights / 'clip'}"})
    models = settings.models.model_copy(update={"encoder": encoder})
    toys = PipelineContext(settings.model_copy(update={"models": models}))
    page = write_page(toys, "mine", evaluated.result, run_id="0123456789abcdef")
    text = page.read_text(encoding="utf-8")
    assert text.index("Toy models:") < text.index('id="protocol"') and "results mean nothing" in text
    assert "<code>01234567</code>" in text and "<dd>0123456789abcdef</dd>" in text
    index = (page.parent.parent / "index.html").read_text(encoding="utf-8")
    assert "Toy models" in index


def test_their_own_pixels_decide_the_ranking(evaluated: Evaluated, config: Path) -> None:
    """``sum``: the cosine with the mean of the unit vectors of reference and text, computed here."""
    context = PipelineContext(load_settings(config))
    space = context.models.space()
    text = space.embed_texts(["make it red"])[0]
    reference = space.embed_images([Image.open(config.parent / "mine/refs/x.png").convert("RGB")])[0]
    query = (reference + text) / np.linalg.norm(reference + text)
    files = sorted((config.parent / "mine/gallery").iterdir())
    scores = space.embed_images([Image.open(file).convert("RGB") for file in files]) @ query
    expected = [files[place].name for place in np.argsort(-scores)]
    assert evaluated.result is not None
    ranked = evaluated.result.rankings[Row("sum")].filter(pl.col("query_id") == "0").sort("rank")
    assert ranked["image_id"].to_list() == expected


def test_search_by_one_of_them_answers_from_the_gallery(
    evaluated: Evaluated, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = config.parent / "mine/refs/x.png"
    arguments = ["search", str(reference), "make it red", "--reranker", "none", "--k", "12"]
    assert main(["--config", str(config), *arguments]) == 0
    shown = capsys.readouterr().out
    assert all(f"{number:02d}.png" in shown for number in range(12))
    assert "y.png" not in shown
