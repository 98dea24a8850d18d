"""Model cards: what a person should know of a registered version, as Markdown for MLflow's pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from setr_lib.escaping import markdown

if TYPE_CHECKING:
    from setr_lib.registry.place import Place
    from setr_lib.training.trained_on import TrainedOn

_LICENCE = re.compile(r"^license(?:_name)?:[ \t]*[\"']?([^\s\"'#][^\n\"'#]*)", re.MULTILINE)
APART = "&emsp;"
"""A wide space: MLflow's pages set the columns of a table without any between them, and cut off the character
itself."""
_LONGEST = 7_500
"""Characters of a card; MLflow's stores take 8,000 of a tag."""
MINIATURE = "setr_lib/miniature/weights"
"""Where the models of the miniature are, which come with SETR."""


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Attributes:
        summary: What the model is, in a sentence or two; Markdown.
        registered_model: Its registered model, for the way to load it.
        base: What it was trained on top of, by the name of the fact.
        data: What it was trained on, by the name of the fact.
        measures: Held-out figures: name, before the training, after it.
        columns: What goes in and comes out; Markdown.
        limits: What a person must know before using it, in sentences; Markdown.
    """

    summary: str
    registered_model: str
    base: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    measures: Sequence[tuple[str, float, float]] = ()
    columns: str = ""
    limits: Sequence[str] = ()

    def text(self) -> str:
        """The card as Markdown."""
        parts = [self.summary, *self._facts("Base model", self.base), *self._facts("Trained on", self.data)]
        if self.measures:
            lines = [
                f"| {markdown(name)} |{APART}{old:.4f} |{APART}{new:.4f} |"
                for name, old, new in self.measures
            ]
            parts += [
                "### Held-out measures",
                "\n".join([f"| |{APART}before |{APART}after |", "| --- | --- | --- |", *lines]),
            ]
        parts += ["### How to load it", _loading(self.registered_model), self.columns]
        if self.limits:
            parts += ["### Limits", "\n".join(f"- {sentence}" for sentence in self.limits)]
        whole = "\n\n".join(part for part in parts if part)
        return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}…"

    @staticmethod
    def _facts(heading: str, facts: Mapping[str, str]) -> list[str]:
        told = {name.replace("_", " "): value for name, value in facts.items() if value}
        lines = [f"- {markdown(name)}: {markdown(value)}" for name, value in told.items()]
        return [f"### {heading}", "\n".join(lines)] if lines else []


def _loading(model: str) -> str:
    return (
        "```python\nimport mlflow\n\n"
        'mlflow.set_tracking_uri("...")  # MLFLOW_TRACKING_URI, as `setr env` prints it\n'
        f'model = mlflow.pyfunc.load_model("models:/{model}@champion")  # or /VERSION\n'
        "model.predict(model.input_example)\n```"
    )


def data_facts(trained_on: TrainedOn | None, **more: str) -> dict[str, str]:
    """What a version was trained on, as facts of a card.

    Args:
        trained_on: Images and triplets; None where the system does not say.
        more: Further facts.

    Returns:
        The facts.
    """
    if trained_on is None:
        return {"data": "not recorded", **more}
    return {
        "data": trained_on.source,
        "images": f"{trained_on.images.height:,}",
        "triplets": f"{trained_on.triplets.height:,}",
        **more,
    }


def licence_of(place: Place) -> str:
    """The licence of a base model, as far as its own files say.

    Args:
        place: Where the model is.

    Returns:
        The licence, or where to look for it.
    """
    if (place.relative or "").startswith(MINIATURE):
        return "Apache-2.0 (a model of SETR's miniature, which comes with it)"
    found = place.recorded() if place.is_local else _kept_card(place.name)
    if found is not None:
        folder = found if found.is_dir() else found.parent
        with suppress(OSError, UnicodeDecodeError):
            head = (folder / "README.md").read_text(encoding="utf-8").split("\n---", 1)[0]
            if head.startswith("---") and (told := _LICENCE.search(head)):
                return f"{told[1].strip()} (as its README.md says)"
    if place.is_local:
        return "not known here: see where the model came from"
    return f"not known here: see its page, https://huggingface.co/{place.name}"


def _kept_card(model: str) -> Path | None:
    """The model card of a hub id in this machine's cache; None where there is none."""
    if model.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    with suppress(Exception):  # a cache that is not in order says nothing
        found = try_to_load_from_cache(model, "README.md")
        return Path(found) if isinstance(found, str) else None
    return None
