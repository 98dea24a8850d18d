"""Data sources: the miniature's, and one of one's own, tell their data from downloads and from people's own
pictures.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from setr_lib import sources
from setr_lib.benchmarks.audit import examine
from setr_lib.benchmarks.source import DataSource, maker_of
from setr_lib.cli import main
from setr_lib.datasets import evaluation_set
from setr_lib.datasets.images import find_images
from setr_lib.miniature.source import Miniature
from setr_lib.progress import Progress, silent
from setr_lib.settings import DatasetSettings, MiniatureSettings, Settings, TrainingSettings, load_settings
from setr_lib.sources import SourceError, data_sources, sources_in_use


class Shop(DataSource):
    """Data that a program of one's own writes into a folder."""

    name = "shop"
    title = "the shop's export"
    advice = "`shop export` writes it"

    def owns(self, path: Path) -> bool:
        return path.is_relative_to(self.settings.storage_root / "shop")

    def prepare(self, progress: Progress) -> None:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def only_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(sources.CATALOGUE, "_own", {})


def settings_of(folder: Path, root: str, captions: str | None = None) -> Settings:
    return Settings(
        base_dir=folder,
        datasets={"cirr": DatasetSettings(kind="cirr", root=Path(root), splits=["val"])},
        training=TrainingSettings(captions=None if captions is None else Path(captions)),
    )


def test_the_miniature_is_in_use_where_a_data_set_or_the_training_set_is_of_it(tmp_path: Path) -> None:
    def used(root: str, captions: str | None) -> list[str]:
        return [source.name for source in sources_in_use(settings_of(tmp_path, root, captions))]

    drawn, given = "var/miniature/training/captions.jsonl", "/data/captions.jsonl"
    assert used("var/miniature/cirr", given) == ["miniature"]
    assert used("/data/cirr", drawn) == ["miniature"], "the training set is one of it too"
    assert used("/data/cirr", given) == used("/data/cirr", None) == []
    assert used("var/miniature-of-mine/cirr", None) == []
    profile = load_settings(Path(__file__).parents[1] / "setr.toml")
    assert [source.name for source in sources_in_use(profile)] == ["miniature"]


def test_what_the_miniature_draws_is_its_own_wherever_it_is_moved(tmp_path: Path) -> None:
    options = MiniatureSettings(seed=1, size=0.02, training_images=16)
    settings = settings_of(tmp_path, "var/miniature/cirr").model_copy(update={"miniature": options})
    source = Miniature(settings)
    source.prepare(silent)
    found = examine(evaluation_set(settings, "cirr-val"), find_images, [source])
    assert (found.counts_of, found.problems) == ("miniature", ())
    moved = shutil.copytree(settings.miniature_root / "cirr", tmp_path / "moved")
    assert not source.owns(moved) and maker_of(moved, [source]) is source
    assert source.remedy(moved).startswith(f"the miniature: delete {moved / 'miniature.json'}, then ")
    assert maker_of(tmp_path, [source]) is None


def test_a_source_of_ones_own_is_told_by_the_doctor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources.CATALOGUE.register("shop", Shop)
    config = tmp_path / "setr.toml"
    config.write_text('[datasets.cirr]\nroot = "var/shop/cirr"\nsplits = ["val"]\n', encoding="utf-8")
    assert main(["--config", str(config), "doctor"]) == 1
    page = capsys.readouterr().out
    assert "the shop's export's own" in page
    assert "it comes from the shop's export: `shop export` writes it" in page
    assert "github.com" not in page, "the official places have none of it"


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (object(), "not a subclass"),
        (type("Half", (DataSource,), {"name": "half", "advice": "x"}), "lacks owns, prepare"),
        (type("Nameless", (Shop,), {"name": "No Name"}), "'name' must"),
        (type("Silent", (Shop,), {"advice": ""}), "'advice' must"),
    ],
)
def test_what_is_not_a_source_is_refused(candidate: object, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        sources.CATALOGUE.register("mine", candidate)


def test_the_miniature_is_the_one_source_that_comes_with_setr(tmp_path: Path) -> None:
    assert [type(source) for source in data_sources(Settings(base_dir=tmp_path))] == [Miniature]


def test_a_train_split_of_the_miniature_is_drawn_when_triplets_are_made_of_it(tmp_path: Path) -> None:
    from setr_lib.pipeline.context import pipeline_context
    from setr_lib.pipeline.system_data import make_triplets, read_triplets

    path = tmp_path / "setr.toml"
    path.write_text(
        '[datasets.cirr]\nroot = "var/miniature/cirr"\ntrain_root = "var/miniature/train/cirr"\n'
        "[miniature]\nsize = 0.02\n",
        encoding="utf-8",
    )
    context = pipeline_context(load_settings(path))
    assert not (tmp_path / "var").exists()
    made = make_triplets(context, "cirr")
    assert made.triplets.height and made.digest == read_triplets(context, "cirr").digest
