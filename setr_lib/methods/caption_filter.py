"""SoFT's soft filter (arXiv 2512.20781) over captions: a method's scores, raised by what the query asks for
and lowered by what it refuses.

A reconstruction: SoFT has a language model write one sentence of each and compares them with images by CLIP.
Here both are read by words alone: what the intersection keeps and adds is asked for, what the modification
text refuses is refused; and each is compared with the captions in the form of the filtered method: by terms,
by sentences, or both. The filtered method is the union, as SoFT filters CIReVL, which composes with the whole
caption, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from setr_lib.methods.caption_reading import INTERSECTION, UNION, QueryReading
from setr_lib.methods.captions import CaptionMethod, OverCaptions
from setr_lib.methods.dense_captions import DenseCaptions, HybridCaptions
from setr_lib.methods.inputs import MethodInputs
from setr_lib.methods.method import TRAINING_FREE
from setr_lib.methods.similarity import min_max
from setr_lib.methods.soft_formula import LAMBDA, filtered
from setr_lib.texts.lexical import Term, is_content, read_modification

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Refused:
    """What a modification text refuses, as a reading of a query."""

    def weights(self, modification: str, captions: Sequence[str], term: Term) -> dict[str, float]:
        """Each refused term at weight 1; those that the text asks for elsewhere are not refused."""
        read = read_modification(modification)
        wanted = {term(word) for word in read.wanted}
        refused = {term(word) for word in read.rejected if is_content(word)}
        return dict.fromkeys(sorted(key for key in refused - wanted if key is not None), 1.0)

    def sentences(self, modification: str, captions: Sequence[str], term: Term) -> list[tuple[str, float]]:
        """The refused words in their order; no sentence where nothing is refused."""
        refused = self.weights(modification, captions, term)
        said = [word for word in read_modification(modification).rejected if term(word) in refused]
        return [(" ".join(said), 1.0)] if said else []


@dataclass(frozen=True)
class CaptionFilter(OverCaptions):
    """SoFT's formula (:func:`setr_lib.methods.soft_formula.filtered`) over a method that searches captions.

    Whichever of the three is not a cosine (a sum of BM25, a hybrid score) is scaled to 0 to 1 for each query
    first.
    """

    name: str
    base: OverCaptions
    reward: OverCaptions
    penalty: OverCaptions
    label: str = TRAINING_FREE
    source: str = "SoFT (arXiv 2512.20781) over captions, read by words; a reconstruction"
    options = (LAMBDA,)
    space: str = field(init=False)
    needs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Need what the filtered method needs."""
        object.__setattr__(self, "space", self.base.space)
        object.__setattr__(self, "needs", self.base.needs)

    def fits(self, inputs: MethodInputs) -> NDArray[np.float64]:
        """The filtered scores; ``[methods.NAME] lambda`` is the share that is filtered, 1 by default."""
        share = LAMBDA.of(inputs.options)
        base, reward = _scaled(self.base, inputs), _scaled(self.reward, inputs)
        penalty = _scaled(self.penalty, inputs, nothing=0.0)
        return filtered(base, reward, penalty, share)


def _scaled(method: OverCaptions, inputs: MethodInputs, nothing: float = 1.0) -> NDArray[np.float64]:
    """The method's scores, brought to 0 to 1 unless they are cosines; ``nothing`` for a query that finds
    nothing, so all images alike.
    """
    fits = method.fits(inputs)
    return fits if method.is_cosine else min_max(fits, equal=nothing)


def _lexical(name: str, reading: QueryReading) -> CaptionMethod:
    return CaptionMethod(name, reading)


def _dense(name: str, reading: QueryReading) -> DenseCaptions:
    return DenseCaptions(name, reading)


def _hybrid(name: str, reading: QueryReading) -> HybridCaptions:
    return HybridCaptions(name, _lexical(name, reading), _dense(name, reading))


def _parts(
    form: Callable[[str, QueryReading], OverCaptions],
) -> tuple[OverCaptions, OverCaptions, OverCaptions]:
    """The method that is filtered, and those that give reward and penalty, in one form."""
    return form("union", UNION), form("asked", INTERSECTION), form("refused", Refused())


METHODS = (
    CaptionFilter("captions_soft", *_parts(_lexical)),
    CaptionFilter("captions_soft_dense", *_parts(_dense)),
    CaptionFilter("captions_soft_hybrid", *_parts(_hybrid)),
)
