"""How hard the miniature's galleries are: three independent settings, called dials here.

A gallery consists of its queries' references and targets, and of *distractors*, each drawn against one query.
One dial is about what scenes show, one about what distractors show, one about where distractors are. At its
default a dial leaves the documented world as it is, byte for byte; that is why a decision that is certain
takes nothing from the stream of random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setr_lib.settings import MiniatureSettings


@dataclass(frozen=True)
class Difficulty:
    """The dials; ``[miniature]`` in the settings describes them for those who turn them."""

    objects_per_scene: float = 1.6
    near_misses: float = 1.0
    background_correlation: float | None = None

    @classmethod
    def of(cls, options: MiniatureSettings) -> Difficulty:
        """The dials as ``[miniature]`` in the settings turns them.

        Args:
            options: The settings.

        Returns:
            The dials.
        """
        return cls(options.objects_per_scene, options.near_misses, options.background_correlation)

    def distractors(self, documented: int, share: float = 1.0) -> int:
        """How many distractors a gallery gets: the documented number, or more where its near misses need the
        room.

        Args:
            documented: The number in the documented world.
            share: Share of the documented distractors that are near misses.

        Returns:
            The number.
        """
        return max(documented, round(documented * share * self.near_misses))

    def distractors_of(self, index: int, documented: int) -> int:
        """How many distractors one of several equal queries (or subsets) gets, so that all together have
        their number.

        Args:
            index: Which of them, from 0.
            documented: Distractors of each in the documented world.

        Returns:
            The number.
        """
        before, after = (self.distractors(documented * count) for count in (index, index + 1))
        return after - before

    def wants_near_miss(self, rng: Random, share: float = 1.0) -> bool:
        """Whether the next distractor is a near miss; if not, it is a random picture.

        Args:
            rng: Decides.
            share: Share of near misses in the documented world.

        Returns:
            True for a near miss.
        """
        chance = share * self.near_misses
        return chance >= 1 or rng.random() < chance

    def on_reference_background(self, rng: Random, documented: float) -> bool:
        """Whether the next distractor has the background of its query's reference; if not, any background.

        Args:
            rng: Decides.
            documented: The chance in the documented world.

        Returns:
            True for the reference's background.
        """
        given = self.background_correlation
        return rng.random() < (documented if given is None else given)

    def turned(self, names: tuple[str, ...]) -> dict[str, float]:
        """The named dials that are not at their default, as a data set's stamp records them.

        Args:
            names: Names of dials.

        Returns:
            Name -> value.
        """
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != getattr(DOCUMENTED, name)}


DOCUMENTED = Difficulty()
"""The world that the documentation describes and that the committed models' scores are about."""
