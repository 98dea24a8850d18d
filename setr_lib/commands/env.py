"""``setr env``: the environment that makes bare ``dagster`` and ``mlflow`` commands see SETR's stores.

``dagster`` reads ``.env`` from the folder it starts in; ``mlflow --env-file .env`` does too. Only the lines
between the two marks are SETR's: a person's own lines in that file stay.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from setr_lib.commands.console import say_error, talk
from setr_lib.damage import explain
from setr_lib.errors import SetrError
from setr_lib.files import sqlite_path
from setr_lib.pipeline.storage import places_of
from setr_lib.settings import SETTINGS_FILE, Settings

_HOME = "DAGSTER_HOME"
_BEGIN = "# begin: written by `setr env --write`; your own lines go above or below"
_END = "# end"
_FILE = ".env"
_INSTANCE_FILE = "dagster.yaml"


def environment(settings: Settings) -> dict[str, str]:
    """The variables that Dagster and MLflow need.

    Args:
        settings: The settings.

    Returns:
        Name -> value; paths are absolute, as Dagster demands of DAGSTER_HOME.
    """
    return {
        _HOME: str(settings.base_dir / "dagster_home"),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.artifact_root.as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }


def apply(settings: Settings) -> None:
    """Set the variables for this process and its children, unless they are set already, and make the folders.

    Args:
        settings: The settings.

    Raises:
        SetrError: A folder cannot be made, or a variable is another project's.
    """
    check(settings)
    for name, value in environment(settings).items():
        os.environ.setdefault(name, value)
    prepare(settings)


def prepare(settings: Settings) -> None:
    """Make the folders that Dagster and SQLite expect; a settings file elsewhere gets SETR's instance file,
    too.

    Args:
        settings: The settings.

    Raises:
        SetrError: A folder cannot be made.
    """
    home = settings.base_dir / "dagster_home"
    ours = Path(__file__).parents[2] / "dagster_home" / _INSTANCE_FILE
    try:
        settings.storage_root.mkdir(parents=True, exist_ok=True)
        home.mkdir(parents=True, exist_ok=True)
        if ours.is_file() and not (home / _INSTANCE_FILE).exists():
            shutil.copyfile(ours, home / _INSTANCE_FILE)
    except OSError as error:
        if (told := explain(error, places_of(settings))) is not None:
            raise told from error
        raise SetrError(
            f"{error.filename}: cannot be made ({error.strerror}): make its folder writable"
        ) from error


def write_once(settings: Settings) -> Path | None:
    """Write the variables to ``.env`` where SETR's lines are not in it yet, and no other DAGSTER_HOME is set.

    Args:
        settings: The settings.

    Returns:
        The file, if it was written now.

    Raises:
        SetrError: A file or folder cannot be written.
    """
    file = settings.base_dir / _FILE
    if os.environ.get(_HOME) or _HOME in _written(file):
        return None
    run(settings, write=True, quiet=True)
    return file


def run(settings: Settings, *, write: bool, quiet: bool) -> int:
    """Print the variables as ``.env`` lines, and write them where asked to.

    Args:
        settings: The settings.
        write: Whether to write them to ``.env`` beside ``setr.toml``.
        quiet: Whether to print nothing.

    Returns:
        The exit status, 0.

    Raises:
        SetrError: A file or folder cannot be written.
    """
    lines = [f"{name}={_quoted(value)}" for name, value in environment(settings).items()]
    if write:
        prepare(settings)
        _write(settings.base_dir / _FILE, lines)
        _have_locations_of_today(settings)
    if not quiet:
        print("\n".join(lines))
    return 0


def stale(settings: Settings) -> Path | None:
    """The folder for which the lines of ``.env`` were written, if that is another than the settings' own.

    Args:
        settings: The settings.

    Returns:
        The folder; None where the lines are right, or there are none.
    """
    home = _written(settings.base_dir / _FILE).get(_HOME)
    if home is None or _same(Path(home), settings.base_dir / "dagster_home"):
        return None
    return Path(home).parent


def stale_in_words(settings: Settings) -> str | None:
    """What is wrong with ``.env``, and the command that mends it; None where nothing is.

    Args:
        settings: The settings.
    """
    folder = stale(settings)
    if folder is None:
        return None
    return (
        f"{settings.base_dir / _FILE} was written for the project in {folder}: `dagster` and `mlflow` would "
        f"use that one's stores; write it anew, in {settings.base_dir}, with `{_mended_by(settings)}`"
    )


def check(settings: Settings) -> None:
    """Refuse to run on the Dagster instance of another project: this folder was moved or copied, and the
    variables of where it was are in force.

    Args:
        settings: The settings.

    Raises:
        SetrError: ``.env`` of this folder was written for another, and its DAGSTER_HOME is set; or the
            DAGSTER_HOME that is set lies in another project's folder. One that is nobody's may be shared.
    """
    home = os.environ.get(_HOME)
    if not home or _same(Path(home), settings.base_dir / "dagster_home"):
        return
    if (words := stale_in_words(settings)) and home == _written(settings.base_dir / _FILE).get(_HOME):
        raise SetrError(words)
    other = Path(home).parent
    is_around = settings.base_dir.is_relative_to(other) or other.is_relative_to(settings.base_dir)
    if Path(home).name == "dagster_home" and (other / SETTINGS_FILE).is_file() and not is_around:
        raise SetrError(
            f"{_HOME}={home} is that of the project in {other}, and this one is in {settings.base_dir}: "
            f"`unset {_HOME}`, then `{_mended_by(settings)}`"
        )


def _written(file: Path) -> dict[str, str]:
    """The variables in SETR's lines of a file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = text.partition(f"{_BEGIN}\n")[2].partition(f"\n{_END}")[0].splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name: value.strip("'") for name, _, value in pairs if value}


