"""Ctrl-C in ``setr run``: the interruption is this process's alone, not that of Dagster's helpers."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg


def keep_from_helpers(instance: dg.DagsterInstance) -> None:
    """Let the processes that copy a step's output begin with SIGINT blocked.

    A terminal sends Ctrl-C to all of them, and one in Python would print a traceback of its own. Dagster ends
    them when the step ends.

    Args:
        instance: The instance whose runs are carried out in this process.
    """
    manager: Any = instance.compute_log_manager
    capture_logs = manager.capture_logs

    @contextmanager
    def capture(log_key: Sequence[str]) -> Iterator[Any]:
        with ExitStack() as stack:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children begin with it
            try:
                captured = stack.enter_context(capture_logs(log_key))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield captured

    manager.capture_logs = capture
