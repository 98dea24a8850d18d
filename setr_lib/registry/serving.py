"""The registered re-ranker as it serves: a data frame of pairs in, a score, P(Yes) and error per row out.

``pyfunc_reranker.py`` is what MLflow stores and runs; it only calls this. Nothing here knows MLflow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import Picture
from setr_lib.registry.bundle import ADAPTER, JUDGE, Bundle, score_examples
from setr_lib.registry.errors import RegistryError
from setr_lib.registry.image_roots import ImageRoots
from setr_lib.registry.request_cells import (
    ERROR,
    LIMITS,
    CellError,
    RequestCells,
    RequestLimits,
    check_request,
    config_of,
    row_error,
)
from setr_lib.reranking.fusion import probability_of_yes
from setr_lib.reranking.held_out import judge_pair_frame
from setr_lib.reranking.scorer import ScoreError
from setr_lib.reranking.training import library_versions
from setr_lib.reranking.yes_no_judge import YesNoJudge

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = ("reference", "modification", "candidate")
ANSWER = ("score", "p_yes", ERROR)
"""The columns of an answer."""
CONFIG_KEYS = ("base_model", "device", "image_roots", *LIMITS)
"""The keys of MLflow's ``model_config``."""
_PAIR = ("modification", "reference_id", "candidate_id")
_CLOSE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}


