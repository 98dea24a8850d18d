"""Outputs of the vision tower on disk: a safetensors file per image, all of them within a bound.

A file is named by a digest of all that its content depends on: the image, how it is read, the weights of the
vision part, the processor, the number format and the libraries that computed. It also holds that digest, and
one of its content: what is torn, or is another's, is made anew. Several processes may use one folder; one
writes at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.files import replacing
from setr_lib.hashing import digest_strings, fingerprint_bytes
from setr_lib.models.multimodal.features import VisionFeatures
from setr_lib.models.multimodal.pictures import image_options

if TYPE_CHECKING:
    from torch import Tensor

    from setr_lib.models.multimodal.loading import LoadedModel

_LOG = logging.getLogger(__name__)
_FORM = "3"
"""Of the files; files of another form are never found."""
_TOLD = ("grid", "container", "stacked")
"""What a file says of its tensors."""
_SUFFIX = ".safetensors"
_LEFT = 0.9
"""Share of the bound that is left once files were removed; a file may take as much."""
_TAKEN = ".bytes"
"""The file that says how many bytes all files take, or more; whoever writes holds its lock."""


class _UnusableError(Exception):
    """A file holds something else than it should."""


@dataclass(frozen=True)
class FeaturesFolder:
    """Where vision features are kept, and how many.

    Attributes:
        path: The folder; it is made with the first file.
        limit: Bytes that all files may take together.
    """

    path: Path
    limit: int

    @classmethod
    def of(cls, path: Path | None, megabytes: int) -> FeaturesFolder | None:
        """A folder with a bound in megabytes.

        Args:
            path: The folder, if any.
            megabytes: The bound; 0 to keep nothing.

        Returns:
            The folder; None where nothing is kept.
        """
        return cls(path, megabytes * 2**20) if path is not None and megabytes else None


class KeptFeatures:
    """The vision features that one model finds in a folder, and stores there.

    Nothing here ends a run: what cannot be read is made anew, and once a file cannot be written, no more are;
    both are said once.

    Args:
        folder: Where; of all models together.
        loaded: The model.
        weights: Of its vision part, by name.
        several: Whether they are those of pictures among several, where that makes a difference.
    """

    def __init__(
        self,
        folder: FeaturesFolder,
        loaded: LoadedModel,
        weights: Mapping[str, Tensor],
        *,
        several: bool = False,
    ) -> None:
        self._folder = folder
        self._loaded = loaded
        self._model = _identity(loaded, weights) + ("among several" if several else "")
        self._writes, self._looked = True, False
        self._told = False

    def __contains__(self, identity: str) -> bool:
        try:
            return self._path(identity).is_file()
        except OSError:  # a folder that may not be read: what is wrong is said where features are asked for
            return False

    def get(self, identities: Sequence[str]) -> dict[str, VisionFeatures]:
        """The kept features among those of some images; they count as used now.

        Args:
            identities: Of the images.

        Returns:
            Features by identity.
        """
        found = {}
        self._shrink_once()
        for identity in identities:
            path = self._path(identity)
            try:
                found[identity] = self._read(path.read_bytes(), path.stem)
                with contextlib.suppress(OSError):  # a folder that may only be read
                    os.utime(path)
            except FileNotFoundError:
                continue
            except Exception as error:  # whatever a damaged file leads to
                self._made_anew(path, error)
        return found

    def put(self, made: Mapping[str, VisionFeatures]) -> None:
        """Store features; those that were not used for the longest time give way.

        Args:
            made: Features by the identity of images.
        """
        if not made or not self._writes:
            return
        try:
            with self._alone() as taken:
                for identity, features in made.items():
                    path = self._path(identity)
                    content = _content(features, path.stem)
                    if len(content) <= self._folder.limit * _LEFT:
                        self._make_room(taken, len(content))
                        with replacing(path) as partial:
                            partial.write_bytes(content)
        except (OSError, SetrError) as error:
            self._writes = False
            _LOG.warning("%s: no more vision features are kept: %s", self._folder.path, error)

    def _path(self, identity: str) -> Path:
        key = digest_strings([self._model, identity])
        return self._folder.path / key[:2] / f"{key}{_SUFFIX}"

    def _read(self, content: bytes, key: str) -> VisionFeatures:
        """The features of a file.

        Raises:
            _UnusableError: They are not what the key says, or are damaged; other errors say the same.
        """
        from safetensors.torch import load

        length = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + length])["__metadata__"]
        tensors = load(content)
        if told["key"] != key or told["digest"] != _digest(tensors, *(told[name] for name in _TOLD)):
            raise _UnusableError("its content is not what its name says")
        device, grid = self._loaded.device, json.loads(told["grid"])
        levels = len(tensors) - 2
        return VisionFeatures(
            tensors["embeds"].to(device),
            tuple(tensors[f"deepstack_{level}"].to(device) for level in range(levels)),
            None if grid is None else (grid[0], grid[1], grid[2]),
            tuple(tensors["placeholder"].tolist()),
            _container(told["container"], self._loaded.model),
            json.loads(told["stacked"]),
        )

    def _made_anew(self, path: Path, error: Exception) -> None:
        if not self._told:
            _LOG.warning(
                "%s: unusable vision features are made anew (%s: %s)", path, type(error).__name__, error
            )
        self._told = True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[IO[str]]:
        """The file that says how many bytes all files take, while no other process writes."""
        folder = self._folder.path
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _TAKEN).open("a+", encoding="ascii", errors="replace") as taken:
            fcntl.flock(taken, fcntl.LOCK_EX)
            yield taken

    def _shrink_once(self) -> None:
        """Keep the bound, which another run may have had higher, though nothing be written."""
        if self._looked:
            return
        self._looked = True
        with contextlib.suppress(OSError):  # a folder that may only be read
            if self._folder.path.is_dir():
                with self._alone() as taken:
                    self._make_room(taken, 0)

    def _make_room(self, taken: IO[str], size: int) -> None:
        """Count ``size`` bytes more; where all are beyond the bound, remove what was not used for longest.

        They are counted before they are written: after a kill the number is too high, never too low.
        """
        limit = self._folder.limit
        taken.seek(0)
        known = taken.read(20)
        total = int(known) if known.isdecimal() else None
        if total is None or total + size > limit:
            files = sorted(_files(self._folder.path))
            total = sum(size for _, size, _ in files)
            if total + size > limit:
                for _, removed, path in files:
                    if total + size <= limit * _LEFT:
                        break
                    path.unlink(missing_ok=True)
                    total -= removed
        taken.truncate(0)
        taken.write(str(total + size))
        taken.flush()


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes, file) of all files; what a killed process has half written is removed.

    Nobody else may write meanwhile.
    """
    for path in folder.glob("*/*"):
        if path.name.endswith(".part"):
            path.unlink(missing_ok=True)
        elif path.suffix == _SUFFIX:
            stat = path.stat()
            yield stat.st_mtime, stat.st_size, path


