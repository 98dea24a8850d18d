"""A corpus of short phrases in a file of the user's, e.g. generic subjects for a contrastive projection."""

from __future__ import annotations

import csv
from pathlib import Path

from setr_lib.errors import SetrError


class PhrasesError(SetrError):
    """A file of phrases cannot be used; the message names it."""


def read_phrases(path: Path) -> list[str]:
    """The phrases of a corpus.

    Args:
        path: A text file in UTF-8 with a phrase on each line; of one that ends in ``.csv``, the first column
            is read.

    Returns:
        Each phrase once, in the order of the file; empty lines left out.

    Raises:
        PhrasesError: The file cannot be read, or has fewer than two phrases.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PhrasesError(f"{path} cannot be read as a text file in UTF-8: {error}") from None
    if path.suffix.lower() == ".csv":
        lines = [row[0] for row in csv.reader(lines) if row]
    phrases = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(phrases) < 2:
        raise PhrasesError(f"{path} has {len(phrases)} different phrases; a corpus needs two at least")
    return phrases
