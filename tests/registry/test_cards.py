"""What a model card says, and what it may not do on a page that shows Markdown."""

from __future__ import annotations

from pathlib import Path

from setr_lib.registry.cards import ModelCard, data_facts, licence_of
from setr_lib.registry.place import Place, Project, searched_below
from tests.nasty import NASTY


def test_a_card_says_base_data_measures_and_how_to_load() -> None:
    text = ModelCard(
        "A judge.",
        "setr-reranker",
        base={"model": "qwen@0a1b", "licence": ""},
        data=data_facts(None, steps="12"),
        measures=[("AUC", 0.7455, 0.9632)],
        columns="bytes in",
        limits=["one prompt"],
    ).text()
    for part in (
        "A judge.",
        "- model: qwen@0a1b",
        "- data: not recorded",
        "| AUC |&emsp;0.7455 |&emsp;0.9632 |",
        'load_model("models:/setr-reranker@champion")',
        "- one prompt",
    ):
        assert part in text
    assert "licence" not in text, "what is not known is not said"


def test_names_from_data_act_on_no_page() -> None:
    text = ModelCard("A judge.", "m", data={"data": NASTY}).text()
    assert "<script" not in text and "\x1b" not in text and "![" not in text


def test_the_licence_is_what_the_models_own_files_say(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    place = Place.of("base", str(folder), Project(tmp_path, tmp_path / "var"))
    with searched_below(tmp_path):
        assert licence_of(place).startswith("not known here")
        (folder / "README.md").write_text("---\nlibrary_name: x\nlicense: apache-2.0\n---\nlicense: mit\n")
        assert licence_of(place) == "apache-2.0 (as its README.md says)"
        (folder / "README.md").write_text("# A model\nlicense: mit\n")
        assert licence_of(place).startswith("not known here")
    hub = licence_of(Place.of("nobody/no-such-model", "nobody/no-such-model"))
    assert hub.endswith("https://huggingface.co/nobody/no-such-model")
