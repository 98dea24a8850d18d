"""Files are written as a whole: what is there stays until its successor is complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from setr_lib.files import read_json, replacing, write_json, write_text


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "made" / "page.html"
    write_text(path, "first")
    with pytest.raises(ValueError, match="half"), replacing(path) as partial:
        partial.write_text("second, by hal")
        assert path.read_text() == "first"
        raise ValueError("half")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    assert path.read_text() == "first"


def test_a_file_is_as_readable_as_any_other_of_its_owner(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "whole", "text")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_read_back_and_what_is_no_object_is_none(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    assert read_json(path) is None
    write_json(path, {"caption": "ein Stern, größer"})
    assert read_json(path) == {"caption": "ein Stern, größer"}
    for content in ("[1]", "{"):
        path.write_text(content)
        assert read_json(path) is None
