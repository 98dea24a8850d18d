"""What a re-ranker is, and how one is found by its name.

A re-ranker of one's own is a class with ``name``, ``id`` and ``score`` (see :class:`Reranker`). It is known
by ``register``, by an entry point of the group ``setr.rerankers``, or by ``package.module:NAME`` instead of a
name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from setr_lib.catalogue import Catalogue
from setr_lib.errors import SetrError, told_as
from setr_lib.settings import RERANKER_ENTRY_POINTS, RERANKERS
from setr_lib.weights import Weights, check_same, loaded

if TYPE_CHECKING:
    import numpy as np

    from setr_lib.models.multimodal import MultimodalModel, Picture
    from setr_lib.settings import Settings

ZERO_SHOT = "zero-shot"
"""The label of a row whose re-ranker has seen no data of a benchmark."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,99}")
_RESERVED = ("best", "coarse", "external", "none", "random")
"""Names of rows without a re-ranker, and what a search takes in place of a name."""


class RerankerError(SetrError):
    """A re-ranker is not known, cannot be loaded, or gives what cannot be scores."""


@dataclass(frozen=True)
class JudgedQuery:
    """A query and the candidates to score.

    Attributes:
        reference: The reference image.
        modification: The modification text.
        candidates: Images, in the order of stage 1.
    """

    reference: Picture
    modification: str
    candidates: tuple[Picture, ...]


class ModelSource(Protocol):
    """The models of a process, as ``open`` is given them: ``setr_lib.pipeline.models.Models``."""

    settings: Settings

    def multimodal(self, version: str | None = None) -> MultimodalModel:
        """The configured multimodal LLM, as it is or with a registered adapter.

        Args:
            version: The adapter's registry version.

        Returns:
            The model.
        """
        ...


class Reranker(ABC):
    """A way to score the candidates of composed queries."""

    name: str
    """Its name in settings, tables and reports: letters, digits, spaces, ``.``, ``-`` and ``_``."""
    id: str = ""
    """What its scores depend on besides the query: model, prompt, its own version. Scores are kept under it,
    so another id is needed where anything is computed otherwise. It must be there once it is opened."""
    label: str = ZERO_SHOT
    """What it has learned from, as rows say it."""
    source: str = ""
    """Where it was published; a reconstruction says so."""
    listwise: bool = False
    """Whether a score depends on the query's other candidates; such scores are kept for whole lists, and the
    gallery's candidates and a subset's are two lists."""
    is_logit: bool = False
    """Whether 1 / (1 + exp(-score)) is a probability that the candidate satisfies the query: only then may it
    be added to a cosine."""
    trained: str | None = None
    """The trained system whose weights it needs, by name; it is left out while no version is promoted."""
    pairs_per_batch: int = 128
    """About how many candidates ``score`` is given at once: whole queries, at least one."""

    @property
    def model_id(self) -> str:
        """The model that scores, as records and reports name it."""
        return self.id

    @property
    def prompt_hash(self) -> str | None:
        """Digest of the prompt, for a re-ranker that has one."""
        return None

    def with_weights(self, weights: Weights) -> Reranker:
        """Load the trained weights. Called once for a version, before :meth:`open`, where ``trained`` says
        so.

        Args:
            weights: The version: the folders of its bundle, its ``id``, and the device.

        Returns:
            The re-ranker with them: another object for another version, with the same ``name``, ``listwise``
            and ``is_logit``. Once it is opened its ``id`` holds ``weights.id``.
        """
        raise RerankerError(f"re-ranker {self.name!r} has no with_weights(weights) to load them")

    def open(self, models: ModelSource) -> Reranker:
        """Load what scoring needs. Called once before the first scores.

        Args:
            models: The models of this process.

        Returns:
            The re-ranker that scores: by default this one. It has the same ``name``, ``listwise`` and
            ``is_logit``.
        """
        return self

    @abstractmethod
    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        """Score the candidates of a batch of queries.

        Args:
            queries: Queries with their candidates. A query's scores must not depend on the other queries.

        Returns:
            For each query ``float[candidates]``, finite, higher is better.

        Raises:
            PictureError: An image cannot be opened (``Picture.open`` raises it); the others are then scored
                without it.
        """

    def cache_parts(self, reference: Picture, modification: str, captions: Sequence[str]) -> tuple[str, ...]:
        """What the key of a kept score begins with: who scores, and the query.

        Args:
            reference: The reference image.
            modification: The modification text.
            captions: The data set's raw captions of the query.

        Returns:
            The parts, before those of the candidates.
        """
        return ("reranker", self.id, reference.identity, modification)

    def has_seen(self, picture: Picture) -> bool:
        """Whether :meth:`see` has nothing left to do for an image.

        Args:
            picture: The image.

        Returns:
            True where its features are kept, or none are needed.
        """
        return True

    def see(self, pictures: Sequence[Picture]) -> None:  # noqa: B027 - most have nothing to do here
        """Compute once what every score of some images needs, e.g. vision features.

        Args:
            pictures: The images.

        Raises:
            PictureError: An image cannot be opened.
        """

    def announce(self, pictures: Sequence[Picture]) -> None:  # noqa: B027 - most have nothing to do here
        """Begin, in the background, what :meth:`see` will need next, e.g. reading and decoding.

        Args:
            pictures: The images of one call of :meth:`see` to come. What is wrong with one is said there.
        """


