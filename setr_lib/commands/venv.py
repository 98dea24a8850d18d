"""Whether a virtual environment was made for another folder: it holds absolute paths, so one that was moved
or copied runs the Python, and the code, of where it came from.

`make setup` runs this file by path, with a Python that has no package: it imports the standard library alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_ACTIVATED = re.compile(r"""^\s*(?:export )?VIRTUAL_ENV=["']?(/[^"'\n]*?)["']?\s*$""", re.MULTILINE)
_MADE_BY = re.compile(r"^command\s*=.*-m venv (?:--?\S+ )*(/.*)$", re.MULTILINE)
_SHEBANG = re.compile(r"""^#!(/.*?/bin)/python|^'''exec' ["']?(/.*?/bin)/python""", re.MULTILINE)


def made_elsewhere(venv: Path, checkout: Path | None = None) -> str | None:
    """Why a virtual environment is not one of its folder.

    Args:
        venv: The environment.
        checkout: The folder of the code that should be installed in it, if that is installed as it is
            (``pip install -e``).

    Returns:
        The reason in words; None for a sound environment, and where there is none.
    """
    if not venv.is_dir():
        return f"{venv} is a link to nothing" if venv.is_symlink() else None
    here = venv.resolve()
    for file, pattern in (
        ("pyvenv.cfg", _MADE_BY), ("bin/activate", _ACTIVATED), ("bin/setr", _SHEBANG),
    ):  # fmt: skip
        named = _named(venv / file, pattern)
        if file == "bin/setr" and named is not None:
            named = named.parent
        if named is not None and named.resolve() != here:
            return f"{venv} was made as {named} ({file})"
    python = venv / "bin" / "python"
    if python.is_symlink() and not python.exists():
        return f"{python} is a link to a Python that is not there"
    codes = _installed_as_it_is(venv)
    if checkout is not None and (other := [code for code in codes if code.resolve() != checkout.resolve()]):
        return f"{venv} runs the code of {other[0]}"
    return None


def _named(file: Path, pattern: re.Pattern[str]) -> Path | None:
    """The folder that a file of the environment names."""
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            found = pattern.search(opened.read(10_000))
    except OSError:
        return None
    return Path(next(part for part in found.groups() if part)) if found else None


def _installed_as_it_is(venv: Path) -> list[Path]:
    """The folders of SETR's code that the environment's path files name."""
    found: list[Path] = []
    for file in sorted(venv.glob("lib/python*/site-packages/*setr*.pth")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [Path(line) for line in lines if line.startswith("/")]
    return found


def main() -> int:
    """Print why the environment that the first argument names is not one of this folder.

    Returns:
        3 where it is not (1 is a Python that cannot run this file), else 0.
    """
    reason = made_elsewhere(Path(sys.argv[1]).absolute(), Path.cwd())
    if reason is not None:
        print(reason)
    return 0 if reason is None else 3


if __name__ == "__main__":
    sys.exit(main())
