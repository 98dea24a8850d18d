"""Records: what they are known by, and what a reader is told of one that is old, damaged or missing."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from setr_lib.errors import SetrError
from setr_lib.pipeline.context import NotMadeYetError, PipelineContext
from setr_lib.records import (
    CoarseRecord,
    EmbeddingsRecord,
    PairsRecord,
    RerankedRecord,
    RerankedRow,
    TrainedRecord,
    content_digest,
)
from setr_lib.settings import Settings
from setr_lib.tables import digest_table

ADAPTER = TrainedRecord(run="abc", model_uri="models:/m-1", checkpoints="here", label="zero-shot")


@pytest.fixture
def context(tmp_path: Path) -> PipelineContext:
    return PipelineContext(Settings(base_dir=tmp_path))


def write(context: PipelineContext, asset: str, text: str, partition: str | None = None) -> Path:
    path = context.settings.table_path(asset, partition).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_digest_is_of_what_a_result_is_not_of_where_it_lies() -> None:
    elsewhere = ADAPTER.model_copy(update={"model_uri": "models:/m-2", "checkpoints": "there"})
    assert content_digest(ADAPTER) == content_digest(elsewhere)
    assert content_digest(ADAPTER) != content_digest(ADAPTER.model_copy(update={"run": "abd"}))


def test_digest_of_a_table_sees_values_order_names_and_types() -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "score": [0.1, None], "texts": [["x"], []]})
    others = [
        frame.reverse(),
        frame.rename({"id": "image"}),
        frame.with_columns(pl.col("score").cast(pl.Float32)),
        frame.with_columns(score=pl.Series([0.1, 0.2])),
        frame.head(1),
    ]
    assert digest_table(frame) == digest_table(pl.concat([frame.head(1), frame.tail(1)]))
    assert len({digest_table(each) for each in [frame, *others]}) == 1 + len(others)


def test_stored_and_read_again(context: PipelineContext) -> None:
    rows = [
        RerankedRow(method="sum", reranker="mine", model="m", fusion="judge"),
        RerankedRow(method="text", reranker="mine", version="3"),
    ]
    record = RerankedRecord(method="sum", rows=rows)
    context.tables.write_record("reranked_rankings", record, "cirr-val")
    assert context.tables.read_record("reranked_rankings", RerankedRecord, "cirr-val") == record
    assert record.facts() == {
        "method": "sum",
        "mine model": "m",
        "mine fusion": "judge",
        "text · mine version": "3",
        "re-ranked by": ["mine", "text · mine"],
    }


def test_record_of_an_earlier_version_is_read_where_nothing_needed_is_missing(
    context: PipelineContext,
) -> None:
    old = {"table": "t", "version": 3, "rows": 7, "encoder": "e", "preprocessing": "p"}
    write(context, "training_embeddings", json.dumps(old))
    assert context.tables.read_record("training_embeddings", EmbeddingsRecord).vectors("them").version == 3
    write(context, "coarse_rankings/cirr-val/sum", json.dumps({"strategy": "sum", "top_k": 50}))
    assert context.tables.read_record("coarse_rankings/cirr-val/sum", CoarseRecord).method == "sum"


@pytest.mark.parametrize(
    ("asset", "kind", "text", "words"),
    [
        ("reranker_pairs", PairsRecord, '{"digest": "d", "seed": 7}', ["writer, table", "'reranker_pairs'"]),
        ("coarse_rankings/cirr-val/sum", CoarseRecord, "{}", ["without method", "'coarse_rankings'"]),
        (
            "reranked_rankings",
            RerankedRecord,
            '{"strategy": "sum", "stages": ["base judge"], "judged": {}}',
            ["written by another version of SETR, without rows", "'reranked_rankings'"],
        ),
        ("reranker_adapter", TrainedRecord, '{"run": ', ["not valid JSON", "'reranker_adapter'"]),
        ("reranker_pairs", PairsRecord, '{"digest": 5}', ["digest: Input should be", "'reranker_pairs'"]),
    ],
)
def test_unusable_record_names_the_asset_to_materialise_again(
    context: PipelineContext, asset: str, kind: type[PairsRecord], text: str, words: list[str]
) -> None:
    path = write(context, asset, text)
    with pytest.raises(SetrError) as caught:
        context.tables.read_record(asset, kind)
    assert all(each in str(caught.value) for each in [str(path), *words, "again"])


def test_missing_record_names_the_asset_to_materialise_first(context: PipelineContext) -> None:
    with pytest.raises(NotMadeYetError, match="materialize 'reranker_adapter' first"):
        context.tables.read_record("reranker_adapter", TrainedRecord)


def test_captions_without_vectors_cannot_be_searched_by_vectors() -> None:
    with pytest.raises(SetrError, match="cirr-val has captions and no image"):
        EmbeddingsRecord(captions_table="c", captions_version=1).vectors("cirr-val")
