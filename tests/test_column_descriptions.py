"""Every column of every declared schema is described, and no description is of a column that is gone."""

from __future__ import annotations

import polars as pl
import pytest

from setr_assets import previews
from setr_lib import column_descriptions
from setr_lib.column_descriptions import declared_schemas, descriptions
from setr_lib.tables import FAILURES, GALLERY, METRICS


@pytest.mark.parametrize("name", declared_schemas())
def test_every_column_of_a_schema_has_a_sentence(name: str):
    schema = declared_schemas()[name]
    said = descriptions(schema)
    assert list(said) == list(schema)
    assert all(sentence.endswith(".") and 10 < len(sentence) < 150 for sentence in said.values())


def test_no_description_is_of_a_column_that_no_table_has():
    schemas = declared_schemas()
    assert set(column_descriptions.EVERYWHERE) <= {column for schema in schemas.values() for column in schema}
    for name, own in column_descriptions.ELSEWISE.items():
        assert set(own) <= set(schemas[name])


def test_a_table_may_mean_something_else_by_a_name():
    assert descriptions(FAILURES)["kind"] != descriptions(declared_schemas()["FAULTS"])["kind"]
    assert descriptions(GALLERY)["status"].startswith("ok, missing or broken")


def test_dagsters_schema_of_a_table_has_the_sentences():
    shown = previews.columns(METRICS.to_frame()).schema
    assert {column.name: column.description for column in shown.columns} == descriptions(METRICS)
    own = previews.columns(pl.DataFrame({"image_id": ["a"], "of_mine": [1]})).schema
    assert [column.description for column in own.columns] == ["The image, by its id in the data set.", None]
