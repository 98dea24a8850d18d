"""``setr repair NAME``: what is damaged on disk is set aside, what is whole of it is kept.

Exit status 0: nothing is damaged any more; 1: something is left that a person must see to.
"""

from __future__ import annotations

from setr_lib.damage import Part, one_line
from setr_lib.repairs import Repaired, repair
from setr_lib.settings import Settings


def run(settings: Settings, *, part: Part, look_only: bool) -> int:
    """Mend a part of what lies on disk, and say what was done.

    Args:
        settings: They say where it lies.
        part: Which part.
        look_only: Change nothing.

    Returns:
        0 where nothing damaged is left, 1 where something is.

    Raises:
        SetrError: Another process uses it, or it cannot be moved.
    """
    done = repair(settings, part, look_only=look_only)
    for line in lines_of(done):
        print(line)
    return 0 if done.mended and not (look_only and done.findings) else 1


def lines_of(done: Repaired) -> list[str]:
    """What a repair has found and done, in lines.

    Args:
        done: The repair.

    Returns:
        A line for each finding, and where things were put.
    """
    if not done.findings:
        return [f"{done.part}: nothing is damaged ({done.whole:,} looked at)"]
    lines = [f"{done.part}: {len(done.findings):,} damaged, {done.whole:,} whole"]
    lines += [f"  {one_line(f'{each.path} {each.fault}: {each.done}')}" for each in done.findings]
    lines += [
        f"  to make it again: {again}" for again in dict.fromkeys(f.again for f in done.findings) if again
    ]
    if done.folder is not None:
        lines.append(f"  set aside in {done.folder}: delete it when nothing of it is wanted any more")
    return lines
