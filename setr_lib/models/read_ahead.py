"""Weight files read into the page cache while libraries are still being imported: a disk and a processor at
work at the same time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path

from setr_lib.models.hub_cache import hub_cache
from setr_lib.settings import DEFAULT_SPACE, LOCAL_FOLDER, Settings

_WEIGHTS = (".safetensors", ".bin", ".pt")


def read_ahead(settings: Settings, *, space: str, judge: bool) -> threading.Thread:
    """Have the operating system read the weights that a search will load; nothing waits for it.

    Args:
        settings: They name the models.
        space: The embedding space that is searched; only that of ``[models.encoder]`` is known here.
        judge: Whether the multimodal LLM is loaded, too.

    Returns:
        The thread that asks for it, which ends by itself.
    """
    names = [settings.encoder_name.removeprefix(LOCAL_FOLDER)] if space == DEFAULT_SPACE else []
    names += [settings.judge_name] if judge else []
    files = [file for name in names for file in _weight_files(name)]
    thread = threading.Thread(target=_ask, args=(files,), name="setr-read-ahead", daemon=True)
    thread.start()
    return thread


def _weight_files(name: str) -> list[Path]:
    """The weights in a local folder, or those of a hub id in the hub's cache; none where there are none."""
    folder, pattern = Path(name), "*"
    if not folder.is_dir():
        pattern = "*/*"
        folder = hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
    try:
        return [file for file in sorted(folder.glob(pattern)) if file.suffix in _WEIGHTS and file.is_file()]
    except OSError:
        return []


def _ask(files: Iterable[Path]) -> None:
    if not hasattr(os, "posix_fadvise"):
        return  # no such call on this system: the weights are read when they are loaded
    for file in files:
        try:
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        except OSError:
            return  # whoever loads it says what is wrong
