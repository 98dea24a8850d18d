"""``setr miniature``: draw the synthetic world, train its two small models."""

from __future__ import annotations

from pathlib import Path

from setr_lib.commands.console import progress_on_terminal
from setr_lib.commands.outputs import check_output_folder
from setr_lib.miniature.source import Miniature
from setr_lib.settings import Settings


def write(settings: Settings, *, with_train: bool = False, everything: bool = False) -> int:
    """Draw the data sets under the storage root, and print where they are.

    Args:
        settings: The settings.
        with_train: The train splits of CIRR, FashionIQ and LaSCo, too.
        everything: These, and GeneCIS, i-CIR and LaSCo, whether or not settings name them.

    Returns:
        The exit status, 0.
    """
    from setr_lib.miniature.more_worlds import MORE
    from setr_lib.miniature.train_worlds import FOLDER, TRAIN_SPLITS

    miniature, root = Miniature(settings), settings.miniature_root
    with progress_on_terminal() as progress:
        miniature.prepare(progress)
        if everything:
            miniature.prepare_more(MORE, progress)
        for name in TRAIN_SPLITS if with_train or everything else ():
            miniature.prepare_train_split(root / FOLDER / name, progress)
    print(f"the miniature (seed {settings.miniature.seed}, size {settings.miniature.size:g}) is in {root}")
    return 0


def train(settings: Settings, *, output: Path | None, device: str | None, anew: bool) -> int:
    """Train the models that are not there, or both; print which were trained, and where the weights are.

    Args:
        settings: The settings.
        output: The folder of both models' folders; the package's own by default.
        device: A torch device, instead of the settings' own.
        anew: Whether to train both from nothing, in place of those that are there.

    Returns:
        The exit status, 0.
    """
    from setr_lib.miniature.train import train_configured

    check_output_folder(output)
    with progress_on_terminal() as progress:
        folder, trained = train_configured(settings, progress, output, device, anew)
    if trained:
        print(f"trained {' and '.join(trained)}; the two models are in {folder}")
    else:
        print(
            f"both models are in {folder} already, and nothing was trained: --anew replaces them, --output "
            "makes others"
        )
    return 0
