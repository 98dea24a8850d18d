"""Where the prompt files of a set lie. Light: Dagster's code location asks on every start, before anything is
loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

BUILT_IN = Path(__file__).parent / "prompts"


def prompt_folder(name: str, base_dir: Path) -> Path:
    """The folder of prompt set ``name``; whether it is there is not checked.

    Args:
        name: ``standard``, ``miniature``, or a path of your own, as in ``models.judge.prompts``.
        base_dir: The folder that a relative path starts from.

    Returns:
        An absolute path if ``base_dir`` is one.
    """
    built_in = BUILT_IN / name
    return built_in if re.fullmatch(r"\w+", name) and built_in.is_dir() else base_dir / name