class _Adopted(Reranker):
    """An object with ``name`` and ``score`` (or ``open``) that does not derive from :class:`Reranker`."""

    def __init__(self, adopted: Any) -> None:
        self.adopted = adopted
        self.name, self.id = str(adopted.name), getattr(adopted, "id", "")  # ``opened`` checks the id
        self.label = str(getattr(adopted, "label", ZERO_SHOT))
        self.source = str(getattr(adopted, "source", ""))
        self.listwise = bool(getattr(adopted, "listwise", False))
        self.is_logit = bool(getattr(adopted, "is_logit", False))
        self.trained = getattr(adopted, "trained", None)
        self.pairs_per_batch = int(getattr(adopted, "pairs_per_batch", Reranker.pairs_per_batch))

    def with_weights(self, weights: Weights) -> Reranker:
        return as_reranker(self.adopted.with_weights(weights), _given(self))

    def open(self, models: ModelSource) -> Reranker:
        own = getattr(self.adopted, "open", None)
        if own is None:
            self.id = getattr(self.adopted, "id", "")
            return self
        # Adopted anew even where open() gives the object itself: its id may be known only now.
        return as_reranker(own(models), f"what open() of {self.name!r} gives")

    def score(self, queries: Sequence[JudgedQuery]) -> list[np.ndarray]:
        return self.adopted.score(queries)


def as_reranker(candidate: Any, where: str) -> Reranker:
    """``candidate`` as a re-ranker.

    Args:
        candidate: A re-ranker, a class of one, or any object with ``name`` and ``score`` or ``open``.
        where: Where it was found, for the message.

    Returns:
        The re-ranker.

    Raises:
        RerankerError: It has no usable ``name``, or neither ``score`` nor ``open``, or names a trained
            system and cannot load weights.
    """
    with told_as(RerankerError, f"the re-ranker at {where}"):
        made = candidate() if isinstance(candidate, type) else candidate
    name = getattr(made, "name", None)
    able = callable(getattr(made, "score", None)) or callable(getattr(made, "open", None))
    if not isinstance(name, str) or not able:
        raise RerankerError(f"{where} is not a re-ranker: it needs a name, an id and score(queries)")
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise RerankerError(
            f"{where}: a re-ranker cannot be called {name!r}: use letters, digits, spaces, '.', '-' and '_', "
            f"a letter or digit first, and none of {', '.join(_RESERVED)}"
        )
    _check_trained(made, where)
    return made if isinstance(made, Reranker) else _Adopted(made)


def _check_trained(made: Any, where: str) -> None:
    from setr_lib.reranking.yes_no_judge import AdaptedJudge

    trained = getattr(made, "trained", None)
    if trained is None or type(made) is AdaptedJudge:  # whose model is opened by the version itself
        return
    if not isinstance(trained, str):
        raise RerankerError(
            f"{where}: re-ranker {made.name!r} says trained = {trained!r}: name the trained system"
        )
    load = getattr(type(made), "with_weights", None)
    if not callable(load) or load is Reranker.with_weights:
        raise RerankerError(
            f"{where}: re-ranker {made.name!r} needs the weights of {trained!r}, and has no "
            "with_weights(weights) to load them"
        )


