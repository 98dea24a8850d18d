"""Content fingerprints: one hash for files, texts and JSON, so that "has it changed?" means the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import xxhash


def fingerprint_bytes(content: bytes) -> str:
    """32 hexadecimal digits (XXH3, 128 bits) of ``content``."""
    return xxhash.xxh3_128_hexdigest(content)


def fingerprint_file(path: Path) -> str:
    """Fingerprint of a file's bytes, read in blocks. Raises ``OSError`` where it cannot be read."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def digest_strings(strings: Iterable[str]) -> str:
    """Order-sensitive digest of strings; lengths are hashed too, so ("ab", "c") differs from ("a", "bc")."""
    hasher = xxhash.xxh3_128()
    for string in strings:
        encoded = string.encode()
        hasher.update(len(encoded).to_bytes(8, "little"))
        hasher.update(encoded)
    return hasher.hexdigest()


def digest_json(value: object) -> str:
    """Digest of a JSON-able value, independent of key order."""
    return fingerprint_bytes(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
