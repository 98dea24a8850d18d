"""A registered retrieval system as it serves: a data frame of queries in, their vectors and errors out.

``pyfunc_system.py`` is what MLflow stores and runs; it only calls this. Nothing here knows MLflow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.models.refusals import CONTROL_TEXT, control_image, refusing, run_without_refused
from setr_lib.pixels import UnreadableImageError
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
from setr_lib.registry.system_bundle import ENCODER, SYSTEM, SystemBundle
from setr_lib.systems.bundle import read_system

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from setr_lib.systems.models.system_model import SystemModel

COLUMNS = ("reference", "modification")
ANSWER = ("vector", ERROR)
"""The columns of an answer."""
CONFIG_KEYS = ("encoder", "device", *LIMITS)
"""The keys of MLflow's ``model_config``."""
_CLOSE = 1e-3
"""How far a component of a unit vector may be from that of training: other hardware rounds otherwise."""


class QueryScorer:
    """A trained retrieval system loaded from its bundle, which encodes data frames of queries. Build it with
    :meth:`load`.

    Several threads may call :meth:`predict` at once, as MLflow's server does: their queries are encoded one
    request after the other, because a system changes its encoder's modules while it computes.

    Args:
        bundle: The bundle.
        model: The system on top of its encoder.
        cells: Reads the cells of requests.
    """

    def __init__(self, bundle: SystemBundle, model: SystemModel, cells: RequestCells | None = None) -> None:
        self.bundle, self.model = bundle, model
        self.cells = cells or RequestCells(RequestLimits())
        self._turn = threading.Lock()

    @classmethod
    def load(cls, artifacts: Mapping[str, str], config: Mapping[str, Any] | None = None) -> QueryScorer:
        """Load a system from its bundle.

        Args:
            artifacts: The bundle's folders by artifact name.
            config: MLflow's ``model_config``: ``encoder``, ``device``, and the limits of requests
                (:class:`RequestLimits`).

        Returns:
            The system.

        Raises:
            RegistryError: A key is unknown, or the encoder is not found, or is another one.
        """
        config = config_of(config, CONFIG_KEYS)
        limits = RequestLimits.read(config)
        bundle = SystemBundle(Path(artifacts[SYSTEM]), Path(artifacts[ENCODER]))
        model = bundle.load(config.get("encoder"), config.get("device", "auto"))
        return cls(bundle, model, RequestCells(limits, pixels=read_system(bundle.system).record.pixels))

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Encode queries.

        Args:
            frame: Columns ``reference``, an image's bytes (or their base64), and ``modification``, which may
                be empty.

        Returns:
            ``vector`` of each row (norm 1, in the space of the gallery's vectors) and ``error``, with the
            frame's index. A row of which a cell cannot be used has no vector (None), and an ``error`` that
            says which and why; it is null in all others, whose vectors are those that they have alone.

        Raises:
            RegistryError: A column is missing, or there are too many rows.
        """
        import pandas as pd

        check_request(frame, COLUMNS, self.cells.limits)
        vectors: list[list[float] | None] = [None] * len(frame)
        errors: list[str | None] = [None] * len(frame)
        for block in self._blocks(frame, errors):
            with self._turn:
                self._encode_block(block, vectors, errors)
        made = {"vector": vectors, ERROR: errors}
        answer = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in made.items()})
        return answer.set_axis(frame.index)  # whose labels may be there twice

    def _blocks(self, frame: pd.DataFrame, errors: list[str | None]) -> Iterator[list[_Query]]:
        """The rows that can be used, in batches of the encoder's size; the others get their error."""
        block: list[_Query] = []
        for row, (reference, text) in enumerate(zip(*(frame[name] for name in COLUMNS), strict=True)):
            column = "modification"
            try:
                text = self.cells.text(text, may_be_empty=True)
                column = "reference"
                block.append(_Query(row, self._prepared(reference), text))
            except (CellError, UnreadableImageError) as error:
                errors[row] = row_error(column, error)
            if len(block) == self.model.encoder.batch_size:
                yield block
                block = []
        if block:
            yield block

    def _prepared(self, reference: object) -> Any:
        image = self.cells.picture(self.cells.content(reference))
        return refusing(self.model.encoder.preprocess, image, "the encoder")

    def _encode_block(
        self, block: Sequence[_Query], vectors: list[list[float] | None], errors: list[str | None]
    ) -> None:
        ran = run_without_refused(
            block,
            self._query_vectors,
            lambda: _Query(0, self.model.encoder.preprocess(control_image()), CONTROL_TEXT),
        )
        for place, vector in ran.results.items():
            vectors[block[place].row] = vector
        for place, reason in ran.refused.items():
            errors[block[place].row] = row_error(
                "reference or modification", f"the model refuses it ({reason})"
            )

    def _query_vectors(self, block: Sequence[_Query]) -> list[list[float]]:
        import torch

        from setr_lib.systems.features import features_of

        texts = [query.text for query in block]
        with torch.inference_mode():
            features = features_of(self.model.encoder, [query.prepared for query in block], self.model.reads)
            return self.model.encode_queries(features, texts).float().cpu().tolist()

    def encode_images(self, pictures: Sequence[Any]) -> NDArray[np.float32]:
        """Encode gallery images, in batches of the encoder's size.

        Args:
            pictures: RGB pictures.

        Returns:
            float32 [images, d], norm 1.
        """
        import torch

        from setr_lib.systems.features import features_of

        encoder, rows = self.model.encoder, []
        with torch.inference_mode():
            for start in range(0, len(pictures), encoder.batch_size):
                block = [encoder.preprocess(image) for image in pictures[start : start + encoder.batch_size]]
                features = features_of(encoder, block, self.model.reads)
                rows.append(self.model.encode_images(features).float().cpu())
        return torch.cat(rows).numpy() if rows else np.zeros((0, self.model.dimension), dtype=np.float32)

    def round_trip(self, predict: Callable[[pd.DataFrame], Any]) -> tuple[list[str], list[float]]:
        """Whether this process gives the vectors that the training process gave, through ``predict``, too.

        Args:
            predict: The loaded MLflow model's.

        Returns:
            What is wrong, in sentences; and the cosine of each example's vector with that of training.
        """
        import pandas as pd

        examples, problems = self.bundle.examples, []
        answer = predict(pd.DataFrame({name: examples[name].to_list() for name in COLUMNS}))
        if list(answer.columns) != list(ANSWER) or len(answer) != examples.height:
            return [f"predict gave columns {list(answer.columns)} and {len(answer)} rows"], []
        if errors := [error for error in answer[ERROR] if isinstance(error, str)]:
            return [f"{len(errors)} of the stored queries cannot be encoded, the first: {errors[0]}"], []
        queries = np.array(answer["vector"].to_list(), dtype=np.float32)
        images = self.encode_images([self.cells.picture(content) for content in examples["reference"]])
        expected = np.array(examples["query_vector"].to_list(), dtype=np.float32)
        for what, found, wanted in (
            ("query", queries, expected),
            ("image", images, np.array(examples["image_vector"].to_list(), dtype=np.float32)),
        ):
            if found.shape != wanted.shape:
                return [f"{what} vectors are {found.shape}, those of training {wanted.shape}"], []
            gap = float(np.abs(found - wanted).max())
            if not gap <= _CLOSE:
                problems.append(
                    f"{what} vectors differ from those of training by up to {gap:.4g} (allowed: {_CLOSE:g})"
                )
        return problems, [float(cosine) for cosine in (queries * expected).sum(axis=1)]


@dataclass(frozen=True)
class _Query:
    """A row that can be used: its number, the picture as the encoder's preprocessing gives it, the text."""

    row: int
    prepared: Any
    text: str
