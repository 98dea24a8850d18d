"""The miniature as a data source: the data sets that ``[miniature]`` asks for, drawn below the storage
root.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.source import DataSource

if TYPE_CHECKING:
    from setr_lib.progress import Progress


class Miniature(DataSource):
    """The drawn world, under ``Settings.miniature_root``: CIRR, FashionIQ, CIRCO and captioned training
    images; GeneCIS, i-CIR and LaSCo where settings name them; train splits where something is trained on
    them.
    """

    name = "miniature"
    title = "the miniature"
    advice = "`setr run`, or `setr miniature write`, draws it"
    image_bytes = 11_000
    banner = "miniature: drawn pictures"
    banner_text = (
        "The images are drawn, and so is what they ask for: no number here says anything of photographs."
    )

    def owns(self, path: Path) -> bool:
        """Whether it is under ``Settings.miniature_root``; see :meth:`DataSource.owns`."""
        return path.is_relative_to(self.settings.miniature_root)

    def remedy(self, folder: Path) -> str:
        """Train splits are drawn by a command of their own; see :meth:`DataSource.remedy`."""
        if folder.parent == self.settings.miniature_root / "train":
            return f"{self.shown_name}: `setr miniature write --train` draws it"
        return super().remedy(folder)

    def prepare(self, progress: Progress) -> None:
        """Draw what is absent or was drawn by other settings; see :meth:`DataSource.prepare`."""
        from setr_lib.miniature.difficulty import Difficulty
        from setr_lib.miniature.worlds import write_miniature

        options = self.settings.miniature
        write_miniature(
            self.settings.miniature_root,
            options.seed,
            options.size,
            options.training_images,
            progress,
            difficulty=Difficulty.of(options),
        )
        named = {self.settings.resolve(dataset.root) for dataset in self.settings.datasets.values()}
        self.prepare_more(
            [root.name for root in named if root.parent == self.settings.miniature_root], progress
        )
        trained = self.settings.datasets.get(self.settings.training.dataset or "")
        if trained is not None and trained.train_root is not None:
            self.prepare_train_split(self.settings.resolve(trained.train_root), progress)

    def prepare_more(self, names: Iterable[str], progress: Progress) -> None:
        """Draw GeneCIS, i-CIR and LaSCo, which the miniature has only where they are asked for.

        Args:
            names: Folders of data sets; others than these three are passed over.
            progress: Told how many images are drawn.
        """
        from setr_lib.miniature.more_worlds import MORE, more_world
        from setr_lib.miniature.worlds import write_worlds

        root, options = self.settings.miniature_root, self.settings.miniature
        wanted = [more_world(root, name, options) for name in MORE if name in set(names)]
        write_worlds(wanted, progress)

    def prepare_train_split(self, folder: Path, progress: Progress) -> None:
        """Draw the train split ``train/NAME``; see :meth:`DataSource.prepare_train_split`."""
        from setr_lib.miniature.train_worlds import FOLDER, TRAIN_SPLITS, train_world
        from setr_lib.miniature.worlds import write_worlds

        root = self.settings.miniature_root
        if folder.parent == root / FOLDER and folder.name in TRAIN_SPLITS:
            write_worlds([train_world(root, folder.name, self.settings.miniature)], progress)
