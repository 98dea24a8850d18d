"""Records: what made a result (digests, versions, settings), stored as JSON beside its table, one class per
asset.

The digest of a record (:func:`content_digest`) covers what a result *is*; fields that only say where it lies
(a table's version, a model's URI, a folder) are left out, so that the same result made anew has the same
digest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from setr_lib.errors import SetrError
from setr_lib.hashing import digest_json, digest_strings
from setr_lib.settings import DEFAULT_SPACE

if TYPE_CHECKING:
    import polars as pl


class Record(BaseModel):
    """What made a result. Fields that an earlier version of SETR did not write have a default, or reading one
    fails.
    """

    # Built on first use: importing the code location stays fast.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    ELSEWHERE: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where a result lies, or comment on it; not part of its digest."""

    def stated(self) -> dict[str, Any]:
        """The fields that were given, in plain values: what is stored, and what a report shows."""
        return self.model_dump(mode="json", exclude_unset=True)

    def fingerprint(self) -> str:
        """Digest of the stated fields, those of :attr:`ELSEWHERE` left out."""
        return digest_json(
            {name: value for name, value in self.stated().items() if name not in self.ELSEWHERE}
        )


def content_digest(*parts: Record | pl.DataFrame | str) -> str:
    """Digest of a result: its tables, records and other digests, in this order.

    Args:
        parts: What the result consists of.

    Returns:
        32 hexadecimal digits.
    """
    return digest_strings(_digest(part) for part in parts)


def _digest(part: Record | pl.DataFrame | str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Record):
        return part.fingerprint()
    from setr_lib.tables import digest_table

    return digest_table(part)


class QueriesRecord(Record):
    """Of ``queries``."""

    of: int
    """Queries in the annotation file."""
    kept: int
    """Of these, the first so many are used (``evaluation.limit``)."""
    digest: str


class GalleryRecord(Record):
    """Of ``gallery_images``."""

    coverage: float
    """Share of the images that are there and readable."""


class Vectors(NamedTuple):
    """Where a gallery's vectors are, and what made them."""

    table: str
    version: int
    encoder: str
    preprocessing: str


class SpaceRecord(BaseModel):
    """The vectors of one embedding space."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    table: str
    """LanceDB table of the vectors, and the version of it that holds exactly the result."""
    version: int
    rows: int
    encoder: str
    preprocessing: str
    content: str
    """Digest of the ids and vectors."""


class CaptionVectorsRecord(BaseModel):
    """The vectors of a gallery's captions in one embedding space."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    table: str
    """LanceDB table of the vectors, and the version of it that holds exactly the result."""
    version: int
    rows: int
    """Distinct captions."""
    encoder: str


class EmbeddingsRecord(Record):
    """Of ``gallery_embeddings`` and ``training_embeddings``: vectors, captions, or both.

    The fields ``table`` to ``preprocessing`` are of the space ``clip``; other spaces are in ``spaces``.
    """

    ELSEWHERE = frozenset({"table", "version", "captions_table", "captions_version"})

    table: str | None = None
    """LanceDB table of the vectors, and the version of it that holds exactly the result."""
    version: int | None = None
    rows: int | None = None
    encoder: str | None = None
    preprocessing: str | None = None
    captions_table: str | None = None
    captions_version: int | None = None
    images_with_captions: int | None = None
    images_without_captions: int | None = None
    content: str | None = None
    """Digest of the ids, vectors and captions; earlier versions of SETR did not write it."""
    spaces: dict[str, SpaceRecord] = {}
    """By the name of the space; stated where there is one besides ``clip``."""
    caption_vectors: dict[str, CaptionVectorsRecord] = {}
    """By the name of the space; stated where a method needs the vectors of captions."""

    @property
    def has_vectors(self) -> bool:
        """Whether there are vectors."""
        return self.table is not None or bool(self.spaces)

    @property
    def has_captions(self) -> bool:
        """Whether there are captions."""
        return self.captions_table is not None

    def is_embedded_in(self, space: str) -> bool:
        """Whether there are vectors of an embedding space.

        Args:
            space: The space, by its name in settings.

        Returns:
            True where the gallery was embedded in it.
        """
        return space in self.spaces or (space == DEFAULT_SPACE and self.table is not None)

    def fingerprint(self) -> str:
        """As of other records; where a space's vectors lie is left out, too."""
        stated = {name: value for name, value in self.stated().items() if name not in self.ELSEWHERE}
        for field in ("spaces", "caption_vectors"):
            if field in stated:
                stated[field] = {
                    name: {key: value for key, value in made.items() if key not in self.ELSEWHERE}
                    for name, made in stated[field].items()
                }
        return digest_json(stated)

    def vectors(self, what: str, space: str = DEFAULT_SPACE) -> Vectors:
        """Where the vectors are.

        Args:
            what: Whose vectors, for the message.
            space: The embedding space, by its name.

        Returns:
            Table, version, and what made them.

        Raises:
            SetrError: There are none.
        """
        if not self.has_vectors:
            raise SetrError(f"{what} has captions and no image: it can be ranked by its captions only")
        if space in self.spaces:
            made = self.spaces[space]
            return Vectors(made.table, made.version, made.encoder, made.preprocessing)
        if space != DEFAULT_SPACE or self.table is None or self.version is None or self.encoder is None:
            raise SetrError(f"{what} was not embedded in the space {space!r}")
        return Vectors(self.table, self.version, self.encoder, self.preprocessing or "")


