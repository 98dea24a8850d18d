"""Role scoring on a single vector, after MulVec (arXiv 2608.25305): Global, Desired, Preserve and Forbidden.

A reconstruction. MulVec scores a role by a soft maximum over an image's local vectors; with one vector an
image, that is the cosine. The weights' values are not known: those here are ours, and so is the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.methods.inputs import COMPOSITIONS, EncodedQueries, MethodError, MethodInputs
from setr_lib.methods.method import Method
from setr_lib.methods.options import Option
from setr_lib.methods.similarity import similarity
from setr_lib.texts.answers import Answer, Phrases, Text
from setr_lib.texts.kind import TextKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = MappingProxyType({"overall": 0.4, "desired": 0.2, "preserve": 0.2, "forbidden": 0.2})
"""Ours, not the paper's: the whole counts twice what a role does. ``overall`` is MulVec's *Global*."""
OPTIONS = tuple(
    Option(role, least=0, default=ours, meaning=f"the weight of the role `{role}`")
    for role, ours in WEIGHTS.items()
)


class Roles(Answer):
    """What a query asks for, by role."""

    overall: Text
    """The whole wanted image (MulVec's *Global*)."""
    desired: Phrases
    preserve: Phrases
    forbidden: Phrases


def _from_composition(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    composed = texts[COMPOSITIONS]
    return {
        "overall": (composed.get("target_caption") or "").strip() or row["modification"],
        "desired": list(composed.get("add") or ()),
        "preserve": list(composed.get("keep") or ()),
        "forbidden": list(composed.get("remove") or ()),
    }


ROLES = TextKind(
    "roles",
    task="roles",
    per="query",
    answer=Roles,
    derived_from=(COMPOSITIONS,),
    derive=_from_composition,
    replacement=lambda row: {"overall": row["modification"]},
    done="roles written",
)


def _phrases(role: str, queries: EncodedQueries) -> list[list[str]]:
    return [list(listed or ()) for listed in queries.text(ROLES.name)[role].to_list()]


class RoleMethod(Method):
    """``S = t_G G + t_D D + t_P P - t_F F`` over the roles that a query has.

    G is the cosine of the whole description, D, P and F the mean cosine of a role's phrases. P is half that,
    half the reference image's own cosine (its continuity). The weights of the roles without phrases are left
    out, and the others scaled to the sum of 1; where none is left, G counts alone. A reference without a
    vector leaves the phrases of P alone.
    """

    name = "role"
    texts = (ROLES,)
    options = OPTIONS
    source = "after MulVec, arXiv 2608.25305, on one vector; a reconstruction with weights and prompt of ours"

    def with_options(self, options: Mapping[str, Any], find: Callable[[str], Method]) -> Method:
        """Itself; weights that are all 0 are refused."""
        if not any({**WEIGHTS, **options}[role] for role in WEIGHTS):
            raise MethodError(f"[methods.role]: {', '.join(WEIGHTS)} are all 0: give one of them a weight")
        return self

    def scores(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The weighted sum over a query's active roles."""
        return similarity(self.search_vectors(inputs), inputs.gallery.vectors)

    def search_vectors(self, inputs: MethodInputs) -> NDArray[np.float32]:
        """The weighted sum of the roles' vectors, not scaled to norm 1: every role is linear in an image's
        vector.
        """
        queries = inputs.queries
        weights = {option.name: option.of(inputs.options) for option in OPTIONS}
        vectors = {
            role: queries.mean_vectors_of(f"role {role}", partial(_phrases, role))
            for role in ("desired", "preserve", "forbidden")
        }
        vectors["overall"] = queries.vectors_of(
            "role overall", lambda whole: whole.text(ROLES.name)["overall"].to_list()
        )
        seen = queries.reference_vectors.any(axis=1, keepdims=True)
        active = [vectors[role].any(axis=1, keepdims=True) for role in WEIGHTS]
        half = (vectors["preserve"] + queries.reference_vectors) / 2
        vectors["preserve"] = np.where(seen, half, vectors["preserve"])
        shares = np.array([weights[role] for role in WEIGHTS])[:, None, None] * np.array(active)
        shares[0] += shares.sum(axis=0) == 0  # overall comes first in WEIGHTS
        signs = np.array([-1.0 if role == "forbidden" else 1.0 for role in WEIGHTS])[:, None, None]
        query = (signs * shares * np.array([vectors[role] for role in WEIGHTS])).sum(axis=0) / shares.sum(
            axis=0
        )
        return query.astype(np.float32)


METHODS = (RoleMethod(),)
