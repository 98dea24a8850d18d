"""The held-out measure by which two versions of a trained system are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from setr_lib.registry.errors import RegistryError


@dataclass(frozen=True)
class MeasuredAgain:
    """A champion that was measured again on the held-out data of a version that would follow it.

    Attributes:
        champion: The champion's figure; None where nothing was left to measure it on.
        own: The version's figure on the same part of the data; None for its own figure on all of it.
        words: More about the comparison, which ends the sentence about it; where ``champion`` is None, why.
    """

    champion: float | None
    own: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Measure:
    """A figure of a version on its held-out data, e.g. the AUC on held-out pairs.

    Attributes:
        name: What people call it, e.g. ``"AUC"``.
        tag: The tag of logged models and versions that holds it, e.g. ``"setr.held_out_auc"``.
        higher_is_better: Whether the higher of two figures is the better one.
    """

    name: str
    tag: str
    higher_is_better: bool = True

    def of(self, tags: Mapping[str, str], whose: str = "this version") -> float:
        """The figure among the tags of a version.

        Args:
            tags: The version's tags.
            whose: The version, as the message names it.

        Returns:
            The figure, finite.

        Raises:
            RegistryError: The tag is missing, or not a finite number.
        """
        found = tags.get(self.tag, "missing")
        try:
            figure = float(found)
        except ValueError:
            figure = math.nan
        if not math.isfinite(figure):
            raise RegistryError(
                f"the tag {self.tag} (held-out {self.name}) is {found}: {whose} cannot be compared; delete "
                "it, or log and register it again"
            )
        return figure

    def finite(self, figure: float, version: str) -> float:
        """``figure``, measured again, where it can be compared.

        Args:
            figure: A figure of this measure.
            version: Whose it is.

        Returns:
            The figure.

        Raises:
            RegistryError: It is not finite.
        """
        if not math.isfinite(figure):
            raise RegistryError(
                f"held-out {self.name} of version {version} is {figure}, measured again on today's held-out "
                "data: it cannot be compared; look at that version's weights and at the data, or delete it"
            )
        return figure

    def better(self, figure: float, than: float) -> bool:
        """Whether ``figure`` is better than another; equal is not better.

        Args:
            figure: A figure of this measure.
            than: Another.

        Returns:
            Whether the first is better.
        """
        return figure > than if self.higher_is_better else figure < than
