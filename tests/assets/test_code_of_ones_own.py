"""Code versions hold the code that settings name by path: an edited method makes its rankings stale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from setr_assets.code_versions import OWN_BENCHMARKS, RANKED, CodeVersions, When
from setr_lib.settings import Settings, load_settings

METHODS = """
[coarse]
strategies = ["sum", "intersection", "own_methods_of_test:First", "own_package_of_test.inner:Second"]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "setr.toml").write_text(METHODS, encoding="utf-8")
    (tmp_path / "own_methods_of_test.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    (tmp_path / "own_package_of_test").mkdir()
    (tmp_path / "own_package_of_test" / "inner.py").write_text("Second = 1\n", encoding="utf-8")
    (tmp_path / "other.py").write_text("nothing = 1\n", encoding="utf-8")
    return load_settings(tmp_path / "setr.toml")


def versions(settings: Settings) -> tuple[str, str]:
    made = CodeVersions(settings)
    return made.version("1", ["coarse.strategies"]), made.version("1", ["coarse.top_k"])


@pytest.mark.parametrize("name", ["own_methods_of_test.py", "own_package_of_test/inner.py"])
def test_an_edited_module_changes_what_reads_it_and_only_that(settings: Settings, name: str) -> None:
    before, unconcerned = versions(settings)
    (settings.base_dir / "other.py").write_text("nothing = 2\n", encoding="utf-8")
    assert versions(settings) == (before, unconcerned)
    (settings.base_dir / name).write_text("changed = True\n", encoding="utf-8")
    after, still = versions(settings)
    assert after != before and still == unconcerned


def test_a_module_that_is_not_there_is_left_to_the_run_that_needs_it(settings: Settings) -> None:
    before, _ = versions(settings)
    (settings.base_dir / "own_methods_of_test.py").unlink()
    after, _ = versions(settings)
    assert after != before


SPACE = """
from setr_lib.methods.method import VectorMethod

ByOwn = VectorMethod("by_own_of_test", lambda inputs: inputs.queries.reference_vectors, space="own")
"""


@pytest.mark.parametrize(
    ("name", "read"), [("own_space_of_test.py", RANKED), ("own_benchmark_of_test.py", OWN_BENCHMARKS)]
)
def test_spaces_and_benchmarks_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: str | When
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "by_own_of_test.py").write_text(SPACE, encoding="utf-8")
    (tmp_path / "setr.toml").write_text(
        '[coarse]\nstrategies = ["intersection", "by_own_of_test:ByOwn"]\n'
        '[spaces.own]\nkind = "own_space_of_test:Space"\n'
        '[datasets.mine]\nkind = "own_benchmark_of_test:Mine"\nroot = "."\n',
        encoding="utf-8",
    )
    for file in ("own_space_of_test.py", "own_benchmark_of_test.py"):
        (tmp_path / file).write_text("one = 1\n", encoding="utf-8")
    settings = load_settings(tmp_path / "setr.toml")
    before = CodeVersions(settings).version("1", [read])
    assert CodeVersions(settings).version("1", [read]) == before != "1"
    (tmp_path / name).write_text("two = 2\n", encoding="utf-8")
    assert CodeVersions(settings).version("1", [read]) != before


def test_code_of_a_benchmark_is_not_read_where_none_is_named_by_path(tmp_path: Path) -> None:
    (tmp_path / "setr.toml").write_text('[datasets.cirr]\nroot = "."\n', encoding="utf-8")
    assert CodeVersions(load_settings(tmp_path / "setr.toml")).version("1", [OWN_BENCHMARKS]) == "1"
