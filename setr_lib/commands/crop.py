"""``setr crop``: cut the images of benchmarks that rank parts of downloaded images, and save them."""

from __future__ import annotations

from setr_lib.errors import SetrError
from setr_lib.settings import Settings


def run(settings: Settings, *, dataset: str | None) -> int:
    """Cut what is not there yet, of every evaluation set in turn; a set that fails does not stop the others.

    Args:
        settings: The settings.
        dataset: A data set or evaluation set; None for all.

    Returns:
        The exit status: 1 where a set's images could not all be cut.

    Raises:
        DatasetError: There is no such data set.
    """
    from setr_lib.benchmarks import named_sets
    from setr_lib.commands.console import progress_on_terminal, say_error

    failed = 0
    for evaluated in named_sets(settings, dataset):
        try:
            with progress_on_terminal() as show:
                made = evaluated.benchmark.cut_images(evaluated, show)
        except SetrError as error:
            say_error(error)
            failed = 1
        else:
            print(f"{evaluated.key}: {made:,} images cut")
    return failed
