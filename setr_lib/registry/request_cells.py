"""The cells of a request to a served model: input from strangers, read within limits.

A cell that cannot be used is its own row's error, short and without anything about this machine; the other
rows are answered. A request as a whole is refused only where a column is missing or it has too many rows.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setr_lib.errors import SetrError
from setr_lib.escaping import is_unicode
from setr_lib.models.refusals import reason_of
from setr_lib.pixels import PixelRules, TooManyPixelsError, UnreadableImageError, decode_image, stored_size
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.image_roots import ImageRoots, NoPictureError

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""The formats of pictures that are read, by their names in Pillow. Others run programs (EPS), or are slow to
decode."""
ERROR = "error"
"""The column of the answer that says what is wrong with a row; null where nothing is."""

_LONGEST_ERROR = 200
_MOST_RATIO = 250
"""How many times as long as the other a side may be: a thin picture grows when its short side is enlarged to
a model's. Qwen-VL itself takes 200."""
_LONGEST_NAME = 1024
"""Characters of a file's name; systems allow 4,096 bytes."""
_INLINE, _FILE = "data:", b"file:"
_SHORTEST_INLINE = 24
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_BOX = slice(4, 8), b"ftyp"  # AVIF


class CellError(SetrError):
    """A cell cannot be used; the message is its row's error."""


