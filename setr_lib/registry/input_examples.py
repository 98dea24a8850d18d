"""The input example of a registered model: one small request, taken from its stored examples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

_MOST_BYTES = 256 << 10
"""A larger picture is stored smaller: MLflow keeps input examples as base64, in text."""
_SIDE = 384
"""Pixels of the longer side of a picture that is stored smaller."""


def input_example(examples: pl.DataFrame, columns: Sequence[str]) -> pd.DataFrame | None:
    """One row of stored examples as a request.

    Args:
        examples: Stored examples of a bundle; columns of bytes are pictures.
        columns: Those of a request.

    Returns:
        A data frame of one row; None where there are no examples.
    """
    import pandas as pd

    if examples.is_empty():
        return None
    row = examples.row(0, named=True)
    cells = {name: _small(row[name]) if isinstance(row[name], bytes) else row[name] for name in columns}
    return pd.DataFrame({name: pd.Series([cell], dtype=object) for name, cell in cells.items()})


def _small(content: bytes) -> bytes:
    """The bytes of a picture, or of a smaller one."""
    if len(content) <= _MOST_BYTES:
        return content
    from setr_lib.pixels import PixelRules, decode_image

    picture = decode_image(content, PixelRules.from_id("", None))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