class PairScorer:
    """A re-ranker loaded from its bundle, which scores data frames of pairs. Build it with :meth:`load`.

    Several threads may call :meth:`predict` at once, as MLflow's server does: they are scored one request
    after the other.

    Args:
        bundle: The bundle.
        judge: The base model with the adapter and its prompt.
        cells: Reads the cells of requests.
    """

    def __init__(self, bundle: Bundle, judge: YesNoJudge, cells: RequestCells) -> None:
        self.bundle, self.judge, self.cells = bundle, judge, cells
        self._turn = threading.Lock()

    @classmethod
    def load(cls, artifacts: Mapping[str, str], config: Mapping[str, Any] | None = None) -> PairScorer:
        """Load a re-ranker from its bundle.

        With other major versions of transformers, PEFT or torch than those of training, the stored examples
        must score as they did.

        Args:
            artifacts: The bundle's folders by artifact name.
            config: MLflow's ``model_config``: ``base_model``, ``device``, ``image_roots``, and the limits of
                requests (:class:`RequestLimits`).

        Returns:
            The re-ranker.

        Raises:
            RegistryError: A key is unknown, the base model is not found, or the examples score otherwise.
            JudgeError: The base model cannot be loaded.
            PromptError: The stored prompt is malformed.
        """
        config = config_of(config, CONFIG_KEYS)
        limits, roots = RequestLimits.read(config), ImageRoots.read(config.get("image_roots"))
        bundle = Bundle(Path(artifacts[ADAPTER]), Path(artifacts[JUDGE]))
        cells = RequestCells(limits, roots, bundle.record.get("pixels", ""))
        judge = bundle.load_judge(config.get("base_model"), config.get("device", "auto"))
        scorer = cls(bundle, judge, cells)
        stored = bundle.record["versions"]
        now = library_versions()
        changed = [
            f"{name} {stored[name]} -> {now[name]}"
            for name in stored
            if _major(stored[name]) != _major(now[name])
        ]
        if changed and (problems := scorer.check_examples()):
            raise RegistryError(
                f"this adapter was trained with other libraries ({', '.join(changed)}) and does not come "
                f"back as it was: {problems[0]}; install those versions, or train it anew"
            )
        return scorer

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score pairs.

        Args:
            frame: Columns ``reference`` and ``candidate``, image bytes (or their base64, or paths under the
                image roots); ``modification``.

        Returns:
            ``score`` (logit(Yes) - logit(No)), ``p_yes`` and ``error`` for each row, with the index of
            ``frame``. A row of which a cell cannot be used has no scores (NaN), and an ``error`` that says
            which and why; it is null in all others, whose scores are those that they have alone.

        Raises:
            RegistryError: A column is missing, or there are too many rows.
        """
        import pandas as pd

        check_request(frame, COLUMNS, self.cells.limits)
        read = _ReadPairs(self.cells, frame)
        scores = np.full(len(frame), np.nan, dtype=np.float32)
        if rows := read.usable:
            with self._turn:
                scores[rows] = self._scored(read, rows)
        made = {
            "score": scores.astype(np.float64),
            "p_yes": probability_of_yes(scores),
            ERROR: pd.Series(read.errors, dtype=object),
        }
        return pd.DataFrame(made).set_axis(frame.index)  # whose labels may be there twice

    def _scored(self, read: _ReadPairs, rows: Sequence[int]) -> NDArray[np.float32]:
        """The scores of usable rows; those that the model refuses get their error."""
        pairs, scores = read.pairs(rows), np.full(len(rows), np.nan, dtype=np.float32)
        try:
            scores = judge_pair_frame(self.judge, pairs, read.pictures)
        except ScoreError:  # of one pair: the others are to be scored
            for place in range(pairs.height):
                with suppress(ScoreError):
                    scores[place] = judge_pair_frame(self.judge, pairs[place], read.pictures)[0]
        for place in np.flatnonzero(np.isnan(scores)).tolist():
            read.errors[rows[place]] = self._why_not(pairs.row(place, named=True), read.pictures)
        return scores

    def _why_not(self, row: Mapping[str, str], pictures: Mapping[str, Picture]) -> str:
        """Why a readable pair has no score."""
        for column in ("reference", "candidate"):
            picture = pictures[row[f"{column}_id"]]
            if refused := self.judge.vision.precompute([picture]):
                return row_error(column, next(iter(refused.values())).partition(": ")[2])
        return row_error("modification", "the model has no score for this text and these pictures")

    def check_examples(self) -> list[str]:
        """What is wrong with this process's scores of the stored examples; empty if nothing is.

        They must match those of the training process, and must not be those of the base without the adapter.
        """
        examples = self.bundle.examples
        try:
            scores = score_examples(self.judge, examples).astype(np.float64)
        except ScoreError:
            return ["the adapted judge's scores are not finite"]
        expected, base = examples["adapted_score"].to_numpy(), examples["base_score"].to_numpy()
        close = _CLOSE[self.bundle.reference.dtype] * max(1.0, float(np.abs(expected).max()) / 10)
        problems: list[str] = []
        if not (gap := float(np.abs(scores - expected).max())) <= close:  # NaN: one cannot be scored any more
            problems.append(f"scores differ from those of training by up to {gap:.4g} (allowed: {close:.4g})")
        if float(np.abs(expected - base).max()) <= close:
            problems.append(
                "the adapter changes no score of the base judge: nothing was learned, or nothing loaded"
            )
        return problems

    def round_trip(self, predict: Callable[[pd.DataFrame], Any]) -> tuple[list[str], list[float]]:
        """Whether this process scores the stored examples as the training process did, through ``predict``,
        too.

        Args:
            predict: The loaded MLflow model's.

        Returns:
            What is wrong, in sentences; and the examples' scores.
        """
        import pandas as pd

        problems, examples = self.check_examples(), self.bundle.examples
        answer = predict(pd.DataFrame({name: examples[name].to_list() for name in COLUMNS}))
        if list(answer.columns) != list(ANSWER) or len(answer) != examples.height:
            return [*problems, f"predict gave columns {list(answer.columns)} and {len(answer)} rows"], []
        if errors := [error for error in answer[ERROR] if isinstance(error, str)]:
            problems.append(f"{len(errors)} of the stored examples cannot be scored, the first: {errors[0]}")
            return problems, []
        return problems, [float(score) for score in answer["score"]]


class _ReadPairs:
    """The rows of a request: what can be used, and what is wrong with the others.

    Attributes:
        errors: The error of each row, or None.
        pictures: The usable pictures by fingerprint.
    """

    def __init__(self, cells: RequestCells, frame: pd.DataFrame) -> None:
        self.errors: list[str | None] = [None] * len(frame)
        self.pictures: dict[str, Picture] = {}
        self._rows: list[tuple[str, ...]] = []
        self._cells, self._faults = cells, dict[str, str]()
        reads: dict[str, Callable[[Any], str]] = {
            "modification": cells.text,
            "reference": self._picture,
            "candidate": self._picture,
        }
        for row, found in enumerate(zip(*(frame[column] for column in reads), strict=True)):
            made: list[str] = []
            for (column, read), value in zip(reads.items(), found, strict=True):
                try:
                    made.append(read(value))
                except CellError as error:
                    self.errors[row] = row_error(column, error)
                    break
            self._rows.append(tuple(made))

    @property
    def usable(self) -> list[int]:
        """The rows without an error."""
        return [row for row, error in enumerate(self.errors) if error is None]

    def pairs(self, rows: Sequence[int]) -> pl.DataFrame:
        """``reference_id``, ``modification`` and ``candidate_id`` of some rows."""
        schema = pl.Schema(dict.fromkeys(_PAIR, pl.String()))
        return pl.DataFrame([self._rows[row] for row in rows], schema=schema, orient="row")

    def _picture(self, value: object) -> str:
        """The fingerprint of a picture, which is decoded once: the model may take it for whole."""
        content = self._cells.content(value)
        key = fingerprint_bytes(content)
        if key in self._faults:
            raise CellError(self._faults[key])
        if key not in self.pictures:
            try:
                self._cells.picture(content)
            except CellError as error:
                self._faults[key] = str(error)
                raise
            self.pictures[key] = Picture(key, content, self._cells.pixels)
        return key


def _major(number: str) -> str:
    return number.partition(".")[0]