class TextRecord(Record):
    """Of ``reference_captions`` and ``query_compositions``: the models and prompts, several where rows were
    imported.
    """

    model: str
    prompt_hash: str


class WeightsRecord(BaseModel):
    """The registered version whose weights a retrieval method ranks with."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    """The registered model."""
    version: str
    label: str
    """What the version has learned from."""

    @property
    def words(self) -> str:
        """Model, version and label: ``setr-qformer v2 (supervised)``."""
        return f"{self.model} v{self.version}" + (f" ({self.label})" if self.label else "")


class SourceRecord(Record):
    """What the rankings of stage 1 were made from: vectors, captions, or both; fields of what was not read
    are unset.
    """

    ELSEWHERE = frozenset(
        {
            "table",
            "version",
            "captions_table",
            "captions_version",
            "caption_vectors_table",
            "caption_vectors_version",
        }
    )

    table: str | None = None
    version: int | None = None
    space: str | None = None
    """The embedding space that was searched, where it is not ``clip``."""
    space_weights: WeightsRecord | None = None
    """The trained weights of that space, where it has them."""
    encoder: str | None = None
    preprocessing: str | None = None
    captions_table: str | None = None
    captions_version: int | None = None
    images_without_captions: int | None = None
    caption_vectors_table: str | None = None
    caption_vectors_version: int | None = None
    queries_digest: str | None = None
    composition_prompt: str | None = None
    composition_model: str | None = None


class CoarseRecord(SourceRecord):
    """Of one method's table of ``coarse_rankings``."""

    method: str = Field(validation_alias=AliasChoices("method", "strategy"))
    """The retrieval method; earlier versions of SETR called it the strategy."""
    top_k: int | None = None
    dataset_kind: str | None = None
    anchor_share: float | None = None
    """``[coarse] anchor_share``, where it is an option of the method."""
    options: dict[str, Any] | None = None
    """The method's other options."""
    weights: WeightsRecord | None = None
    """The trained weights, of a method that has them."""
    derived_texts: list[str] = []
    """The kinds of generated text that the method brings (``Method.texts``) and of which some were derived
    from other texts, not written by the multimodal LLM.
    """

    @property
    def trained_by(self) -> list[WeightsRecord]:
        """The trained weights of the method and of the space that it searches, each version once."""
        return [*dict.fromkeys(made for made in (self.weights, self.space_weights) if made is not None)]


class RerankedRow(BaseModel):
    """One method's candidates, re-ordered by one re-ranker."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    method: str
    reranker: str
    version: str | None = None
    """The registered version of the re-ranker's weights."""
    registered_model: str | None = None
    """The registered model of that version; earlier versions of SETR did not write it."""
    label: str = ""
    """What the re-ranker has learned from."""
    model: str = ""
    prompt: str | None = None
    """Digest of the prompt, for a re-ranker that has one."""
    fusion: str = ""
    """How its score and stage 1's became one order, and why so."""
    is_logit: bool = True
    """Whether its scores are the log-odds of a Yes."""
    is_listwise: bool = False
    """Whether it scores a query's candidates as one list; stated where it does."""


