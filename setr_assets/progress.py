"""Where a step's progress goes: to whoever listens in this process (``setr run``'s bars), and to Dagster's
log.

Dagster keeps every log line as an event, so the log gets a line every few seconds at most, not one per batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from setr_lib.escaping import visible

if TYPE_CHECKING:
    import dagster as dg

    from setr_lib.pipeline.context import PipelineContext
    from setr_lib.progress import Progress

LOG_INTERVAL = 15.0
"""Seconds between two progress lines of one step in Dagster's log."""


class Listener(Protocol):
    """What is told of the steps that this process runs; ``step`` is the asset's name."""

    def started(self, step: str) -> None:
        """A step begins.

        Args:
            step: The asset's name.
        """

    def progressed(self, step: str, partition: str, done: int, total: int, what: str) -> None:
        """A part of a step's work is done.

        Args:
            step: The asset's name.
            partition: The evaluation set; empty where there is none.
            done: Units that are finished.
            total: All units.
            what: The unit and the work, e.g. ``images embedded``.
        """

    def said(self, step: str, text: str, warning: bool) -> None:
        """Something worth knowing, in one line.

        Args:
            step: The asset's name.
            text: The line.
            warning: Whether it is a warning.
        """

    def finished(self, step: str, seconds: float, succeeded: bool) -> None:
        """A step is over.

        Args:
            step: The asset's name.
            seconds: How long it took.
            succeeded: Whether it succeeded.
        """


_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell a listener of every step that this process runs inside a ``with`` block.

    Args:
        listener: The listener.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Tell listeners when a step begins and ends, and why it fails.

    Args:
        name: The asset's name.
    """
    begun, succeeded = time.monotonic(), False
    for listener in _listeners:
        listener.started(name)
    try:
        yield
        succeeded = True
    except Exception as error:
        for listener in _listeners:
            listener.said(name, visible(str(getattr(error, "description", None) or error)), True)
        raise
    finally:
        for listener in _listeners:
            listener.finished(name, time.monotonic() - begun, succeeded)


def say(context: dg.AssetExecutionContext, text: str, *, warning: bool = False) -> None:
    """Tell a person something, in Dagster's log and to listeners.

    Args:
        context: The step's context.
        text: One line.
        warning: Whether it is a warning.
    """
    (context.log.warning if warning else context.log.info)(visible(text))
    for listener in _listeners:
        listener.said(context.asset_key.to_user_string(), text, warning)


def warn_of_unused_prompts(context: dg.AssetExecutionContext, setr: PipelineContext) -> None:
    """Say in one line which judge prompts of the prompt folder are not used; nothing where there are none.

    Args:
        context: The step's context.
        setr: The pipeline context, which knows the prompt folder.
    """
    if warning := setr.prompts().unused_files_warning():
        say(context, warning, warning=True)


def reporter(context: dg.AssetExecutionContext, partition: str = "") -> Progress:
    """The ``Progress`` that a library call of this step gets.

    Args:
        context: The step's context.
        partition: The evaluation set; empty where there is none.

    Returns:
        A callback that writes to Dagster's log and tells listeners.
    """
    asset = context.asset_key.to_user_string()
    log = throttled(context.log.info, f"{partition}: " if partition else "")

    def report(done: int, total: int, what: str) -> None:
        for listener in _listeners:
            listener.progressed(asset, partition, done, total, what)
        log(done, total, what)

    return report


def throttled(log: Callable[[str], None], prefix: str = "") -> Progress:
    """Progress as log lines, one every ``LOG_INTERVAL`` seconds at most.

    Args:
        log: Writes a line.
        prefix: What every line begins with.

    Returns:
        The callback.
    """
    last = time.monotonic()

    def report(done: int, total: int, what: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= LOG_INTERVAL:
            last = now
            log(f"{prefix}{done:,} of {total:,} {what}")

    return report
