"""CoTMR (ICCV 2025, arXiv 2502.20826): a target caption and lists of objects, each reasoned out step by step.

Two calls per query, both with the picture: on the *image scale* the model writes the wanted image's caption,
on the *object scale* the objects that must be there and those that must not. The multi-grained score is::

    cos(caption) + reward * mean cos(objects that must be there) - penalty * mean cos(those that must not)

An empty list adds nothing. How the paper weighs the three is not known to us: both weights and the means are
ours, not tuned; the options ``reward`` and ``penalty`` change them. The score is linear in the text's vector,
so it is searched as one vector; scaling that to norm 1 leaves every query's order as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from setr_lib.methods.inputs import COMPOSITIONS, MethodInputs
from setr_lib.methods.method import VectorMethod
from setr_lib.methods.options import Option
from setr_lib.texts.answers import Answer, Phrases, Text
from setr_lib.texts.kind import TextKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import EncodedQueries

REWARD = Option("reward", least=0, default=0.5, meaning="the weight of objects that must be there")
PENALTY = Option("penalty", least=0, default=0.5, meaning="the weight of objects that must not be there")
"""The weights, ours, of the objects that must, and must not, be there."""


class TargetCaption(Answer):
    """The image scale: what the reference shows, what changes, and the caption of the wanted image."""

    reference: Text
    changes: Phrases
    target_caption: Text


class Objects(Answer):
    """The object scale: what happens to each object, and which must, and must not, be in the wanted image."""

    reasoning: Text
    must_exist: Phrases
    must_not_exist: Phrases


def _derived_caption(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {"target_caption": texts[COMPOSITIONS].get("target_caption") or row["modification"]}


def _derived_objects(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    composition = texts[COMPOSITIONS]
    wanted = [phrase for part in ("keep", "add") for phrase in composition.get(part) or ()]
    return {"must_exist": wanted, "must_not_exist": list(composition.get("remove") or ())}


CAPTIONS_OF_TARGETS = TextKind(
    "cotmr_captions",
    task="cotmr_caption",
    per="query",
    answer=TargetCaption,
    derived_from=(COMPOSITIONS,),
    derive=_derived_caption,
    replacement=lambda row: {"target_caption": row["modification"]},
    done="target captions reasoned out",
)
"""Without a good answer, the modification text."""
OBJECTS = TextKind(
    "cotmr_objects",
    task="cotmr_objects",
    per="query",
    answer=Objects,
    derived_from=(COMPOSITIONS,),
    derive=_derived_objects,
    replacement=lambda row: {},
    done="objects reasoned out",
)
"""Without a good answer, no objects."""


def _captions(queries: EncodedQueries) -> list[str]:
    return queries.text(CAPTIONS_OF_TARGETS.name)["target_caption"].to_list()


def _objects(inputs: MethodInputs, which: str) -> NDArray[np.float32]:
    def phrases(queries: EncodedQueries) -> Sequence[Sequence[str]]:
        return queries.text(OBJECTS.name)[which].to_list()

    return inputs.queries.mean_vectors_of(f"{OBJECTS.name}: {which}", phrases)


def _cotmr(inputs: MethodInputs) -> NDArray[np.floating]:
    reward, penalty = REWARD.of(inputs.options), PENALTY.of(inputs.options)
    caption = inputs.queries.vectors_of(CAPTIONS_OF_TARGETS.name, _captions)
    return caption + reward * _objects(inputs, "must_exist") - penalty * _objects(inputs, "must_not_exist")


METHODS = (
    VectorMethod(
        "cotmr",
        _cotmr,
        texts=(CAPTIONS_OF_TARGETS, OBJECTS),
        source="CoTMR, arXiv 2502.20826, ICCV 2025; a reconstruction, its prompts and weights ours",
        options=(REWARD, PENALTY),
    ),
)