class RerankedRecord(CoarseRecord):
    """Of ``reranked_rankings``: its rows, and what the default method's candidates were made from."""

    rows: list[RerankedRow]
    """In the order of the settings; one only in the record of one row's table."""
    rerank_top_k: int | None = None
    setr: str | None = None
    """SETR's version."""
    stage_2: str | None = None
    """Why there is no re-ranking, where there is none."""

    @property
    def champion(self) -> str | None:
        """The registered version that a re-ranker used, if any."""
        return next((row.version for row in self.rows if row.version is not None), None)

    def facts(self) -> dict[str, Any]:
        """The stated fields as a flat table for a report; rows of the default method by their re-ranker."""
        facts = self.stated()
        facts.pop("rows", None)
        facts.pop("weights", None)
        facts.pop("space_weights", None)
        if self.trained_by:
            facts[f"{self.method} weights"] = ", ".join(made.words for made in self.trained_by)
        names: list[str] = []
        for row in self.rows:
            name = row.reranker if row.method == self.method else f"{row.method} · {row.reranker}"
            stated = row.model_dump(
                exclude={"method", "reranker", "is_logit", "is_listwise"}, exclude_none=True
            )
            facts |= {f"{name} {fact}": value for fact, value in stated.items() if value}
            names.append(name)
        return {**facts, "re-ranked by": names}


class ReportRecord(RerankedRecord):
    """Of ``evaluation_report``."""

    bootstrap_seed: int | None = None
    weights_of: dict[str, WeightsRecord] = {}
    """The trained weights behind each row, by its title; rows without any are not named."""
    space_weights_of: dict[str, WeightsRecord] = {}
    """Those of the embedding space that it searches, where they are others."""

    def facts(self) -> dict[str, Any]:
        """As of other records; trained weights by the row that they made."""
        facts = super().facts()
        facts.pop("weights_of", None)
        facts.pop("space_weights_of", None)
        return {**facts, **{f"{title} weights": self.words_of(title) for title in self.weights_of}}

    def trained(self, title: str) -> list[WeightsRecord]:
        """The trained weights behind a row.

        Args:
            title: The row's title.

        Returns:
            Those of the method, and then of the space that it searches; none for a row without any.
        """
        return [made[title] for made in (self.weights_of, self.space_weights_of) if title in made]

    def words_of(self, title: str) -> str:
        """The trained weights behind a row: ``setr-qformer v2 (supervised)``.

        Args:
            title: The row's title.
        """
        return ", ".join(made.words for made in self.trained(title))


class PairsRecord(Record):
    """Of ``reranker_pairs``."""

    ELSEWHERE = frozenset({"table", "version"})

    digest: str
    seed: int
    writer: str
    table: str
    version: int
    rows: int | None = None
    encoder: str
    preprocessing: str | None = None


class TripletsRecord(Record):
    """Of ``training_triplets``: the triplets of one source."""

    source: str
    """``synthesised``, or the data set whose train split they are."""
    digest: str
    dropped: int = 0
    """Triplets that are left out: those that joined a training image and a held-out one, or had an image that
    cannot be read, or a copy of a held-out one in training."""


class TrainedRecord(Record):
    """Of the training of a trained system, e.g. ``reranker_adapter``."""

    ELSEWHERE = frozenset({"model_uri", "checkpoints"})

    run: str
    """Digest of all that determines the training."""
    model_uri: str
    checkpoints: str
    """The training's folder."""
    label: str
    """What a score of this system must say of its training."""


class RegisteredRecord(TrainedRecord):
    """Of the registration of a trained system, e.g. ``registered_reranker``."""

    version: str


class PromotedRecord(Record):
    """Of the promotion of a trained system, e.g. ``promoted_reranker``."""

    ELSEWHERE = frozenset({"reason"})

    champion: str
    reason: str
