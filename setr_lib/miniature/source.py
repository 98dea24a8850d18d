"""The miniature as a data source: the data sets that ``[miniature]`` asks for, drawn below the storage
root.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.benchmarks.source import DataSource

if TYPE_CHECKING:
    from setr_lib.progress import Progress


class Miniature(DataSource):
    """The drawn world: CIRR, FashionIQ, CIRCO and captioned training images under
    ``Settings.miniature_root``.
    """

    name = "miniature"
    title = "the miniature"
    advice = "`make demo`, or `setr miniature write`, draws it"
    image_bytes = 11_000

    def owns(self, path: Path) -> bool:
        """Whether it is under ``Settings.miniature_root``; see :meth:`DataSource.owns`."""
        return path.is_relative_to(self.settings.miniature_root)

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
