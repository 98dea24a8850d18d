"""Modules that wait for their first use give what they would have given at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from setr_lib.commands import waiting_imports as module
from setr_lib.commands.waiting_imports import waiting_imports

SLOW = """
loaded = True
def double(number): return 2 * number
class Base:
    limit = 3
    def name(self): return "base"
class Other: pass
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package ``waits_for``, whose part ``slow`` waits for three of its names."""
    folder = tmp_path / "waits_for"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "slow.py").write_text(SLOW)
    (folder / "quick.py").write_text("from waits_for.slow import Base, double\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "WAITING", {"waits_for.slow": ("Base", "double"), "not_installed": ()})
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "waits_for"]:
        del sys.modules[name]


def is_loaded() -> bool:
    return "loaded" in vars(sys.modules.get("waits_for.slow", object))


@pytest.mark.usefixtures("library")
class TestWaiting:
    def test_a_function_is_imported_when_it_is_called(self) -> None:
        with waiting_imports():
            from waits_for.quick import double  # pyright: ignore[reportMissingImports]

            assert not is_loaded()
            assert double(4) == 8
            assert is_loaded()

    def test_a_class_can_be_made_subclassed_and_asked_for(self) -> None:
        with waiting_imports():
            from waits_for.quick import Base  # pyright: ignore[reportMissingImports]

            assert not is_loaded()

            class Mine(Base):
                pass

            assert Mine().name() == "base" and Base.limit == 3
            assert isinstance(Mine(), Base) and isinstance(Base(), Base) and issubclass(Mine, Base)
            assert not isinstance(3, Base)

    def test_any_other_name_imports_the_module_at_once(self) -> None:
        with waiting_imports():
            from waits_for.slow import Other  # pyright: ignore[reportMissingImports]

            assert is_loaded() and isinstance(Other, type)
            with pytest.raises(ImportError):
                from waits_for.slow import missing  # noqa: F401  # pyright: ignore

    def test_nothing_waits_after_the_block_and_what_was_taken_in_it_works(self) -> None:
        with waiting_imports():
            from waits_for.quick import double  # pyright: ignore[reportMissingImports]
        assert "waits_for.slow" not in sys.modules
        assert double(1) == 2 and is_loaded()

    def test_a_package_that_is_not_installed_stays_so(self) -> None:
        with waiting_imports(), pytest.raises(ImportError):
            import not_installed  # noqa: F401  # pyright: ignore[reportMissingImports]
