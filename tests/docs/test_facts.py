"""Facts that pages state and that can be counted: real-data.md's numbers, scaling.md's Dagster settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from setr_lib.commands.plan_work import count_work
from setr_lib.settings import load_settings

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared" / "data" / "cirr"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the official annotation files are not in {REAL}")
def test_the_numbers_of_real_data_are_those_of_the_official_files(tmp_path: Path) -> None:
    path = tmp_path / "setr.toml"
    path.write_text(f'[datasets.cirr]\nroot = "{REAL}"\nsplits = ["val", "test1"]\n', encoding="utf-8")
    val, test1 = count_work(load_settings(path), ["cirr-val", "cirr-test1"])
    page = (REPOSITORY / "docs" / "real-data.md").read_text(encoding="utf-8")
    assert (
        f"For val it counts {val.images:,} pictures to embed, {val.references:,} captions, {val.queries:,} "
        f"compositions and {val.pairs:,} pairs to judge"
    ) in page
    told = f"{test1.images:,}, {test1.references:,}, {test1.queries:,} and {test1.pairs:,}"
    assert f"(`setr plan cirr-test1 --counts-only`), {told}." in page


def test_dagsters_settings_for_postgresql_differ_in_the_storage_alone() -> None:
    home = REPOSITORY / "dagster_home"
    usual, postgres = (
        yaml.safe_load((home / name).read_text(encoding="utf-8"))
        for name in ("dagster.yaml", "dagster.postgres.yaml")
    )
    stored = postgres.pop("storage")["postgres"]["postgres_db"]
    assert postgres == usual
    page = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
    variables = [value["env"] for value in stored.values() if isinstance(value, dict)]
    assert len(variables) == 4
    assert [name for name in variables if f"{name}=" not in page] == []
