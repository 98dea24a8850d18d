"""Trains the tiny adapter as a program of its own, for tests that kill it. Arguments: judge folder,
checkpoint folder.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch  # noqa: TID253

from setr_lib.reranking.training import train_adapter
from tests.reranking import judge_worlds as worlds


def main() -> None:
    torch.set_num_threads(1)
    judge, checkpoints = (Path(argument) for argument in sys.argv[1:])

    def say(step: int, values: object) -> None:
        print(f"step {step}", flush=True)
        time.sleep(0.2)  # long enough for the test to strike between two steps

    base = worlds.load_tiny_judge(judge)
    train_adapter(
        base,
        worlds.pairs(),
        worlds.pictures(),
        worlds.settings(),
        checkpoints,
        on_metrics=say,
    )


if __name__ == "__main__":
    main()
