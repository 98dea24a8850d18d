"""Pictures are drawn in other processes, whose end does not depend on how this one treats signals."""

from __future__ import annotations

import subprocess
import sys

IGNORING = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
from setr_lib.miniature.corpus import build_corpus
print(len(build_corpus(300, seed=0).pictures))
"""


def test_a_process_that_ignores_termination_draws_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IGNORING], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) > 0
