"""What a decoding process does: it reads, checks, decodes and resizes the pictures of a slot of shared
memory, for :mod:`~setr_lib.spaces.pixel_processes`. It imports Pillow and NumPy, never torch.

Two pipes carry the number of a slot, one byte each: one that has a job in it, and one whose job is done. The
process ends when the pipe of jobs is closed, which the system does when its parent ends, killed or not.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.models.refusals import check_sides
from setr_lib.pixels import PictureFile
from setr_lib.spaces.input_pixels import InputPixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

START = 4096
"""Where the first slot begins; before it lies the distance between slots, as 8 bytes."""
HEADER = 1 << 16
"""Bytes of a slot before its pixels: the length of the job, the job, and at its end the core-seconds that it
took, and a byte per picture."""
MOST_PICTURES = 256
"""Pictures of a slot."""
MOST_JOB = HEADER - MOST_PICTURES - 12
"""Bytes of a job as JSON."""
_NICENESS = 10


@dataclass(frozen=True)
class Job:
    """The pictures of a slot.

    Attributes:
        files: Path, fingerprint and rules (:attr:`PixelRules.id`) of each.
        prepare: How they are brought to the model's size.
    """

    files: Sequence[Sequence[Any]]
    prepare: InputPixels


class SharedSlots:
    """Slots in a file that several processes map; each slot is written by one of them at a time.

    Args:
        descriptor: Of the open file.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._stride = descriptor, 0
        self._memory = mmap.mmap(descriptor, START)

    def arrange(self, slots: int, picture_bytes: int, pictures: int) -> None:
        """Make room for slots; what was in them is lost.

        Args:
            slots: How many.
            picture_bytes: Bytes of one picture's pixels.
            pictures: Pictures of a slot.
        """
        page = mmap.ALLOCATIONGRANULARITY
        stride = -(-(HEADER + picture_bytes * pictures) // page) * page
        size = START + slots * stride
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        self._memory[:8] = struct.pack("<q", stride)

    def write(self, slot: int, job: Job) -> bool:
        """Put a job into a slot.

        Args:
            slot: The slot's number.
            job: The job.

        Returns:
            False where it is too large for a slot: nothing is written then.
        """
        content = json.dumps({"files": job.files, "prepare": asdict(job.prepare)}).encode()
        if len(content) > MOST_JOB or len(job.files) > MOST_PICTURES:
            return False
        begin = self._begin(slot)
        self._memory[begin : begin + 4] = struct.pack("<i", len(content))
        self._memory[begin + 4 : begin + 4 + len(content)] = content
        return True

    def job(self, slot: int) -> Job:
        """The job of a slot.

        Args:
            slot: The slot's number.
        """
        begin = self._begin(slot)
        (length,) = struct.unpack("<i", self._memory[begin : begin + 4])
        job = json.loads(self._memory[begin + 4 : begin + 4 + length])
        return Job(job["files"], InputPixels(**job["prepare"]))

    def pixels(
        self, slot: int, pictures: int, prepare: InputPixels
    ) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
        """Views of a slot: which pictures are there, and their pixels.

        Args:
            slot: The slot's number.
            pictures: How many it has.
            prepare: What says their size.

        Returns:
            bool [pictures], and uint8 [pictures, height, width, 3]; both change when the slot does.
        """
        begin = self._begin(slot)
        fine = np.frombuffer(self._memory, np.bool_, pictures, begin + HEADER - MOST_PICTURES)
        shape = (pictures, prepare.height, prepare.width, 3)
        flat = np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), begin + HEADER)
        return fine, flat.reshape(shape)

    def seconds(self, slot: int) -> NDArray[np.float64]:
        """A view of a slot's core-seconds, float64 [1].

        Args:
            slot: The slot's number.
        """
        return np.frombuffer(self._memory, np.float64, 1, self._begin(slot) + HEADER - MOST_PICTURES - 8)

    def _begin(self, slot: int) -> int:
        (stride,) = struct.unpack("<q", self._memory[:8])
        begin = START + slot * stride
        if len(self._memory) < begin + stride:
            self._memory = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        return begin


def do_job(slots: SharedSlots, slot: int) -> None:
    """Fill a slot's pixels. A picture that fails for any reason is not marked as being there: whoever asked
    reads it again, and says what is wrong with it.

    Args:
        slots: The shared slots.
        slot: The slot's number.
    """
    begun, job = process_time(), slots.job(slot)
    fine, pixels = slots.pixels(slot, len(job.files), job.prepare)
    for row, file in enumerate(job.files):
        try:
            image = PictureFile(*file).read()
            check_sides(image)
            pixels[row] = job.prepare(image)
            fine[row] = True
        except Exception:
            fine[row] = False
    slots.seconds(slot)[0] = process_time() - begun


def main(jobs: int, done: int, memory: int) -> None:
    """Do jobs until the pipe of jobs is closed.

    Args:
        jobs: Descriptor that slots with a job are read from.
        done: Descriptor that slots whose job is done are written to.
        memory: Descriptor of the shared file.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end closes the pipe
    os.nice(_NICENESS)  # the model, which cannot wait, is given the processor first
    slots = SharedSlots(memory)
    while token := os.read(jobs, 1):
        do_job(slots, token[0])
        os.write(done, token)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