def _given(named: Reranker) -> str:
    return f"what with_weights() of re-ranker {named.name!r} gives"


def with_weights(named: Reranker, weights: Weights) -> Reranker:
    """A trained re-ranker with a version of its weights, not opened yet.

    Args:
        named: A re-ranker with ``trained``.
        weights: The version.

    Returns:
        What its ``with_weights`` gives.

    Raises:
        RerankerError: The weights cannot be loaded, or what is given is not what ``named`` says of itself.
    """
    what = f"re-ranker {named.name!r}"
    found = loaded(what, weights, lambda: named.with_weights(weights), RerankerError)
    ready = as_reranker(found, _given(named))
    check_same(what, named, ready, ("name", "listwise", "is_logit"), RerankerError)
    return ready


def opened(named: Reranker, models: ModelSource) -> Reranker:
    """``named``, ready to score.

    Args:
        named: A re-ranker as settings name it.
        models: The models of this process.

    Returns:
        What its ``open`` gives.

    Raises:
        RerankerError: That has no ``id``, cannot score, or is not what ``named`` says of itself.
    """
    with told_as(RerankerError, f"re-ranker {named.name!r}"):
        found = named.open(models)
    ready = as_reranker(found, f"what open() of re-ranker {named.name!r} gives")
    if isinstance(ready, _Adopted) and not callable(getattr(ready.adopted, "score", None)):
        raise RerankerError(f"re-ranker {named.name!r} cannot score: give it score(queries)")
    if not isinstance(ready.id, str) or not ready.id.strip():
        raise RerankerError(
            f"re-ranker {named.name!r} has no id (it is {ready.id!r}): its scores are kept under a text that "
            "says what they depend on (model, prompt, a version)"
        )
    for attribute in ("name", "listwise", "is_logit"):
        said, is_now = getattr(named, attribute), getattr(ready, attribute)
        if said != is_now:
            raise RerankerError(
                f"re-ranker {named.name!r} says {attribute} = {said!r}, and open() gives one with "
                f"{is_now!r}: say the same in both"
            )
    return ready


def _built_in() -> dict[str, Reranker]:
    from setr_lib.reranking import qwen_reranker, yes_no_judge

    every = (*yes_no_judge.BUILT_IN, *qwen_reranker.BUILT_IN)
    return {reranker.name: reranker for reranker in every}


CATALOGUE: Catalogue[Reranker] = Catalogue(
    "re-ranker", (RERANKER_ENTRY_POINTS,), as_reranker, RerankerError, _built_in
)

Registered = TypeVar("Registered")


def register(reranker: Registered) -> Registered:
    """Make a re-ranker known by its ``name`` in this process; usable as a decorator of a class.

    Args:
        reranker: A re-ranker, or a class of one that is made without arguments.

    Returns:
        ``reranker`` itself. Registering a name again replaces it, so a notebook cell can be run twice.

    Raises:
        RerankerError: It is not a re-ranker.
    """
    made = as_reranker(reranker, getattr(reranker, "__name__", repr(reranker)))
    CATALOGUE.register(made.name, made)
    RERANKERS.add(made.name)
    return reranker


def reranker_names() -> list[str]:
    """Every name that :func:`get_reranker` knows: built in, registered, and installed as entry points."""
    return CATALOGUE.names()


def get_reranker(name: str, settings: Settings | None = None, also: Iterable[str] = ()) -> Reranker:
    """The re-ranker called ``name``, or at ``package.module:NAME``, not opened yet.

    Args:
        name: A name of :func:`reranker_names`, or a path with a colon.
        settings: Those that name it; a module may lie beside their file.
        also: Further names that the message lists where there is no such re-ranker.

    Returns:
        The re-ranker.

    Raises:
        RerankerError: There is no such re-ranker; the message lists the known names. Or it cannot be loaded.
    """
    return CATALOGUE.get(name, settings, also)
