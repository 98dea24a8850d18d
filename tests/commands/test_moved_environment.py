"""``.env``, DAGSTER_HOME and ``.venv`` of a project that was moved or copied."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from setr_lib.cli import main
from setr_lib.commands import env, place
from setr_lib.commands.venv import made_elsewhere
from setr_lib.errors import SetrError
from setr_lib.settings import Settings, load_settings

VENV = Path(__file__).parents[2] / "setr_lib" / "commands" / "venv.py"


def project(folder: Path) -> Settings:
    """A project with its ``.env``."""
    folder.mkdir(parents=True)
    (folder / "setr.toml").write_text("", encoding="utf-8")
    settings = load_settings(folder / "setr.toml")
    env.run(settings, write=True, quiet=True)
    return settings


def moved(settings: Settings, to: Path) -> Settings:
    shutil.copytree(settings.base_dir, to)
    return load_settings(to / "setr.toml")


@pytest.fixture
def before(tmp_path: Path) -> Settings:
    return project(tmp_path / "setr")


@pytest.fixture
def copy(before: Settings, tmp_path: Path) -> Settings:
    return moved(before, tmp_path / "copy of setr")


def run(settings: Settings, *arguments: str) -> int:
    return main(["--config", str(settings.base_dir / "setr.toml"), *arguments])


def test_a_stale_file_in_force_is_refused_with_the_command(
    before: Settings, copy: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(before.base_dir / "dagster_home"))  # as `dagster` reads it
    env.check(before)
    for refused in (env.check, env.apply):
        with pytest.raises(SetrError, match=r"copy of setr.* with `setr env --write`$") as told:
            refused(copy)
        assert f"was written for the project in {before.base_dir}:" in str(told.value)
    assert run(copy, "list", "methods") == 1
    assert capsys.readouterr().err.startswith(f"setr: {copy.base_dir / '.env'} was written for")

    assert run(copy, "env", "--write", "--quiet") == 0
    assert str(before.base_dir / "dagster_home") not in (copy.base_dir / ".env").read_text()
    # The shell still has it, and it is that of a project which is still there.
    with pytest.raises(SetrError, match=r"is that of the project in .*: `unset DAGSTER_HOME`"):
        env.check(copy)
    shutil.rmtree(before.base_dir)
    monkeypatch.setenv("DAGSTER_HOME", str(copy.base_dir / "dagster_home"))
    env.check(copy)


def test_a_stale_file_that_is_not_in_force_is_told(
    copy: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    env.check(copy)
    assert run(copy, "list", "benchmarks", "--json") == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].endswith("with `setr env --write`")
    assert run(copy, "env", "--write", "--quiet") == run(copy, "list", "benchmarks") == 0
    assert capsys.readouterr().err == ""


def test_make_is_named_where_there_is_a_makefile(copy: Settings) -> None:
    (copy.base_dir / "Makefile").write_text("x:\n\nsetup: x\n", encoding="utf-8")
    assert (env.stale_in_words(copy) or "").endswith("with `make setup`")


def test_the_definitions_are_refused_on_the_instance_of_another_place(
    before: Settings, copy: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setr_assets.definitions import settings_of_this_checkout

    monkeypatch.chdir(copy.base_dir)
    assert settings_of_this_checkout().base_dir == copy.base_dir
    monkeypatch.setenv("DAGSTER_HOME", str(before.base_dir / "dagster_home"))
    with pytest.raises(SetrError, match="was written for the project in"):
        settings_of_this_checkout()


def test_an_instance_of_ones_own_may_be_shared(
    copy: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.run(copy, write=True, quiet=True)
    for shared in (tmp_path / "instances", tmp_path / "service" / "dagster_home"):
        monkeypatch.setenv("DAGSTER_HOME", str(shared))
        env.check(copy)


def test_what_a_person_wrote_stays(before: Settings, tmp_path: Path) -> None:
    file = before.base_dir / ".env"
    file.write_text("DAGSTER_HOME=/mine\n" + file.read_text() + "MINE=1", encoding="utf-8")
    copy = moved(before, tmp_path / "b")
    env.run(copy, write=True, quiet=True)
    lines = (copy.base_dir / ".env").read_text().splitlines()
    assert lines[0] == "DAGSTER_HOME=/mine" and lines[-1] == "MINE=1"
    assert lines.count(f"DAGSTER_HOME={copy.base_dir / 'dagster_home'}") == 1
    assert str(before.base_dir / "dagster_home") not in "\n".join(lines)


def test_a_file_that_lost_its_last_mark_loses_no_line_of_a_person(before: Settings) -> None:
    file = before.base_dir / ".env"
    written = file.read_text()
    file.write_text(f"FIRST=1\n{written.replace('# end', '')}MINE=1\nOTHER='2 3'\n", encoding="utf-8")
    env.run(before, write=True, quiet=True)
    lines = file.read_text().splitlines()
    assert lines[0] == "FIRST=1" and [line for line in lines[-3:] if line] == ["MINE=1", "OTHER='2 3'"]
    assert sum(line.startswith("DAGSTER_HOME=") for line in lines) == 1
    file.write_text("FIRST=1", encoding="utf-8")  # without a newline at its end
    env.run(before, write=True, quiet=True)
    assert file.read_text().startswith(f"FIRST=1\n{written}")


# --- .venv


def make_venv(folder: Path) -> Path:
    """A real environment with SETR "installed" as `pip install -e` does it."""
    venv = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "_editable_impl_setr.pth").write_text(str(folder))
    (venv / "bin" / "setr").write_text(f"#!{venv}/bin/python\nimport setr_lib\n")
    return venv


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkouts") / "setr"
    (folder / "setr_lib").mkdir(parents=True)
    (folder / "setr_lib" / "__init__.py").touch()
    make_venv(folder)
    return folder


def test_an_environment_of_its_folder_is_sound(checkout: Path, tmp_path: Path) -> None:
    assert made_elsewhere(checkout / ".venv", checkout) is None
    assert made_elsewhere(tmp_path / ".venv", tmp_path) is None, "there is none"
    link = tmp_path / "by another way"
    link.symlink_to(checkout)
    assert made_elsewhere(link / ".venv", link) is None


def test_an_environment_that_came_from_elsewhere_is_known(checkout: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkout, tmp_path / "copy", symlinks=True))
    assert f"was made as {checkout / '.venv'}" in (made_elsewhere(copy / ".venv", copy) or "")
    assert made_elsewhere(checkout / ".venv", checkout) is None
    settings = Settings(base_dir=copy)
    words = place.venv_in_words(settings) or ""
    assert words.endswith("`make setup` makes it anew")
    told = subprocess.run(
        [sys.executable, "-I", str(VENV), ".venv"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert (told.returncode, str(checkout) in told.stdout) == (3, True)
    sound = subprocess.run([sys.executable, "-I", str(VENV), ".venv"], cwd=checkout, check=False)
    assert sound.returncode == 0


@pytest.mark.parametrize("file", ["pyvenv.cfg", "bin/activate", "bin/setr", "pth", "link", "python"])
def test_each_trace_of_another_folder_is_enough(checkout: Path, tmp_path: Path, file: str) -> None:
    own = tmp_path / "own"
    (own / "setr_lib").mkdir(parents=True)
    venv = make_venv(own)
    assert made_elsewhere(venv, own) is None
    if file == "pth":
        (path,) = venv.glob("lib/python*/site-packages/_editable_impl_setr.pth")
        path.write_text(str(checkout))
    elif file == "link":
        shutil.rmtree(venv)
        venv.symlink_to(checkout / ".venv")
    elif file == "python":
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    else:
        text = (venv / file).read_text()
        assert str(own) in text
        (venv / file).write_text(text.replace(str(own), str(checkout)))
    assert made_elsewhere(venv, own) is not None
