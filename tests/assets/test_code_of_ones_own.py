"""Code versions hold the code that settings name by path: an edited method makes its rankings stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_assets.code_versions import CodeVersions
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