def _content(features: VisionFeatures, key: str) -> bytes:
    import torch
    from safetensors.torch import save

    tensors = {
        "embeds": features.embeds,
        "placeholder": torch.tensor(features.placeholder, dtype=torch.int64),
        **{f"deepstack_{level}": tensor for level, tensor in enumerate(features.deepstack)},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    values = (json.dumps(features.grid), features.container.__name__, json.dumps(features.stacked))
    told = dict(zip(_TOLD, values, strict=True))
    return save(tensors, {"key": key, "digest": _digest(tensors, *values), **told})


def _digest(tensors: Mapping[str, Tensor], *told: str) -> str:
    """Of all that a file says: names, shapes, number formats and content of its tensors, and the rest."""
    parts = ((name, str(tensor.dtype), str(tuple(tensor.shape)), _bytes_digest(tensor))
             for name, tensor in sorted(tensors.items()))  # fmt: skip
    return digest_strings([*told, *(part for of_one in parts for part in of_one)])


def _bytes_digest(tensor: Tensor) -> str:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return fingerprint_bytes(flat.view(torch.uint8).numpy().data)  # pyright: ignore[reportArgumentType]


def _identity(loaded: LoadedModel, weights: Mapping[str, Tensor]) -> str:
    """All that the vision features of an image depend on, but the image."""
    import torch
    import transformers

    options = [loaded.processor.image_processor.to_dict(), image_options(loaded.processor)]
    processor = json.dumps(options, sort_keys=True, default=str)
    # How much a LoRA layer that is not merged adds is not in its weights.
    model = loaded.id if any("lora_" in name for name in weights) else loaded.base_id
    parts = [_FORM, model, processor, str(loaded.model.dtype), loaded.device.type]
    parts += [torch.__version__, transformers.__version__]
    for name, weight in sorted(weights.items()):
        parts += [name, _bytes_digest(weight)]
    return digest_strings(parts)


def _container(name: str, model: object) -> type[Any]:
    """The class of transformers in which a model gives vision features.

    Raises:
        _UnusableError: It has none of that name.
    """
    from transformers import modeling_outputs
    from transformers.utils.generic import ModelOutput

    modules = [sys.modules.get(of.__module__) for of in type(model).__mro__]
    for module in (*modules, modeling_outputs):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, ModelOutput):
            return found
    raise _UnusableError(f"the model gives no {name}")
