"""Whose fault an exception is: of a picture or text that a processor refuses, or of the model itself.

Processors, tokenizers and preprocessing raise anything on an input that they do not take (a picture 200
times as long as wide, a text with half a character). That costs the input, as a broken file costs its
picture; everything else is run without it. Short memory, errors for people, and the errors of a model that
fails on any input pass on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Generic, TypeVar

from setr_lib.errors import SetrError
from setr_lib.models.device import is_out_of_memory
from setr_lib.pixels import RefusedImageError, UnreadableImageError

if TYPE_CHECKING:
    from PIL import Image

Item = TypeVar("Item")
Result = TypeVar("Result")

_LONGEST_REASON = 200
_CONTROL_SIDE = 224
_MOST_RATIO = 2000
CONTROL_TEXT = "a picture"
"""A text that every tokenizer takes."""


@cache
def control_image() -> Image.Image:
    """A plain picture that every processor takes: what fails on it, too, fails on its own account."""
    from PIL import Image

    return Image.new("RGB", (_CONTROL_SIDE, _CONTROL_SIDE), (127, 127, 127))


def may_be_a_refusal(error: BaseException) -> bool:
    """Whether an exception may be about the input of the code that raised it.

    Args:
        error: What a processor, a tokenizer, or code of a person's own has raised.

    Returns:
        True for errors of pictures and for exceptions that are not for people; False where memory was not
        enough, for a keyboard interrupt, and for other errors for people, which say what they are about.
    """
    if isinstance(error, SetrError):
        return isinstance(error, UnreadableImageError)
    return isinstance(error, Exception) and not is_out_of_memory(error)


def reason_of(error: BaseException) -> str:
    """What an exception says, short enough for a table's cell.

    Args:
        error: The exception.

    Returns:
        The first line of its message, or its class name where it has none; at most 200 characters.
    """
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first if len(first) <= _LONGEST_REASON else f"{first[: _LONGEST_REASON - 1]}…"


def check_sides(image: Image.Image) -> None:
    """Refuse a picture so thin that preparing it takes gigabytes: models enlarge the short side to their own.

    Args:
        image: The picture.

    Raises:
        RefusedImageError: A side is more than 2,000 times as long as the other.
    """
    if max(image.size) > _MOST_RATIO * max(1, min(image.size)):
        raise RefusedImageError(
            f"this picture of {image.width:,} x {image.height:,} pixels is too thin for a model: a side may "
            f"be {_MOST_RATIO:,} times as long as the other"
        )


def refusing(preprocess: Callable[[Image.Image], Result], image: Image.Image, who: str) -> Result:
    """Prepare one picture for a model.

    Args:
        preprocess: Of an encoder.
        image: The picture, in RGB.
        who: Whose preprocessing it is, for the message.

    Returns:
        What ``preprocess`` gives.

    Raises:
        RefusedImageError: ``preprocess`` raised anything but what :func:`may_be_a_refusal` excludes, and
            takes a plain picture. Where it doesn't, its own exception is raised. Or the picture is too thin.
    """
    check_sides(image)
    try:
        return preprocess(image)
    except UnreadableImageError:
        raise
    except Exception as error:
        if not may_be_a_refusal(error) or not takes(lambda items: preprocess(items[0]), control_image):
            raise
        raise RefusedImageError(
            f"the preprocessing of {who} refuses this picture of {image.width:,} x {image.height:,} pixels "
            f"({reason_of(error)})"
        ) from error


@dataclass(frozen=True)
class Ran(Generic[Result]):
    """What a function gave of several items.

    Attributes:
        results: The result by the item's index.
        refused: The reason by the index of each item that was left out.
    """

    results: Mapping[int, Result]
    refused: Mapping[int, str]


def run_without_refused(
    items: Sequence[Item], run: Callable[[Sequence[Item]], Iterable[Result]], control: Callable[[], Item]
) -> Ran[Result]:
    """Run a function over items at once, without those that it refuses.

    Where it raises, each item is tried alone. One that raises alone is refused if its error is a picture's,
    or if ``run`` takes the control item: then the function works, and not with this item. The others are run
    together.

    Args:
        items: The items.
        run: Gives one result per item.
        control: Makes an item that ``run`` takes unless it takes none.

    Returns:
        The results, and the reasons of refused items.

    Raises:
        Exception: What ``run`` raised, where no single item is at fault.
    """
    try:
        return Ran(dict(zip(range(len(items)), run(items), strict=True)), {})
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        first = error
    alone = {index: _error_of(run, item) for index, item in enumerate(items)}
    errors = {index: error for index, error in alone.items() if error is not None}
    plain = [error for error in errors.values() if not isinstance(error, UnreadableImageError)]
    if not errors or (plain and not takes(run, control)):
        raise first
    rest = [index for index in range(len(items)) if index not in errors]
    made = run([items[index] for index in rest]) if rest else []
    reasons = {index: reason_of(error) for index, error in errors.items()}
    return Ran(dict(zip(rest, made, strict=True)), reasons)


def _error_of(run: Callable[[Sequence[Item]], object], item: Item) -> Exception | None:
    try:
        run([item])
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        return error
    return None


def takes(run: Callable[[Sequence[Item]], object], make: Callable[[], Item]) -> bool:
    """Whether a function works with an item.

    Args:
        run: The function.
        make: Makes the item.

    Returns:
        False where making it, or the function, raises.
    """
    try:
        return _error_of(run, make()) is None
    except SetrError:
        return False
    except Exception as error:
        if not may_be_a_refusal(error):
            raise
        return False
