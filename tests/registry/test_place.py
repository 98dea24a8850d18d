"""Where a served model looks for the base model that its bundle names."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.registry import place
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.place import Place, Project
from setr_lib.registry.system_bundle import EncoderReference, encoder_reference


def find(base: Place) -> str:
    return base.find("base model tiny", "SETR_BASE_MODEL", "base_model")


def test_a_copied_checkout_has_a_base_model_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in ("original", "copy"):
        (tmp_path / home / "weights").mkdir(parents=True)
    monkeypatch.setattr(place, "_package_home", lambda: tmp_path / "original")
    base = Place.of("weights", str(tmp_path / "original/weights"))
    assert (base.relative, base.path, base.is_local) == ("weights", None, True)
    assert find(base) == str(tmp_path / "original/weights")
    monkeypatch.setattr(place, "_package_home", lambda: tmp_path / "copy")
    assert find(base) == str(tmp_path / "copy/weights"), "not that of the checkout it was copied from"

    monkeypatch.setattr(place, "_package_home", lambda: tmp_path / "installed elsewhere")
    (tmp_path / "original").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert find(base) == str(tmp_path / "moved/weights"), "below the current folder"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match=r"installed elsewhere/weights, .*/weights; .*SETR_BASE_MODEL"):
        find(base)
    monkeypatch.setenv("SETR_BASE_MODEL", str(tmp_path / "copy/weights"))
    assert find(base) == str(tmp_path / "copy/weights")


def test_a_model_in_a_project_is_found_from_what_is_stored_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, bundle = tmp_path / "project", Path("var/mlartifacts/setr/models/m-1/artifacts/artifacts/judge")
    for folder in (project / "models" / "base", project / bundle, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/base").mkdir()  # around the project, and not its own
    place_of = Project(project, project / "var/mlartifacts")
    base = Place.of(str(project / "models/base"), str(project / "models/base"), place_of)
    assert (base.in_project, base.path, base.name) == ("models/base", None, "models/base")
    monkeypatch.chdir(tmp_path / "elsewhere")
    project = project.rename(tmp_path / "moved")
    assert base.recorded(project / bundle) == project / "models/base"
    assert base.recorded(tmp_path / "fetched" / bundle.relative_to("var")) is None
    with place.searched_below(project):
        assert find(base) == str(project / "models/base"), "as the round trip of a remote store finds it"
    with pytest.raises(RegistryError, match=r"base model tiny is not in .*elsewhere/models/base"):
        find(base)
    monkeypatch.chdir(project)
    assert find(base) == str(project / "models/base")


def test_what_lies_outside_of_the_project_has_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    project = Project(tmp_path / "project", tmp_path / "project/var/mlartifacts")
    base = Place.of("base", str(tmp_path / "shared"), project)
    assert (base.path, base.in_project) == (str(tmp_path / "shared"), None)
    assert find(base) == str(tmp_path / "shared")
    hub = Place.of("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Instruct", project)
    assert not hub.is_local and find(hub) == hub.name


def test_a_file_of_weights_is_found_as_a_folder_is(tmp_path: Path) -> None:
    class Encoder:
        id = "ViT-B-32@0a1b"

    project = tmp_path / "project"
    stored = project / "var/mlartifacts/setr/models/m-1/artifacts/artifacts/encoder"
    stored.mkdir(parents=True)
    (project / "weights.pt").write_bytes(b"1")
    options = {"name": "ViT-B-32", "pretrained": str(project / "weights.pt"), "batch_size": 4}
    found = Project(project, project / "var/mlartifacts")
    reference = encoder_reference(Encoder(), "open_clip", options, "ViT-B-32", found)  # pyright: ignore[reportArgumentType]
    assert str(tmp_path) not in reference.model_dump_json()
    assert reference.options == {"batch_size": 4}
    again = EncoderReference.model_validate_json(reference.model_dump_json())
    project = project.rename(tmp_path / "moved")
    stored = project / stored.relative_to(tmp_path / "project")
    assert again._file("pretrained", stored) == str(project / "weights.pt")
    (project / "weights.pt").unlink()
    with pytest.raises(RegistryError, match=r"needs the file weights\.pt \(pretrained\)"):
        again._file("pretrained", stored)
