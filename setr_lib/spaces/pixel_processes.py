"""Processes that decode and resize pictures while this one runs a model: threads of Python would wait for
each other where pictures are small.

They are started once, when the first large gallery is embedded, and end with this process. They import no
torch, are no forks of this process, and share a file in memory with it.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING

from setr_lib.errors import SetrError
from setr_lib.feeding import cores
from setr_lib.spaces.pixel_worker import MOST_PICTURES, START, Job, SharedSlots

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.pixels import PictureFile
    from setr_lib.spaces.input_pixels import InputPixels

_LOG = logging.getLogger(__name__)

_MOST_SLOTS = 192
_CHUNK = 8
"""Pictures of a slot where a batch has more."""
_LOOK_EVERY = 0.5  # seconds between looks whether the processes live


class LostProcessesError(SetrError):
    """The decoding processes cannot be started, or one has ended."""


@dataclass
class _Batch:
    """A batch under way: its slots in order, with how many pictures each has."""

    slots: list[tuple[int, int]] = field(default_factory=list)
    too_large: list[int] = field(default_factory=list)
    """Slots whose job did not fit: their pictures are not there."""


@dataclass(frozen=True)
class DecodedBatch:
    """Pictures of a batch, decoded and resized.

    Attributes:
        fine: bool [pictures]: which are there.
        pixels: uint8 [pictures, height, width, 3]; undefined where not ``fine``.
        core_seconds: Of the processes, for these pictures.
    """

    fine: NDArray[np.bool_]
    pixels: NDArray[np.uint8]
    core_seconds: float


class PixelProcesses:
    """Processes that decode, one for each processor core.

    Args:
        count: How many.

    Raises:
        LostProcessesError: They cannot be started here.
    """

    def __init__(self, count: int) -> None:
        self.owner = os.getpid()
        """The process that may use them; 0 once they are closed."""
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._file = _memory_file()
            os.ftruncate(self._file.fileno(), START)
            self._slots = SharedSlots(self._file.fileno())
            read_jobs, self._jobs = os.pipe()
            self._done, write_done = os.pipe()
            given = (read_jobs, write_done, self._file.fileno())
            self._processes = [_started(given) for _ in range(count)]
            os.close(read_jobs)
            os.close(write_done)
            atexit.register(self.close)
        except (OSError, ValueError) as error:
            raise LostProcessesError(f"processes that decode cannot be started ({error})") from error

    def batches(
        self, batches: Sequence[Sequence[PictureFile]], prepare: InputPixels
    ) -> Generator[DecodedBatch, None, None]:
        """Decode batches, in order; one batch is decoded ahead while whoever takes them works.

        Args:
            batches: The files of each batch, at least one.
            prepare: How they are brought to the model's size.

        Yields:
            The pictures of each batch.

        Raises:
            LostProcessesError: A process has ended.
        """
        longest = max(map(len, batches))
        chunk = min(MOST_PICTURES, max(min(_CHUNK, longest), -(-2 * longest // _MOST_SLOTS)))
        per_batch = -(-longest // chunk)
        self._slots.arrange(2 * per_batch, prepare.height * prepare.width * 3, chunk)
        free, finished = deque(range(2 * per_batch)), set[int]()
        coming: deque[_Batch] = deque()
        source = iter(batches)
        try:
            for files in source:
                coming.append(self._send(files, chunk, free, prepare))
                if len(coming) == 2:
                    break
            while coming:
                decoded = self._gathered(coming[0], finished, prepare)
                free.extend(slot for slot, _ in coming.popleft().slots)
                if (files := next(source, None)) is not None:
                    coming.append(self._send(files, chunk, free, prepare))
                yield decoded
        finally:
            for batch in coming:  # what was begun ends before others use the slots
                self._wait(batch, finished)

    def close(self) -> None:
        """End the processes; once."""
        atexit.unregister(self.close)
        if self.owner != os.getpid():
            return
        self.owner = 0
        for descriptor in (self._jobs, self._done):
            os.close(descriptor)
        for process in self._processes:
            process.terminate()
            process.wait()
        self._file.close()

    def _send(
        self, files: Sequence[PictureFile], chunk: int, free: deque[int], prepare: InputPixels
    ) -> _Batch:
        batch, tokens = _Batch(), bytearray()
        for start in range(0, len(files), chunk):
            of_slot = [(file.path, file.fingerprint, file.pixels) for file in files[start : start + chunk]]
            slot = free.popleft()
            batch.slots.append((slot, len(of_slot)))
            if self._slots.write(slot, Job(of_slot, prepare)):
                tokens.append(slot)
            else:
                batch.too_large.append(slot)
        try:
            os.write(self._jobs, tokens)  # far less than a pipe holds
        except OSError as error:
            raise LostProcessesError(f"the processes that decode have ended ({error})") from error
        return batch

    def _gathered(self, batch: _Batch, finished: set[int], prepare: InputPixels) -> DecodedBatch:
        import numpy as np

        self._wait(batch, finished)
        views = [self._slots.pixels(slot, count, prepare) for slot, count in batch.slots]
        fine = [
            np.zeros_like(there) if slot in batch.too_large else there
            for (slot, _), (there, _) in zip(batch.slots, views, strict=True)
        ]
        seconds = sum(self._slots.seconds(slot)[0] for slot, _ in batch.slots if slot not in batch.too_large)
        return DecodedBatch(
            np.concatenate(fine), np.concatenate([pixels for _, pixels in views]), float(seconds)
        )

    def _wait(self, batch: _Batch, finished: set[int]) -> None:
        """Wait until every slot of a batch is done, and forget that it is."""
        awaited = {slot for slot, _ in batch.slots} - set(batch.too_large)
        while not awaited <= finished:
            self._check_alive()
            ready = select.poll()
            ready.register(self._done, select.POLLIN)
            if ready.poll(_LOOK_EVERY * 1000):
                finished.update(os.read(self._done, _MOST_SLOTS))
        finished -= awaited

    def _check_alive(self) -> None:
        ended = [process.returncode for process in self._processes if process.poll() is not None]
        if ended:
            raise LostProcessesError(f"a process that decodes has ended (exit code {ended[0]})")


class _Shared:
    """The processes of this process, once they are started."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.processes: PixelProcesses | None = None
        self.is_lost = False


