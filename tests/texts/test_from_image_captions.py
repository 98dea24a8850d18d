"""Captions and compositions where no image is there to be looked at: the tables of the model, filled without
it.
"""

from __future__ import annotations

import polars as pl

from setr_lib.tables import CAPTIONS, COMPOSITIONS
from setr_lib.texts.from_image_captions import GIVEN, READ, caption_rows, composition_rows
from tests.methods.worlds import queries_of

CAPTIONED = pl.DataFrame({"image_id": ["a"], "captions": [["A white dog on grass.", "A dog."]]})


def test_every_image_gets_a_row_and_what_lacks_a_caption_says_so() -> None:
    rows = caption_rows(["a", "b"], CAPTIONED)
    assert rows.schema == CAPTIONS
    assert rows.select("image_id", "caption", "status").rows() == [
        ("a", "A white dog on grass. A dog.", "ok"),
        ("b", "", "failed"),
    ]
    assert rows["model"].unique().to_list() == [GIVEN]
    assert caption_rows(["a"], None)["status"].to_list() == ["failed"]


def test_a_composition_is_what_the_words_say() -> None:
    queries = queries_of(["a", "b"]).with_columns(
        modification=pl.lit("instead of white, a black dog with a ball")
    )
    first, second = composition_rows(queries, CAPTIONED).to_dicts()
    assert composition_rows(queries, CAPTIONED).schema == COMPOSITIONS
    assert (first["keep"], first["add"], first["remove"], first["drop"]) == (
        [], ["black", "dog", "ball"], ["white"], ["grass"],
    )  # fmt: skip
    assert first["target_caption"] == "black dog ball"
    assert (second["keep"], second["status"], second["model"]) == ([], "ok", READ)


def test_nothing_asked_for_leaves_the_text() -> None:
    queries = queries_of(["b"]).with_columns(modification=pl.lit("show the same"))
    assert composition_rows(queries, CAPTIONED)["target_caption"].to_list() == ["show the same"]
