"""``setr cache check``: whether the kept results of model calls are what they should be."""

from __future__ import annotations

from setr_lib.commands.console import progress_on_terminal, quieten_libraries
from setr_lib.pipeline.cache_check import KindOfEntries, Recomputed, check_form, drop_faulty, recompute
from setr_lib.pipeline.context import pipeline_context
from setr_lib.settings import Settings

_SHOWN = 3


def check(settings: Settings, *, sample: int | None, drop: bool) -> int:
    """Print what is in the cache and what is wrong with it.

    Args:
        settings: They say where it is, and for a sample which models and evaluation sets there are.
        sample: Entries to compute again; none by default, and no model is loaded.
        drop: Whether entries at fault are deleted.

    Returns:
        0; 1 where an entry is at fault and stays, or comes out otherwise.

    Raises:
        SetrError: The file is no cache, or a model cannot be loaded.
    """
    path = settings.cache_path
    if not path.exists():
        print(f"{path}: nothing is kept yet")
        return 0
    kinds = check_form(path)
    print(path)
    for kind in kinds:
        print(f"  {_words(kind)}")
        for key, fault in list(kind.faults.items())[:_SHOWN]:
            print(f"    {key}: {fault}")
    faults = sum(len(kind.faults) for kind in kinds)
    if faults and drop:
        print(f"{drop_faulty(path, kinds):,} entries deleted; they are computed again when they are needed")
        faults = 0
    elif faults:
        print(f"{faults:,} entries are at fault: `setr cache check --drop` deletes them")
    if sample is None:
        return 1 if faults else 0
    quieten_libraries()
    with progress_on_terminal() as progress:
        found = recompute(pipeline_context(settings), sample, progress=progress)
    for line in _compared(found):
        print(line)
    return 1 if faults or found.different else 0


def _words(kind: KindOfEntries) -> str:
    if not kind.is_known:
        return f"{kind.name}: {kind.entries:,} entries of a kind that SETR does not write; not looked at"
    words = f"{kind.name}: {kind.entries:,} entries, {len(kind.faults):,} at fault"
    if kind.earlier:
        words += (
            f"; {kind.earlier:,} with keys of an earlier version, not used any more where a picture was shown"
        )
    return words


def _compared(found: Recomputed) -> list[str]:
    lines = [
        f"{found.compared:,} of {found.possible:,} entries that can be computed again were: "
        f"{len(found.different):,} came out otherwise"
    ]
    if found.failed:
        lines.append(f"{found.failed:,} could not be: their pictures cannot be read, or have changed")
    lines += [f"  {words}" for words in found.different[:_SHOWN]]
    if len(found.different) > _SHOWN:
        lines.append(f"  and {len(found.different) - _SHOWN:,} more")
    return lines
