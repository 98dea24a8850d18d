"""``setr run``: the pipeline on one's own data sets, carried out by the runner that is installed."""

from __future__ import annotations

from setr_lib.runners import RunRequest, runner


def run(request: RunRequest) -> int:
    """Carry out a run, or print its steps.

    Args:
        request: What to run.

    Returns:
        The exit status: 0 where all was done, 1 where something failed.

    Raises:
        SetrError: Nothing can be run at all.
    """
    return runner()(request)
