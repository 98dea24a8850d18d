"""CIReVL (ICLR 2024): caption the reference, let a language model edit the caption, search with its vector.

The model that edits sees the caption and the modification text, never the picture. The prompts are ours, so
this is a reconstruction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from setr_lib.methods.inputs import CAPTIONS, COMPOSITIONS, MethodInputs
from setr_lib.methods.method import VectorMethod
from setr_lib.texts.answers import Answer, AnswerError, Text, without_thinking
from setr_lib.texts.kind import TextKind, modification_only

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from setr_lib.methods.inputs import EncodedQueries

_LABEL = re.compile(r"edited (?:description|caption)[*\"'\s]*:", re.IGNORECASE)
_MARKS = " \t\"'*`"


class EditedCaption(Answer):
    """The reference's caption after the change."""

    edited_caption: Text

    @classmethod
    def from_answer(cls, answer: str) -> EditedCaption:
        """The line after the last label ``Edited description:``, further colons included; an answer of one
        line needs no label.

        Args:
            answer: The model's answer, special tokens removed.

        Returns:
            The edited caption.

        Raises:
            AnswerError: The description is empty, or there are several lines and no label.
        """
        *before, rest = _LABEL.split(without_thinking(answer))
        lines = [line for each in rest.splitlines() if (line := each.strip(_MARKS))]
        if len(lines) > 1 and not before:
            raise AnswerError("several lines, and none is labelled 'Edited description:'")
        return cls.of({"edited_caption": lines[0] if lines else ""})


def _variables(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, str | list[str]]:
    return {**modification_only(row, texts), "caption": texts[CAPTIONS]["caption"]}


def _derived(row: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The whole reference after the change: what stays and what the text says nothing of, and what comes."""
    composition = texts[COMPOSITIONS]
    phrases = [phrase for part in ("keep", "drop", "add") for phrase in composition.get(part) or ()]
    return {"edited_caption": ", ".join(phrases) or row["modification"]}


EDITED_CAPTIONS = TextKind(
    "edited_captions",
    task="cirevl",
    per="query",
    answer=EditedCaption,
    variables=_variables,
    after=(CAPTIONS,),
    derived_from=(COMPOSITIONS,),
    derive=_derived,
    replacement=lambda row: {"edited_caption": row["modification"]},
    shows_picture=False,
    done="captions edited",
)
"""The caption of the reference after the change. Where there is none, the modification text stands in for it,
as in the paper."""


def _edited_captions(queries: EncodedQueries) -> list[str]:
    return queries.text(EDITED_CAPTIONS.name)["edited_caption"].to_list()


def _cirevl(inputs: MethodInputs) -> NDArray[np.float32]:
    return inputs.queries.vectors_of(EDITED_CAPTIONS.name, _edited_captions)


CIREVL = VectorMethod(
    "cirevl",
    _cirevl,
    texts=(EDITED_CAPTIONS,),
    source="CIReVL, Karthik et al., ICLR 2024; a reconstruction with prompts of ours",
    options=(),
)
METHODS = (CIREVL,)
