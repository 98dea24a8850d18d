"""How a command ends: its exit status; what is registered for the end runs, and memory is left to the
system.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import NoReturn

ERROR = 1
"""The exit status where something could not be done, or was found to be wrong."""
INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it: 128 and the number of the signal."""


def end_process(status: int) -> NoReturn:
    """End this process as ``sys.exit`` does, but without Python's last collection of garbage.

    That walks through millions of objects of loaded libraries, for seconds, to free memory that the system
    takes back at once. Threads are waited for, exit functions run and output is flushed, in this order: what
    Python's own ``multiprocessing`` does at the end of its processes.

    Args:
        status: The exit status.
    """
    try:
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    except KeyboardInterrupt:  # no longer than the user likes
        status = INTERRUPTED
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed when the process began
                stream.flush()
        except (OSError, ValueError):  # nobody reads it any more, or it is closed
            status = status or 1
    os._exit(status)
