"""``setr env``: the environment that makes bare ``dagster`` and ``mlflow`` commands see SETR's stores.

``dagster`` reads ``.env`` from the folder it starts in; ``mlflow --env-file .env`` does too. Only the lines
between the two marks are SETR's: a person's own lines in that file stay.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setr_lib.damage import explain
from setr_lib.errors import SetrError
from setr_lib.pipeline.storage import places_of
from setr_lib.settings import Settings

_BEGIN = "# begin: written by `setr env --write`; your own lines go above or below"
_END = "# end"
_INSTANCE_FILE = "dagster.yaml"


def environment(settings: Settings) -> dict[str, str]:
    """The variables that Dagster and MLflow need.

    Args:
        settings: The settings.

    Returns:
        Name -> value; paths are absolute, as Dagster demands of DAGSTER_HOME.
    """
    return {
        "DAGSTER_HOME": str(settings.base_dir / "dagster_home"),
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
        SetrError: A folder cannot be made.
    """
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
        path = settings.base_dir / ".env"
        prepare(settings)
        _write(path, lines)
    if not quiet:
        print("\n".join(lines))
    return 0


def _quoted(value: str) -> str:
    return value if all(letter.isalnum() or letter in "_-./:@%+," for letter in value) else f"'{value}'"


def _write(path: Path, lines: list[str]) -> None:
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        head, _, rest = before.partition(f"{_BEGIN}\n")
        tail = rest.partition(f"{_END}\n")[2]
        after = "".join([head, _BEGIN, "\n", "\n".join(lines), "\n", _END, "\n", tail])
        if after != before:
            path.write_text(after, encoding="utf-8")
    except OSError as error:
        raise SetrError(f"{path}: cannot be written ({error.strerror}): make the folder writable") from error
