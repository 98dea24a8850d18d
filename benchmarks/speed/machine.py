"""The machine that figures are measured on: what it is made of, what is installed, and the rates it reaches.

python -m benchmarks.speed.machine     # prints the record as JSON; it takes some seconds
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "numpy",
    "polars",
    "lancedb",
    "faiss-cpu",
    "transformers",
    "open_clip_torch",
    "peft",
    "sentence-transformers",
    "dagster",
    "pillow",
)
SIDE = 4096
"""Rows and columns of the two matrices whose product is the measured rate."""
COPIED = 1 << 28
"""Bytes of the array that is copied for the memory's rate."""
ROUNDS = 3


@dataclass(frozen=True)
class Machine:
    """What a figure depends on besides the code.

    Attributes:
        processor: Its name.
        cores: Cores that this process may use.
        memory_bytes: All of it.
        threads: Threads that every measured process may use.
        versions: Version by package; Python's under "python".
        linear_flops: Floating-point operations a second of ``F.linear`` at 4096^3 in float32 (on the CPU), a
            multiplication and an addition counted as two.
        copied_bytes: Bytes a second that a copy within the memory reads and writes, together.
        accelerator: The name of the GPU; empty where there is none.
        accelerator_flops: As ``linear_flops``, on the GPU in bfloat16; None where there is none.
    """

    processor: str
    cores: int
    memory_bytes: int
    threads: int
    versions: Mapping[str, str] = field(default_factory=dict)
    linear_flops: float = 0.0
    copied_bytes: float = 0.0
    accelerator: str = ""
    accelerator_flops: float | None = None


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measured_machine() -> Machine:
    """This machine, with its rates measured now; the environment has fixed the number of threads."""
    import torch

    cuda = torch.cuda.is_available()
    return Machine(
        processor=processor_name(),
        cores=usable_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        threads=torch.get_num_threads(),
        versions=installed_versions(),
        linear_flops=_linear_rate(torch.device("cpu"), torch.float32),
        copied_bytes=_copy_rate(),
        accelerator=torch.cuda.get_device_name() if cuda else "",
        accelerator_flops=_linear_rate(torch.device("cuda"), torch.bfloat16) if cuda else None,
    )


def processor_name() -> str:
    """The processor's name, as the operating system has it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed_versions() -> dict[str, str]:
    """Version by package of those that figures depend on; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _linear_rate(device: torch.device, dtype: torch.dtype) -> float:
    import torch

    rows, weight = (torch.rand(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        torch.nn.functional.linear(rows, weight)
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.inference_mode():
        return 2 * SIDE**3 / _least(product)


def _copy_rate() -> float:
    import torch

    source = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.ones(COPIED, dtype=torch.uint8)
    return 2 * COPIED / _least(lambda: target.copy_(source))


def _least(work: Callable[[], object]) -> float:
    """The least seconds of some rounds, after one that does not count."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        begun = perf_counter()
        work()
        seconds.append(perf_counter() - begun)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps(asdict(measured_machine())))
