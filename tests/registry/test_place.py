"""Where a served model looks for the base model that its bundle names."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.registry import place
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.place import Place


def find(base: Place) -> str:
    return base.find("base model tiny", "SETR_BASE_MODEL", "base_model")


def test_a_copied_checkout_has_a_base_model_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in ("original", "copy"):
        (tmp_path / home / "weights").mkdir(parents=True)
    monkeypatch.setattr(place, "_package_home", lambda: tmp_path / "original")
    base = Place.of("weights", str(tmp_path / "original/weights"))
    assert base.relative == "weights"
    assert find(base) == str(tmp_path / "original/weights")
    monkeypatch.setattr(place, "_package_home", lambda: tmp_path / "copy")
    assert find(base) == str(tmp_path / "copy/weights"), "not that of the checkout it was copied from"

    monkeypatch.setattr(place, "_package_home", lambda: tmp_path / "installed elsewhere")
    assert find(base) == str(tmp_path / "original/weights"), "where it was"
    (tmp_path / "original").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert find(base) == str(tmp_path / "moved/weights"), "below the current folder"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        RegistryError, match=r"installed elsewhere/weights, .*original/weights, .*SETR_BASE_MODEL"
    ):
        find(base)
    monkeypatch.setenv("SETR_BASE_MODEL", str(tmp_path / "copy/weights"))
    assert find(base) == str(tmp_path / "copy/weights")
