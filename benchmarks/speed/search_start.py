"""How long one `setr search` takes in a new process, against a plain script that imports the same libraries
and loads the same models.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.speed.figure import BenchSetting, Figure
from benchmarks.speed.timing import in_turns

NAMES = ("search-start",)
KEY = "circo-val"
TEXT = "make it red"
K = 10
LIMIT = 1.25
"""At most this many times the plain script."""
SIZES = {False: 0.1, True: 1.0}
"""Of the drawn world, by whether the run is a full one."""
ROUNDS = 2
_REPOSITORY = Path(__file__).parents[2]
_WEIGHTS = _REPOSITORY / "setr_lib" / "miniature" / "weights"
_SETTINGS = """
[datasets.circo]
kind = "circo"
root = "data/circo"
splits = ["val"]

[models]
device = "cpu"

[models.encoder]
name = "local-dir:{weights}/clip"

[models.judge]
name = "{weights}/mllm"
prompts = "miniature"

[reranking]
rerankers = ["base judge"]
top_k = 10
"""
_SEARCH = "import sys; from setr_lib.cli import main; sys.exit(main())"
_PLAIN = """
import sys
store, table, encoder, judge, image, image_id, k = sys.argv[1:]
import lancedb
import open_clip
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + encoder)
model.eval()
AutoProcessor.from_pretrained(judge)
AutoModelForImageTextToText.from_pretrained(judge).eval()
with torch.inference_mode():
    vector = model.encode_image(preprocess(Image.open(image).convert("RGB"))[None])
vector = torch.nn.functional.normalize(vector, dim=-1)[0].numpy()
found = lancedb.connect(store).open_table(table).search(vector).metric("cosine").limit(int(k)).to_arrow()
print("nearest:", found["image_id"][0].as_py())
"""


def figures(setting: BenchSetting, names: Sequence[str]) -> Iterator[Figure]:
    """Measure the figure.

    Args:
        setting: How it is run.
        names: Of :data:`NAMES`.

    Yields:
        The figure.
    """
    folder = setting.folder / f"search-start-{SIZES[setting.full]}"
    table, image_id, image = _project(folder, SIZES[setting.full], setting)
    environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "OMP_NUM_THREADS": str(setting.threads)}
    environment = {name: value for name, value in environment.items() if not name.startswith("SETR_")}
    store = str(folder / "var" / "lancedb")
    models = (str(_WEIGHTS / "clip"), str(_WEIGHTS / "mllm"))
    asked = ["--config", str(folder / "setr.toml"), "search", image, TEXT, "--dataset", KEY, "--k", str(K)]
    search = partial(_run, environment, _SEARCH, *asked)
    ways = {
        "ours": search,
        "plain": partial(_run, environment, _PLAIN, store, table, *models, image, image_id, str(K)),
    }
    first = {name: way() for name, way in ways.items()}  # files into memory, texts into the cache
    found = in_turns(ways, ROUNDS) | in_turns({"stage 1": partial(search, "--reranker", "none")}, 1)
    equal = f"nearest: {image_id}" in first["plain"] and _ids(first["ours"]) == _ids(found["ours"].output)
    ours, plain = found["ours"].seconds, found["plain"].seconds
    yield Figure(
        "search-start",
        f"`setr search` in a new process, both stages, {K} candidates judged, the drawn world's models",
        ours,
        "a plain script: imports of lancedb, open_clip, torch and transformers, both models loaded, one "
        "image encoded and searched, nothing judged",
        plain,
        equal=equal and len(_ids(first["ours"])) == K,
        checked="the script finds the reference itself nearest, by the vector that SETR has stored; every "
        "search gives the same ids",
        target=f"at most {LIMIT} x the plain script, which judges nothing",
        met=ours <= LIMIT * plain,
        also={"stage 1 alone (--reranker none), s": found["stage 1"].seconds},
        profile=() if ours <= LIMIT * plain else _imports(environment, asked),
    )


def _project(folder: Path, size: float, setting: BenchSetting) -> tuple[str, str, str]:
    """A finished project; its vector table, and the id and file of an image of its gallery."""
    from setr_lib.datasets import evaluation_set
    from setr_lib.miniature.worlds import write_miniature
    from setr_lib.pipeline.context import pipeline_context
    from setr_lib.pipeline.evaluating import prepare, read_set
    from setr_lib.settings import load_settings
    from setr_lib.tables import GALLERY

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setr.toml").write_text(_SETTINGS.format(weights=_WEIGHTS))
    write_miniature(folder / "data", size=size, training_images=16, progress=setting.progress)
    context = pipeline_context(load_settings(folder / "setr.toml"))
    read_set(context, KEY, setting.progress)
    prepare(context, KEY, setting.progress)
    first = context.tables.read("gallery_images", GALLERY, KEY).row(0, named=True)
    store = context.gallery_store
    table = store.table_name(evaluation_set(context.settings, KEY).gallery_key, context.models.space())
    return table, first["image_id"], first["path"]


def _run(environment: Mapping[str, str], code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


def _ids(printed: str) -> list[str]:
    """The images of a search's table, in order."""
    return re.findall(r"^ +\d+ +(\S+) ", printed, re.MULTILINE)


def _imports(environment: Mapping[str, str], arguments: Sequence[str]) -> list[tuple[str, float]]:
    """The libraries that take longest to import in a search, each without what it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _SEARCH, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seconds: dict[str, float] = {}
    for own, name in re.findall(r"^import time: +(\d+) \| +\d+ \| +(\w+)", done.stderr, re.MULTILINE):
        seconds[name] = seconds.get(name, 0.0) + int(own) / 1e6
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:8]
    return [(f"import {name}", spent) for name, spent in longest]
