"""A registered retrieval system as it serves: a data frame of queries in, their vectors out.

``pyfunc_system.py`` is what MLflow stores and runs; it only calls this. Nothing here knows MLflow.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setr_lib.registry.errors import RegistryError
from setr_lib.registry.system_bundle import ENCODER, SYSTEM, SystemBundle

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from setr_lib.systems.models.system_model import SystemModel

COLUMNS = ("reference", "modification")
_CONFIG_KEYS = ("encoder", "device")
_CLOSE = 1e-3
"""How far a component of a unit vector may be from that of training: other hardware rounds otherwise."""


class QueryScorer:
    """A trained retrieval system loaded from its bundle, which encodes data frames of queries. Build it with
    :meth:`load`.

    Args:
        bundle: The bundle.
        model: The system on top of its encoder.
    """

    def __init__(self, bundle: SystemBundle, model: SystemModel) -> None:
        self.bundle, self.model = bundle, model

    @classmethod
    def load(cls, artifacts: Mapping[str, str], config: Mapping[str, Any] | None = None) -> QueryScorer:
        """Load a system from its bundle.

        Args:
            artifacts: The bundle's folders by artifact name.
            config: MLflow's ``model_config``: ``encoder``, ``device``.

        Returns:
            The system.

        Raises:
            RegistryError: A key is unknown, or the encoder is not found, or is another one.
        """
        config = dict(config or {})
        if unknown := set(config) - set(_CONFIG_KEYS):
            raise RegistryError(
                f"model_config: {sorted(unknown)} unknown; the keys are {', '.join(_CONFIG_KEYS)}"
            )
        bundle = SystemBundle(Path(artifacts[SYSTEM]), Path(artifacts[ENCODER]))
        return cls(bundle, bundle.load(config.get("encoder"), config.get("device", "auto")))

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Encode queries.

        Args:
            frame: Columns ``reference``, an image's bytes, and ``modification``.

        Returns:
            ``vector`` of each row (norm 1, in the space of the gallery's vectors), with the frame's index.

        Raises:
            RegistryError: A column is missing, a modification is no text or an image cannot be read; the
                message names the row.
        """
        import pandas as pd

        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise RegistryError(f"columns {missing} are missing: a row has {', '.join(COLUMNS)}")
        pictures = [_opened(value, row) for row, value in zip(frame.index, frame["reference"], strict=True)]
        texts = [_text(value, row) for row, value in zip(frame.index, frame["modification"], strict=True)]
        vectors = self.encode(pictures, texts)
        return pd.DataFrame({"vector": [row.tolist() for row in vectors]}, index=frame.index)

    def encode(self, pictures: Sequence[Any], texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries, in batches of the encoder's size.

        Args:
            pictures: RGB pictures.
            texts: A modification text for each.

        Returns:
            float32 [queries, d], norm 1.
        """
        return self._batched(
            pictures,
            lambda block, start: self.model.encode_queries(block, texts[start : start + len(block)]),
        )

    def encode_images(self, pictures: Sequence[Any]) -> NDArray[np.float32]:
        """Encode gallery images, in batches of the encoder's size.

        Args:
            pictures: RGB pictures.

        Returns:
            float32 [images, d], norm 1.
        """
        return self._batched(pictures, lambda block, start: self.model.encode_images(block))

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
        if list(answer.columns) != ["vector"] or len(answer) != examples.height:
            return [f"predict gave columns {list(answer.columns)} and {len(answer)} rows"], []
        queries = np.array(answer["vector"].to_list(), dtype=np.float32)
        images = self.encode_images([_opened(value, row) for row, value in enumerate(examples["reference"])])
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

    def _batched(self, pictures: Sequence[Any], encode: Callable[[Any, int], Any]) -> NDArray[np.float32]:
        import torch

        from setr_lib.systems.features import features_of

        encoder, rows = self.model.encoder, []
        with torch.inference_mode():
            for start in range(0, len(pictures), encoder.batch_size):
                block = [encoder.preprocess(image) for image in pictures[start : start + encoder.batch_size]]
                rows.append(encode(features_of(encoder, block, self.model.reads), start).float().cpu())
        return torch.cat(rows).numpy() if rows else np.zeros((0, self.model.dimension), dtype=np.float32)


def _text(value: object, row: object) -> str:
    if not isinstance(value, str):
        raise RegistryError(
            f"column 'modification', row {row}: a text expected, not {type(value).__name__}; an empty one "
            "leaves the reference alone"
        )
    return value


def _opened(value: object, row: object) -> Any:
    from PIL import Image

    if not isinstance(value, bytes | bytearray | memoryview):
        raise RegistryError(
            f"column 'reference', row {row}: image bytes expected, not {type(value).__name__}"
        )
    try:
        with Image.open(io.BytesIO(bytes(value))) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise RegistryError(f"column 'reference', row {row}: not a readable picture") from error
