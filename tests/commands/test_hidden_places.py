"""Pictures and models that this user may not look at, as another user's on a shared disk: told in words, by
commands in processes of their own (root gives up its right to look everywhere).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_judges import tiny_picture

ROOT = os.geteuid() == 0
AS_USER = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if ROOT else []
pytestmark = pytest.mark.skipif(ROOT and shutil.which("setpriv") is None, reason="root may look everywhere")


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[Path]:
    """A project whose pictures, and whose judge, lie in a folder that nobody may look into."""
    shared = tmp_path / "shared"
    (shared / "photos").mkdir(parents=True)
    (shared / "photos/a.png").write_bytes(tiny_picture(1))
    (shared / "judge").mkdir()
    (tmp_path / "setr.toml").write_text(
        '[datasets.photos]\nkind = "folder"\nroot = "shared/photos"\n[models.judge]\nname = "shared/judge"\n',
        encoding="utf-8",
    )
    shared.chmod(0)
    yield tmp_path
    shared.chmod(0o755)


def setr(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*AS_USER, sys.executable, "-m", "setr_lib.cli", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120)


def test_status_tells_where_a_project_stands_all_the_same(hidden: Path) -> None:
    done = setr(hidden, "status")
    assert done.returncode == 0, done.stderr
    assert "photos" in done.stdout and "next: " in done.stdout


def test_doctor_names_what_may_not_be_looked_at_and_whose_it_is_not(hidden: Path) -> None:
    done = setr(hidden, "doctor")
    words = " ".join(done.stdout.split())
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "this user may not look at the image folder (permission denied)" in words
    assert "permission denied)" in words.partition("multimodal LLM")[2].partition("device")[0]
    assert "miniature" not in words, "pictures of one's own are not taken for the miniature's"


def test_init_refuses_a_folder_that_may_not_be_looked_at(hidden: Path) -> None:
    (hidden / "setr.toml").unlink()
    done = setr(hidden, "init", "shared/photos")
    assert (done.returncode, done.stderr) == (
        1,
        "setr: shared/photos: this user may not look at it (permission denied)\n",
    )


def test_a_hidden_folder_among_the_pictures_hides_no_others(tmp_path: Path) -> None:
    (tmp_path / "photos/private").mkdir(parents=True)
    (tmp_path / "photos/a.png").write_bytes(tiny_picture(1))
    (tmp_path / "photos/private").chmod(0)
    done = setr(tmp_path, "init", "photos")
    (tmp_path / "photos/private").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "1 picture" in done.stdout and "private (Permission denied)" in done.stderr
