"""Links in the storage that lead nowhere: told with where they lead, set aside, and the next run succeeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from damages import assert_told, mend

from setr_lib.content_cache import ContentCache
from setr_lib.errors import SetrError


@pytest.mark.parametrize("place", ["var/cache", "var/cache/model_calls.sqlite"])
@pytest.mark.parametrize("circle", [False, True], ids=["nowhere", "circle"])
def test_a_dead_link_is_told_and_set_aside(
    tmp_path: Path, place: str, circle: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, link = tmp_path / "var/cache/model_calls.sqlite", tmp_path / place
    link.parent.mkdir(parents=True)
    link.symlink_to(link if circle else "/nowhere/at/all")
    with pytest.raises(SetrError) as told:
        ContentCache(cache, "captions").put_many({"a": "b"})
    assert_told(str(told.value), "cache", link)
    assert mend(tmp_path, "cache") == 0
    assert "link" in capsys.readouterr().out
    assert not link.is_symlink()
    assert len([each for each in (tmp_path / "var/set-aside").rglob("*") if each.is_symlink()]) == 1
    ContentCache(cache, "captions").put_many({"a": "b"})
    assert mend(tmp_path, "cache") == 0
    assert "nothing is damaged" in capsys.readouterr().out


def test_a_storage_root_that_leads_nowhere_is_for_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "var").symlink_to("/nowhere/at/all")
    assert mend(tmp_path, "tables") == 1
    assert "var: is a link that leads nowhere (/nowhere/at/all)" in capsys.readouterr().err
    with pytest.raises(SetrError) as told:
        ContentCache(tmp_path / "var/cache/model_calls.sqlite", "captions").put_many({"a": "b"})
    assert_told(str(told.value), "cache", f"{tmp_path / 'var'} is a link that leads nowhere")
