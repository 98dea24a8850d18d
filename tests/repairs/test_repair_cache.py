"""The cache of model calls, damaged: told in one line, and every readable entry is kept, once."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from damages import (
    Damage,
    a_file,
    a_folder,
    assert_told,
    cut,
    emptied,
    garbage,
    gone,
    holed,
    mend,
    name_of,
    text,
)

from setr_lib.content_cache import ContentCache
from setr_lib.damage import NoSpaceError
from setr_lib.errors import SetrError

ENTRIES = {f"key-{number:04d}": f"value {number} " + "x" * 40 for number in range(3000)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cache with 3,000 entries, closed: one file without a log."""
    path = tmp_path / "var" / "cache" / "model_calls.sqlite"
    ContentCache(path, "captions").put_many(ENTRIES)
    ContentCache(path, "judge_scores").put_numbers({"a": 0.5})
    gc.collect()
    return path


def use(path: Path) -> dict[str, str]:
    """What a run does: open it, look everything up, add something."""
    cache = ContentCache(path, "captions")
    found = cache.get_many(ENTRIES)
    cache.put_many({"new": "entry"})
    return found


@pytest.mark.parametrize("damage", [cut, garbage, a_folder, holed, text("hello")], ids=name_of)
def test_a_damaged_cache_is_told_and_its_readable_entries_are_kept(
    path: Path, tmp_path: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(path)
    with pytest.raises(SetrError) as told:
        use(path)
    assert_told(str(told.value), "cache", path)
    gc.collect()
    assert mend(tmp_path, "cache") == 0
    assert "set aside" in capsys.readouterr().out
    (aside,) = (tmp_path / "var" / "set-aside").glob("*-cache")
    assert (aside / "cache" / path.name).exists()
    found = use(path)
    assert found.items() <= ENTRIES.items()
    if damage in (cut, holed):
        assert len(found) > 1000
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_only_the_entries_of_the_damaged_pages_are_lost(path: Path, tmp_path: Path) -> None:
    holed(path)
    assert mend(tmp_path, "cache") == 0
    # 4 KB of garbage touch two pages of some forty entries each, and one of the index of keys.
    assert len(use(path)) >= len(ENTRIES) - 150


def test_a_cache_whose_header_is_overwritten_is_read_all_the_same(path: Path, tmp_path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xff" * 60)
    assert mend(tmp_path, "cache") == 0
    assert use(path) == ENTRIES
    assert ContentCache(path, "judge_scores").get_numbers(["a"]) == {"a": 0.5}


def test_an_entry_that_is_no_text_costs_itself_alone(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE captions SET value = CAST(x'ff00fe' AS TEXT) WHERE key = 'key-0007'")
    with pytest.raises(SetrError) as told:
        use(path)
    assert_told(str(told.value), "cache", path)
    gc.collect()
    assert mend(tmp_path, "cache") == 0
    assert use(path) == {key: value for key, value in ENTRIES.items() if key != "key-0007"}


@pytest.mark.parametrize("damage", [gone, emptied], ids=name_of)
def test_a_cache_that_is_gone_is_a_new_one(path: Path, tmp_path: Path, damage: Damage) -> None:
    damage(path)
    assert use(path) == {}
    gc.collect()
    assert mend(tmp_path, "cache") == 0


def test_a_file_in_the_place_of_its_folder_is_told(path: Path, tmp_path: Path) -> None:
    a_file(path.parent)
    with pytest.raises(SetrError) as told:
        use(path)
    assert_told(str(told.value), "cache", path.parent)
    assert mend(tmp_path, "cache") == 0
    assert use(path) == {}


def test_to_look_changes_nothing(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(path)
    before = path.read_bytes()
    assert mend(tmp_path, "cache", "--look") == 1
    assert "its readable entries would be kept" in capsys.readouterr().out
    assert path.read_bytes() == before and not (tmp_path / "var" / "set-aside").exists()


def test_a_whole_cache_stays_as_it_is(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mend(tmp_path, "cache") == 0
    assert "nothing is damaged" in capsys.readouterr().out
    assert use(path) == ENTRIES


def test_a_full_cache_says_which_disk_and_how_much_is_free(path: Path) -> None:
    cache = ContentCache(path, "captions")
    cache._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own words for a full disk
    with pytest.raises(
        NoSpaceError, match=rf"^no space left on the disk /\S* \(.* free of .*\).*{path}.* kept"
    ) as told:
        cache.put_many({f"more-{number}": "x" * 1000 for number in range(1000)})
    assert "\n" not in str(told.value)
    assert cache.get_many(ENTRIES) == ENTRIES
