"""Content fingerprints: one hash for files, texts and JSON, so that "has it changed?" means the same
everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import xxhash

ABOUT_A_MODEL = frozenset({"scores.json"})
"""Files beside a model that describe it and are not part of it: a corrected card does not make another
model."""
_MODEL_FILES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".json", ".jinja", ".txt", ".model"})
_SMALL = 32 << 20  # bytes that are hashed within some milliseconds


def fingerprint_bytes(content: bytes) -> str:
    """Fingerprint of bytes (XXH3, 128 bits).

    Args:
        content: The bytes.

    Returns:
        32 hexadecimal digits.
    """
    return xxhash.xxh3_128_hexdigest(content)


def fingerprint_file(path: Path) -> str:
    """Fingerprint of a file's bytes, read in blocks.

    Args:
        path: The file.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def fingerprint_model_folder(folder: Path) -> str:
    """A cheap fingerprint of a model folder: small files by their content, larger ones (weights) by name and
    size.

    Modification times don't count: a fresh checkout of the same files is the same model.

    Args:
        folder: The folder; its subfolders are not read.

    Returns:
        32 hexadecimal digits.

    Raises:
        OSError: The folder cannot be read.
    """
    parts: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in _MODEL_FILES or path.name in ABOUT_A_MODEL:
            continue
        size = path.stat().st_size
        parts += [path.name, str(size) if size > _SMALL else fingerprint_file(path)]
    return digest_strings(parts)


def digest_strings(strings: Iterable[str]) -> str:
    """Order-sensitive digest of strings; lengths are hashed too, so ("ab", "c") differs from ("a", "bc").

    Args:
        strings: The strings.

    Returns:
        32 hexadecimal digits.
    """
    return _hasher_of(strings).hexdigest()


def digests_with_last(first: Iterable[str], last: Iterable[str]) -> list[str]:
    """For each of some strings, the digest of the same strings before it and of it: what many digests have in
    common is hashed once.

    Args:
        first: What all begin with.
        last: How each ends.

    Returns:
        ``digest_strings([*first, each])`` for each of ``last``.
    """
    common = _hasher_of(first)
    digests: list[str] = []
    for string in last:
        hasher = common.copy()
        encoded = string.encode()
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
        digests.append(hasher.hexdigest())
    return digests


def _hasher_of(strings: Iterable[str]) -> xxhash.xxh3_128:
    hasher = xxhash.xxh3_128()
    for string in strings:
        encoded = string.encode()
        hasher.update(len(encoded).to_bytes(8, "little"))
        hasher.update(encoded)
    return hasher


def digest_json(value: object) -> str:
    """Digest of a JSON value, independent of the order of keys.

    Args:
        value: The value.

    Returns:
        32 hexadecimal digits.
    """
    return fingerprint_bytes(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
