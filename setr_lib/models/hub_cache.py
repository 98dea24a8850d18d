"""What a model needs that is downloaded, and how much of it is on this machine already: files of a repository
of the Hugging Face hub in its cache, or a single file by its address.

Nothing here asks the network, and no library of the hub is imported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

HUB = "https://huggingface.co"
"""The hub where ``HF_ENDPOINT`` names no other."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""What a hub id looks like: ``organisation/name``, or a name alone."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of weight files."""
OPEN_CLIP_WEIGHTS = "open_clip_pytorch_model.bin"
"""The weights of a repository of open_clip's; ``open_clip_model.safetensors`` is taken before it."""
_OPEN_CLIP_SAFE = "open_clip_model.safetensors"
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"-\d+-of-\d+\.")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_TRUE = {"1", "ON", "YES", "TRUE"}
_IN_NAME = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)B(?![A-Za-z0-9])")


class Source(Protocol):
    """Something that a model is loaded from and that may have to be downloaded."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def address(self) -> str:
        """What is asked whether it can be had: an address of http or https."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether all of it is on this machine."""
        ...

    @property
    def is_begun(self) -> bool:
        """Whether some of it is."""
        ...

    @property
    def bytes_here(self) -> int:
        """Bytes of its weights on this machine."""
        ...

    @property
    def guessed_bytes(self) -> int | None:
        """About the bytes of a download, by the architecture or the number in its name; None where they do
        not tell."""
        ...

    def bytes_of(self, answer: bytes) -> int | None:
        """Bytes of a download by what ``address`` answered; None where the answer does not say."""
        ...


@dataclass(frozen=True)
class Repository:
    """What a model takes from a repository of the hub.

    Attributes:
        id: The hub id.
        revision: A commit, branch or tag; None is ``main``.
        part: ``weights`` (of transformers, with configuration and tokenizer), ``tokenizer`` or ``config``.
        file: The one weights file that is read, where it is known; its safetensors version counts, too.
        size: About the bytes of the weights, where that is known without asking.
    """

    id: str
    revision: str | None = None
    part: Literal["weights", "tokenizer", "config"] = "weights"
    file: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        return self.id

    @property
    def address(self) -> str:
        return f"{endpoint()}/api/models/{self.id}/revision/{self.revision or 'main'}?blobs=true"

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache, which need not be there."""
        return hub_cache() / f"models--{self.id.replace('/', '--')}"

    @property
    def snapshot(self) -> Path | None:
        """The folder of the revision's files in the cache; None where there is none."""
        revision = self.revision or "main"
        try:
            commit = (self.folder / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            commit = revision
        found = self.folder / "snapshots" / commit
        return found if found.is_dir() else None

    @property
    def is_here(self) -> bool:
        snapshot = self.snapshot
        if snapshot is None:
            return False
        if self.part == "tokenizer":
            return any((snapshot / name).is_file() for name in _TOKENIZERS)
        if self.part == "config":
            return (snapshot / "config.json").is_file()
        if self.file is not None:
            return any((snapshot / name).is_file() for name in _versions(self.file))
        folders = [snapshot, *(folder for folder in snapshot.iterdir() if folder.is_dir())]
        return (snapshot / "config.json").is_file() and any(map(_has_weights, folders))

    @property
    def is_begun(self) -> bool:
        return self.snapshot is not None

    @property
    def bytes_here(self) -> int:
        snapshot = self.snapshot
        if snapshot is None or self.part != "weights":
            return 0
        return sum(file.stat().st_size for file in _weight_files(snapshot))

    @property
    def guessed_bytes(self) -> int | None:
        if self.part != "weights":
            return 0  # some kilobytes
        found = _IN_NAME.search(self.id)  # 2B parameters, of 16 bits each
        return self.size or (None if found is None else int(float(found[1]) * 2e9))

    def bytes_of(self, answer: bytes) -> int | None:
        try:
            listed = json.loads(answer)["siblings"]
            sizes = {str(each["rfilename"]): int(each["size"]) for each in listed}
        except (ValueError, KeyError, TypeError):
            return None
        if self.part != "weights":
            return 0  # some kilobytes
        if self.file is not None:
            return next((sizes[name] for name in _versions(self.file) if name in sizes), None)
        for ending in WEIGHTS:  # the first kind that is there is the one that is loaded
            of_kind = [size for name, size in sizes.items() if name.endswith(ending) and _is_weights(name)]
            if of_kind:
                return sum(of_kind)
        return None


@dataclass(frozen=True)
class Download:
    """A weights file that open_clip fetches from an address of its own, outside of the hub.

    Attributes:
        address: Where it is.
        size: About its bytes, where that is known without asking.
    """

    address: str
    size: int | None = None

    @property
    def name(self) -> str:
        return self.address

    @property
    def file(self) -> Path:
        """Where open_clip keeps it."""
        return Path("~/.cache/clip").expanduser() / self.address.rsplit("/", 1)[-1]

    @property
    def is_here(self) -> bool:
        return self.file.is_file()

    @property
    def is_begun(self) -> bool:
        return self.is_here

    @property
    def bytes_here(self) -> int:
        return self.file.stat().st_size if self.is_here else 0

    @property
    def guessed_bytes(self) -> int | None:
        return self.size

    def bytes_of(self, answer: bytes) -> int | None:
        return None


def transformers_sources(name: str, revision: str | None = None) -> list[Source]:
    """What a model of transformers (or sentence-transformers) is downloaded from.

    Args:
        name: A local folder or a hub id.
        revision: A commit, branch or tag of the hub.

    Returns:
        Its repository; none for a folder, or for what is no hub id.
    """
    if Path(name).is_dir() or not HUB_ID.fullmatch(name):
        return []
    return [Repository(name, revision)]


def hub_cache() -> Path:
    """The folder of the hub's cache: ``HF_HUB_CACHE``, else ``hub`` in ``HF_HOME``."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if not named:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        named = str(Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface") / "hub")
    return Path(os.path.expandvars(named)).expanduser()


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, by default :data:`HUB`."""
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` (or ``TRANSFORMERS_OFFLINE``) forbids downloads."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in _TRUE


def _versions(file: str) -> tuple[str, ...]:
    """The names under which open_clip looks for a weights file, in its order."""
    if file == OPEN_CLIP_WEIGHTS:
        return (_OPEN_CLIP_SAFE, file)
    stem, _, ending = file.rpartition(".")
    return (f"{stem}.safetensors", file) if ending in ("bin", "pth") else (file,)


def _is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) and name.rsplit("/", 1)[-1] not in _NOT_WEIGHTS


def _weight_files(snapshot: Path) -> Iterator[Path]:
    for file in sorted(snapshot.rglob("*")):
        if _is_weights(file.name) and file.is_file():
            yield file


def _has_weights(folder: Path) -> bool:
    """Whether a folder has all weights of a model: one file, or every shard of an index."""
    for index in _INDEXES:
        try:
            shards = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, AttributeError):
            return False
        return all((folder / shard).is_file() for shard in shards)
    return any(
        _is_weights(file.name) and not _SHARD.search(file.name) and file.is_file()
        for file in folder.iterdir()
    )