def _same(first: Path, second: Path) -> bool:
    return os.path.realpath(first) == os.path.realpath(second)


def _mended_by(settings: Settings) -> str:
    makefile = settings.base_dir / "Makefile"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if "\nsetup:" in makefile.read_text(encoding="utf-8"):
            return "make setup"
    return "setr env --write"


def _have_locations_of_today(settings: Settings) -> None:
    """Let MLflow's own doors find the artifacts of a project that was moved or copied."""
    from setr_lib.registry.locations import relocate_own

    database = sqlite_path(settings.tracking_uri)
    if database is None or not database.is_file():
        return
    try:
        done = relocate_own(database, settings.artifact_root)
    except SetrError as error:  # the file is at fault, and is told by what needs it
        say_error(error)
        return
    if done.before is not None:
        talk(
            f"{database}: {done.changed} locations of artifacts were below {done.before}, and are now "
            f"below {settings.artifact_root}"
        )


def _quoted(value: str) -> str:
    return value if all(letter.isalnum() or letter in "_-./:@%+," for letter in value) else f"'{value}'"


def _write(path: Path, lines: list[str]) -> None:
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        head, _, rest = before.partition(f"{_BEGIN}\n")
        if head and not head.endswith("\n"):
            head += "\n"
        own = _own_lines(rest, {line.partition("=")[0] for line in lines})
        after = "".join([head, _BEGIN, "\n", "\n".join(lines), "\n", _END, "\n", *own])
        if after != before:
            path.write_text(after, encoding="utf-8")
    except OSError as error:
        raise SetrError(f"{path}: cannot be written ({error.strerror}): make the folder writable") from error
    except UnicodeDecodeError as error:
        raise SetrError(f"{path}: not UTF-8 ({error.reason}): save it as UTF-8, or remove it") from error


def _own_lines(rest: str, names: set[str]) -> list[str]:
    """A person's lines below SETR's first mark: those after the last mark; without one, all but SETR's."""
    lines = rest.splitlines(keepends=True)
    marks = [number for number, line in enumerate(lines) if line.rstrip() == _END]
    if marks:
        return lines[marks[0] + 1 :]
    return [line for line in lines if line.partition("=")[0] not in names]