@dataclass(frozen=True)
class RequestLimits:
    """How much a served model takes.

    Each limit is set when the model is loaded: by ``model_config``, under the attribute's name, or by the
    variable ``SETR_`` and that name in capitals.

    Attributes:
        max_rows: Rows of a request.
        max_image_bytes: Bytes of a picture's file.
        max_image_pixels: Pixels of a picture, its width times its height.
        max_characters: Characters of a text.
    """

    max_rows: int = 10_000
    max_image_bytes: int = 64 << 20
    max_image_pixels: int = 50_000_000
    max_characters: int = 10_000

    @classmethod
    def read(cls, config: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> RequestLimits:
        """The limits of a model that is being loaded.

        Args:
            config: MLflow's ``model_config``; a key that is null or absent leaves it to the environment.
            environment: Variables; those of the process by default.

        Returns:
            The limits.

        Raises:
            RegistryError: One is no whole number above 0.
        """
        environment = os.environ if environment is None else environment
        found: dict[str, int] = {}
        for name in LIMITS:
            variable = variable_of(name)
            given, where = config.get(name), f"model_config {name}"
            if given is None:
                given, where = environment.get(variable) or None, variable
            if given is not None:
                found[name] = _whole_number(given, where)
        return cls(**found)


LIMITS = tuple(field.name for field in fields(RequestLimits))
"""The keys of ``model_config`` that set limits."""


def variable_of(limit: str) -> str:
    """The environment variable of a limit, e.g. ``SETR_MAX_ROWS``."""
    return f"SETR_{limit.upper()}"


def config_of(config: Mapping[str, Any] | None, keys: Sequence[str]) -> dict[str, Any]:
    """MLflow's ``model_config`` of a model that is being loaded.

    Args:
        config: As MLflow gives it: keys that nobody has set are null.
        keys: Those that the model knows.

    Returns:
        What was set.

    Raises:
        RegistryError: A key is unknown.
    """
    if unknown := set(config or {}) - {*keys}:
        raise RegistryError(f"model_config: {sorted(unknown)} unknown; the keys are {', '.join(keys)}")
    return {key: value for key, value in (config or {}).items() if value is not None}


def check_request(frame: pd.DataFrame, columns: Sequence[str], limits: RequestLimits) -> None:
    """Refuse a request that no row of could be answered.

    Args:
        frame: The request.
        columns: The columns that a row has.
        limits: How much is taken.

    Raises:
        RegistryError: A column is missing or there twice, or there are too many rows.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise RegistryError(f"columns {missing} are missing: a row has {', '.join(columns)}")
    if twice := [name for name in columns if list(frame.columns).count(name) > 1]:
        raise RegistryError(f"columns {twice} are there more than once: a row has {', '.join(columns)}")
    if len(frame) > limits.max_rows:
        raise RegistryError(
            f"the request has {len(frame):,} rows, more than the {limits.max_rows:,} that are allowed at "
            "once: send it in parts"
        )


@dataclass(frozen=True)
class RequestCells:
    """Reads cells.

    Attributes:
        limits: How much is taken.
        roots: The folders whose files may be named; None for a model that takes no names.
        pixels: How pictures are read, ``PixelRules.id``: as those that the model was trained on were.
    """

    limits: RequestLimits
    roots: ImageRoots | None = None
    pixels: str = ""

    def content(self, value: object) -> bytes:
        """The bytes of a picture, which are not decoded yet.

        Args:
            value: Bytes; their base64 text or a ``data:`` URL; or the name of a file below one of the
                roots, as a text or as the bytes of ``file:NAME``: in a request in JSON, MLflow takes a
                picture's column for base64.

        Returns:
            The bytes.

        Raises:
            CellError: It is none of these, or too large.
        """
        if isinstance(value, bytes | bytearray | memoryview):
            if (value.nbytes if isinstance(value, memoryview) else len(value)) > self._bytes:
                raise self._too_large()
            content = bytes(value)
            if content.startswith(_FILE):
                content = self._of_file(content.removeprefix(_FILE).decode(errors="surrogateescape"))
        elif isinstance(value, str | Path):
            content = self._named(str(value))
        else:
            raise CellError(f"a picture's bytes are needed, not {_kind(value)}")
        if not content:
            raise CellError("a picture's bytes are needed, these are empty")
        return content

    def picture(self, content: bytes) -> Image.Image:
        """A picture's bytes, decoded as those of the training were.

        Args:
            content: The bytes.

        Returns:
            The picture in RGB.

        Raises:
            CellError: They are no picture of a known format, or one that is cut off or has too many pixels.
        """
        try:
            size = stored_size(content, FORMATS)
        except TooManyPixelsError:
            size = (1, 1)  # of a known format; how many pixels are allowed is decided below
        except UnreadableImageError:
            raise CellError("no readable picture (JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF)") from None
        long, short = max(size), max(1, min(size))
        if long > _MOST_RATIO * short:
            raise CellError(f"one side is more than {_MOST_RATIO} times as long as the other")
        try:
            return decode_image(content, PixelRules.from_id(self.pixels, self.limits.max_image_pixels))
        except UnreadableImageError as error:
            raise CellError(reason_of(error).removeprefix("it ")) from None

    def text(self, value: object, *, may_be_empty: bool = False) -> str:
        """A text.

        Args:
            value: The text.
            may_be_empty: Whether an empty one says something.

        Returns:
            The text.

        Raises:
            CellError: It is no text, is empty, is too long, or is not Unicode.
        """
        if not isinstance(value, str):
            raise CellError(f"a text is needed, not {_kind(value)}")
        if len(value) > self.limits.max_characters:
            raise CellError(
                f"{len(value):,} characters, more than the {self.limits.max_characters:,} allowed"
            )
        if not may_be_empty and not value.strip():
            raise CellError("a text is needed, this one is empty")
        if not is_unicode(value):
            raise CellError("half a character (a lone surrogate): no text can be written with it")
        return str(value)

    @property
    def _bytes(self) -> int:
        return self.limits.max_image_bytes

    def _too_large(self) -> CellError:
        return CellError(f"more than the {_size(self._bytes)} that a picture's file may have")

    def _named(self, text: str) -> bytes:
        """The bytes that a text stands for: base64, or a file's name."""
        return inline if (inline := self._inline(text)) is not None else self._of_file(text)

    def _of_file(self, text: str) -> bytes:
        """The bytes of a file below one of the roots."""
        if self.roots is None or not self.roots.folders:
            raise CellError("a picture's bytes are needed (or their base64): no files are read by name here")
        if len(text) > _LONGEST_NAME:
            raise CellError(f"a name of {len(text):,} characters, more than the {_LONGEST_NAME:,} allowed")
        if not text or "\0" in text or not is_unicode(text):
            raise CellError("no file can have this name")
        try:
            content = self.roots.contents_of(text, self._bytes)
        except NoPictureError:
            raise CellError("there is no picture of this name") from None
        if content is None:
            raise self._too_large()
        return content

    def _inline(self, text: str) -> bytes | None:
        """The bytes of a ``data:`` URL, or of a base64 text that begins as a picture does; None for another
        text.
        """
        is_url = text[: len(_INLINE)].lower() == _INLINE
        encoded = text
        if is_url:
            head, comma, encoded = text.partition(",")
            if not comma or not head.lower().endswith(";base64"):
                raise CellError("a data: URL needs base64: data:image/png;base64,...")
        elif len(text) < _SHORTEST_INLINE or not _begins_as_picture(text):
            return None
        if len(encoded) > self._bytes // 3 * 4 + self._bytes // 16 + 1024:  # with its line ends
            raise self._too_large()
        try:
            content = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            if is_url:
                raise CellError("the base64 of this data: URL is damaged") from None
            return None
        if len(content) > self._bytes:
            raise self._too_large()
        return content


def row_error(column: str, error: BaseException | str) -> str:
    """What a row's error says.

    Args:
        column: The cell's column.
        error: What is wrong with the cell.

    Returns:
        At most 200 characters.
    """
    words = f"{column}: {error if isinstance(error, str) else reason_of(error)}"
    return words if len(words) <= _LONGEST_ERROR else f"{words[: _LONGEST_ERROR - 1]}…"


def with_nulls(answer: pd.DataFrame) -> pd.DataFrame:
    """An answer in which what is missing is None: MLflow's server would write ``NaN``, which is no JSON.

    Args:
        answer: The answer.

    Returns:
        The same values; columns of numbers that lack some hold objects.
    """
    found = {
        name: column.astype(object).where(column.notna(), None) if column.isna().any() else column
        for name, column in answer.items()
    }
    return answer.assign(**{str(name): column for name, column in found.items()})


def _begins_as_picture(text: str) -> bool:
    try:
        begins = base64.b64decode(text[:16], validate=True)
    except (binascii.Error, ValueError):
        return False
    part, box = _BOX
    return begins.startswith(_BEGINNINGS) or begins[part] == box


def _kind(value: object) -> str:
    """What a value of the wrong type is called."""
    if value is None or _is_missing(value):
        return "a null"
    if isinstance(value, Number):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence | set | frozenset) or hasattr(value, "__array__"):
        return "a list"
    return "another kind of value"


def _is_missing(value: object) -> bool:
    """Whether a value is NaN, NaT or pandas' NA: none of them equals itself."""
    import pandas as pd

    try:
        return value is pd.NA or bool(value != value)
    except Exception:  # arrays, and objects with a comparison of their own
        return False


def _size(count: int) -> str:
    return f"{count / (1 << 20):.4g} MB" if count >= 1 << 20 else f"{count:,} bytes"


def _whole_number(value: object, where: str) -> int:
    try:
        number = int(str(value).replace("_", ""))
    except ValueError:
        number = 0
    if isinstance(value, bool | float) or number < 1:
        raise RegistryError(f"{where}: a whole number above 0 is needed, not {str(value)[:40]!r}")
    return number
