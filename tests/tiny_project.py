"""A small project, evaluated without Dagster: a folder of plain pictures with five broken ones, three queries
of which one text is longer than the encoder reads; stage 1 alone, with a tiny random encoder.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from setr_lib.pipeline.context import pipeline_context
from setr_lib.pipeline.evaluating import prepare, rank, read_set
from setr_lib.pipeline.evaluation import assess
from setr_lib.pipeline.report_page import write_page
from setr_lib.pipeline.reranking_run import RerankingRun
from setr_lib.settings import load_settings
from setr_lib.tables import METRICS

SETTINGS = """
[models]
device = "cpu"

[models.encoder]
name = "local-dir:clip"

[coarse]
strategies = ["sum"]
default = "sum"

[reranking]
rerankers = []

[evaluation]
bootstrap_samples = 100
contact_sheet_queries = 1

[datasets.mine]
kind = "folder"
root = "pictures"
"""
LONG = "a red dress with " + "very " * 300 + "long sleeves"
"""The text of the first query."""
BROKEN = [f"broken{number}.png" for number in range(5)]
"""The broken pictures; the first is the reference of the third query."""


def make_tiny_project(folder: Path) -> Path:
    """Make it in ``folder``; gives its settings file. Its one data set is ``mine``."""
    from tiny_encoder import write_tiny_clip

    write_tiny_clip(folder / "clip")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 90, 200)).save(pictures / f"{number}.png")
    for name in BROKEN:
        (pictures / name).write_bytes(b"no image")
    lines = ["reference,modification,target", f"0.png,{LONG},1.png", "2.png,darker,3.png"]
    lines += [f"{BROKEN[0]},lighter,4.png"]
    (pictures / "queries.csv").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "setr.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    context = pipeline_context(load_settings(path))
    read_set(context, "mine")
    prepare(context, "mine")
    rank(context, "mine")
    RerankingRun(context, {}).leave_out("mine")
    result = assess(context, "mine")
    context.tables.write("evaluation_report", result.rows, METRICS, "mine", made_by=result.note)
    write_page(context, "mine", result)
    return path