_SHARED = _Shared()


def take(start: bool) -> PixelProcesses | None:
    """The decoding processes of this process, for one user at a time; :func:`give_back` ends the use.

    Args:
        start: Whether they are started where they are not.

    Returns:
        The processes; None where they are not started, are in use, or cannot be had on this system.
    """
    if os.name != "posix" or not hasattr(select, "poll") or not _SHARED.lock.acquire(blocking=False):
        return None
    held = _SHARED.processes
    if held is not None and held.owner != os.getpid():  # those of the process that this one is a fork of
        held = _SHARED.processes = None
    if held is None and start and not _SHARED.is_lost:
        try:
            held = _SHARED.processes = PixelProcesses(cores())
        except LostProcessesError as error:
            _LOG.warning("%s: pictures are decoded by threads", error)
            _SHARED.is_lost = True
    if held is None:
        _SHARED.lock.release()
    return held


def give_back(lost: LostProcessesError | None = None) -> None:
    """End the use of what :func:`take` gave.

    Args:
        lost: Why the processes are of no use any more; they are not started again.
    """
    if lost is not None and (held := _SHARED.processes) is not None:
        _LOG.warning("%s: pictures are decoded by threads", lost)
        held.close()
        _SHARED.processes, _SHARED.is_lost = None, True
    _SHARED.lock.release()


def _memory_file() -> IO[bytes]:
    """A file without a name; on Linux in memory, whatever room /dev/shm of a container has."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("setr-pixels"), "w+b")
    return tempfile.TemporaryFile()


def _started(given: tuple[int, ...]) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "setr_lib.spaces.pixel_worker", *map(str, given)],
        env=os.environ | one_thread | {"PYTHONPATH": path},
        pass_fds=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
