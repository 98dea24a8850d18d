"""The batch size at which a model is fastest, found on its first batches, whose results are kept, and stored.

Sizes are tried on real work: no item is run twice. On a processor the time that its cores spend is compared,
not the clock's, which other work on the machine moves more.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, TypeVar

from setr_lib.errors import SetrError
from setr_lib.files import read_json, write_json
from setr_lib.hashing import digest_json
from setr_lib.models.device import OnHalve, run_in_batches

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)

AUTO = "auto"
"""The setting ``batch_size`` of an encoder whose size is found by trying."""
_ON_PROCESSOR, _ON_DEVICE = (64, 32, 128, 16), (32, 64, 128, 256, 512)
_KNOWN = frozenset({*_ON_PROCESSOR, *_ON_DEVICE})
_GAIN = 0.03
"""A larger batch takes more memory: it is worth it where an item takes so much less time."""
_ENOUGH_S, _MOST_TRIES = 0.2, 3
"""A size is tried until its calls have taken so long together, or so often."""


class BatchSizes:
    """Tries batch sizes while a model works, and then keeps to the best.

    Args:
        model: Identity of the model.
        pictures: Identity of its preprocessing, which says how large its input is.
        device: Where it is.
        file: Where what was found is stored, and read again; None: nowhere. What shortage of memory decided
            is not stored.

    Attributes:
        largest: Items that whoever prepares batches should prepare at a time: what was found, or as long as
            nothing was, the largest size that is tried.
        found: The size that was found; None as long as there is none.
    """

    def __init__(self, model: str, pictures: str, device: torch.device, file: Path | None = None) -> None:
        self._depends_on = _depends_on(model, pictures, device)
        self._is_processor = device.type == "cpu"
        self._sizes = list(_ON_PROCESSOR if self._is_processor else _ON_DEVICE)
        self._tried: dict[int, list[float]] = {size: [] for size in self._sizes}
        self._is_warm, self._is_short, self._file = False, False, file
        self.found: int | None = None
        if file is not None:
            self.found = _stored(file).get(self._key)
        self.largest = self.found or max(self._sizes)

    def run(
        self,
        items: Sequence[Item],
        run: Callable[[Sequence[Item]], Sequence[Result]],
        on_halve: OnHalve | None = None,
    ) -> list[Result]:
        """Run a function over items in batches of the best size, or of sizes that are tried.

        Args:
            items: What to process.
            run: Called with a batch, gives one result per item and is done with them when it returns.
            on_halve: Called as ``on_halve(too_large, next_size)`` where a batch does not fit in memory; no
                larger size is tried then.

        Returns:
            One result per item, in order.

        Raises:
            DeviceError: A single item does not fit in memory.
        """
        made: list[Result] = []
        clock = process_time if self._is_processor else perf_counter
        halved: list[int] = []

        def told(too_large: int, size: int) -> None:
            halved.append(size)
            if on_halve is not None:
                on_halve(too_large, size)

        while len(made) < len(items):
            left = len(items) - len(made)
            size = self.found or self._next(left)
            if size is None:  # too few are left for what is to be tried
                size = self._best() or left
                return made + run_in_batches(items[len(made) :], run, size, on_halve)
            begun, count = clock(), min(size, left)
            made += run_in_batches(items[len(made) : len(made) + count], run, count, told)
            if halved:
                self._limit(halved[-1])
                halved.clear()
            elif self.found is None:
                self._note(size, (clock() - begun) / count)
        return made

    @property
    def _key(self) -> str:
        return digest_json(self._depends_on)

    def _next(self, left: int) -> int | None:
        """The size to try next: each once before one is tried again."""
        if not self._is_warm:
            return min(left, min(self._sizes))
        open_sizes = [size for size in self._sizes if size <= left and not self._is_enough(size)]
        return min(open_sizes, key=lambda size: len(self._tried[size]), default=None)

    def _is_enough(self, size: int) -> bool:
        times = self._tried[size]
        return len(times) >= _MOST_TRIES or sum(times) * size >= _ENOUGH_S

    def _note(self, size: int, seconds: float) -> None:
        """Keep what an item took; the first call of all is a warm-up."""
        if not self._is_warm:
            self._is_warm = True
            return
        self._tried[size].append(seconds)
        if not self._is_processor:
            self._stop_growing()
        if all(map(self._is_enough, self._sizes)):
            self._settle()

    def _stop_growing(self) -> None:
        """On a device larger sizes are tried as long as they are faster."""
        done = [size for size in self._sizes if self._is_enough(size)]
        if len(done) > 1 and min(self._tried[done[-1]]) > (1 - _GAIN) * min(self._tried[done[-2]]):
            self._sizes = done

    def _limit(self, size: int) -> None:
        """No size above one that fits in memory is tried or used any more."""
        if self.found is not None:
            return
        self._is_warm = self._is_short = True
        self._sizes = [known for known in self._sizes if known <= size] or [size]
        self._tried.setdefault(size, [])
        self.largest = max(self._sizes)
        if len(self._sizes) == 1 or all(map(self._is_enough, self._sizes)):
            self._settle()

    def _best(self) -> int | None:
        """The smallest size that takes no more time an item than the fastest, within the gain that counts."""
        times = {size: min(self._tried[size]) for size in self._sizes if self._tried[size]}
        if not times:
            return None
        least = min(times.values())
        return min(size for size, seconds in times.items() if seconds * (1 - _GAIN) <= least)

    def _settle(self) -> None:
        self.found = self.largest = self._best() or self._sizes[0]
        times = {str(size): min(self._tried[size]) for size in sorted(self._sizes) if self._tried[size]}
        said = ", ".join(f"{size}: {1000 * seconds:.3g} ms" for size, seconds in times.items())
        _LOG.info(
            "batch_size = %r: %d images at a time for %s on %s (an image takes, by size, %s)%s",
            AUTO, self.found, self._depends_on["model"], self._depends_on["device"], said or "-",
            "; more do not fit in memory" if self._is_short else "",
        )  # fmt: skip
        if self._file is not None and not self._is_short:  # other programs may have had the memory
            self._store(self._file, times)

    def _store(self, file: Path, times: Mapping[str, float]) -> None:
        entry = {"batch_size": self.found, "seconds_an_image": times, "depends_on": self._depends_on}
        try:
            write_json(file, {**(read_json(file) or {}), self._key: entry})
        except (OSError, SetrError) as error:  # the next run tries again
            _LOG.warning("%s: the batch size that was found cannot be kept (%s)", file, error)


def _depends_on(model: str, pictures: str, device: torch.device) -> dict[str, str | int]:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "model": model,
        "pictures": pictures,
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _stored(file: Path) -> dict[str, int]:
    sizes = {
        key: entry.get("batch_size")
        for key, entry in (read_json(file) or {}).items()
        if isinstance(entry, dict)
    }
    return {key: size for key, size in sizes.items() if type(size) is int and size in _KNOWN}
