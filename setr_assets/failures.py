"""How a step fails: an error meant for a person is not retried, and its text is the run's failure message."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dagster as dg

from setr_assets.progress import say
from setr_lib.damage import Notices, explain, explained
from setr_lib.errors import SetrError
from setr_lib.escaping import visible
from setr_lib.pipeline.context import PipelineContext
from setr_lib.pipeline.storage import places_of
from setr_lib.settings import Settings

_COMMANDS = ("dagster", "dg")
_last_words: dict[str, None] = {}
"""Why steps of this process failed, each once."""


@contextmanager
def failing_in_words(setr: PipelineContext | None) -> Iterator[None]:
    """Give Dagster the errors of a block as failures that are not retried, damage on disk in words.

    Args:
        setr: The pipeline context, where the step has one.

    Raises:
        Failure: In place of an error meant for a person.
    """
    try:
        with nullcontext() if setr is None else explained(places_of(setr.settings)):
            yield
    except SetrError as error:
        repeat_at_the_end(visible(str(error)))
        raise dg.Failure(description=visible(str(error)), allow_retries=False) from error


def repeat_at_the_end(words: str) -> None:
    """Print an error once more when a command of Dagster ends, below the pages that Dagster prints.

    Args:
        words: The error.
    """
    if not _is_command_of_dagster():
        return  # `setr run` and the tests print it themselves
    if not _last_words:
        atexit.register(_print_last_words)
    _last_words[words] = None


def explain_at_the_end(settings: Settings) -> None:
    """Tell what ends a command of Dagster outside of any step, below its traceback, where it is damage on
    disk: a database of Dagster's own, say.

    Args:
        settings: They say where each part lies.
    """
    if _is_command_of_dagster():
        atexit.register(_explain_last_error, settings)


def _explain_last_error(settings: Settings) -> None:
    error = getattr(sys, "last_value", None)  # what Python has printed the traceback of
    if isinstance(error, Exception) and (found := explain(error, places_of(settings))) is not None:
        print(f"setr: {visible(str(found))}", file=sys.stderr, flush=True)


def _is_command_of_dagster() -> bool:
    program = Path(sys.argv[0])
    return program.name in _COMMANDS or program.parent.name in _COMMANDS


def _print_last_words() -> None:
    for words in _last_words:
        print(f"setr: {words}", file=sys.stderr, flush=True)


def notices_of(context: dg.AssetExecutionContext) -> Notices:
    """Passes what was damaged, passed over and made again to Dagster's log and to listeners.

    Args:
        context: The step's context.

    Returns:
        To be entered around the step.
    """
    return Notices(lambda text: say(context, text, warning=True))
