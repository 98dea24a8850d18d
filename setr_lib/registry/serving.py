"""The registered re-ranker as it serves: a data frame of pairs in, a score and P(Yes) per row out.

``pyfunc_reranker.py`` is what MLflow stores and runs; it only calls this. Nothing here knows MLflow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from setr_lib.hashing import fingerprint_bytes
from setr_lib.models.multimodal import Picture
from setr_lib.registry.bundle import ADAPTER, JUDGE, Bundle, score_examples
from setr_lib.registry.errors import RegistryError
from setr_lib.reranking.fusion import probability_of_yes
from setr_lib.reranking.held_out import judge_pair_frame
from setr_lib.reranking.scorer import ScoreError
from setr_lib.reranking.training import library_versions
from setr_lib.reranking.yes_no_judge import YesNoJudge

if TYPE_CHECKING:
    import pandas as pd

ROOTS_VARIABLE = "SETR_IMAGE_ROOTS"
"""Folders (separated as in PATH) whose files may be named in place of image bytes; none by default."""
COLUMNS = ("reference", "modification", "candidate")
_CONFIG_KEYS = ("base_model", "device", "image_roots")
_CLOSE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}


class PairScorer:
    """A re-ranker loaded from its bundle, which scores data frames of pairs. Build it with :meth:`load`."""

    def __init__(self, bundle: Bundle, judge: YesNoJudge, image_roots: list[Path]) -> None:
        self.bundle, self.judge, self.image_roots = bundle, judge, image_roots

    @classmethod
    def load(cls, artifacts: Mapping[str, str], config: Mapping[str, Any] | None = None) -> PairScorer:
        """Load a re-ranker from its bundle.

        With other major versions of transformers, PEFT or torch than those of training, the stored examples
        must score as they did.

        Args:
            artifacts: The bundle's folders by artifact name.
            config: MLflow's ``model_config``: ``base_model``, ``device``, ``image_roots``.

        Returns:
            The re-ranker.

        Raises:
            RegistryError: A key is unknown, the base model is not found, or the examples score otherwise.
            JudgeError: The base model cannot be loaded.
            PromptError: The stored prompt is malformed.
        """
        config = dict(config or {})
        if unknown := set(config) - set(_CONFIG_KEYS):
            raise RegistryError(
                f"model_config: {sorted(unknown)} unknown; the keys are {', '.join(_CONFIG_KEYS)}"
            )
        bundle = Bundle(Path(artifacts[ADAPTER]), Path(artifacts[JUDGE]))
        judge = bundle.load_judge(config.get("base_model"), config.get("device", "auto"))
        scorer = cls(bundle, judge, _roots(config.get("image_roots")))
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
            frame: Columns ``reference`` and ``candidate``, image bytes or paths under the image roots;
                ``modification``.

        Returns:
            ``score`` (logit(Yes) - logit(No)) and ``p_yes`` for each row, with the index of ``frame``.

        Raises:
            RegistryError: A column is missing or an image cannot be read; the message names the column and
                row.
        """
        import pandas as pd

        missing = [name for name in COLUMNS if name not in frame.columns]
        if missing:
            raise RegistryError(f"columns {missing} are missing: a row has {', '.join(COLUMNS)}")
        pictures: dict[str, Picture] = {}
        keys: dict[str, list[str]] = {}
        for column in ("reference", "candidate"):
            found = [
                self._picture(value, column, row)
                for row, value in zip(frame.index, frame[column], strict=True)
            ]
            pictures |= {picture.fingerprint: picture for picture in found}
            keys[f"{column}_id"] = [picture.fingerprint for picture in found]
        texts = [str(text) for text in frame["modification"]]
        pairs = pl.DataFrame({**keys, "modification": texts}, schema_overrides={"modification": pl.String()})
        scores = judge_pair_frame(self.judge, pairs, pictures) if len(frame) else np.zeros(0, np.float32)
        return pd.DataFrame(
            {"score": scores.astype(np.float64), "p_yes": probability_of_yes(scores)}, index=frame.index
        )

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
        if (gap := float(np.abs(scores - expected).max())) > close:
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
        if list(answer.columns) != ["score", "p_yes"] or len(answer) != examples.height:
            problems.append(f"predict gave columns {list(answer.columns)} and {len(answer)} rows")
        return problems, [float(score) for score in answer["score"]]

    def _picture(self, value: object, column: str, row: object) -> Picture:
        if isinstance(value, bytes | bytearray | memoryview):
            content = bytes(value)
            return Picture(fingerprint_bytes(content), content)
        if isinstance(value, str | Path):
            return self._file(Path(value), column, row)
        raise RegistryError(
            f"column {column!r}, row {row}: image bytes (or a path) expected, not {type(value).__name__}"
        )

    def _file(self, path: Path, column: str, row: object) -> Picture:
        """A picture named by path: only below one of the image roots, links resolved."""
        for root in self.image_roots:
            file = (root / path).resolve()
            if file.is_relative_to(root) and file.is_file():
                content = file.read_bytes()
                return Picture(fingerprint_bytes(content), content)
        allowed = ", ".join(map(str, self.image_roots)) or "none"
        raise RegistryError(
            f"column {column!r}, row {row}: {path} is no file under the allowed image roots ({allowed}); "
            f"send the image's bytes, or allow its folder with {ROOTS_VARIABLE} or "
            f"model_config={{'image_roots': [FOLDER]}}"
        )


def _roots(configured: object) -> list[Path]:
    if configured is None:
        names = [name for name in os.environ.get(ROOTS_VARIABLE, "").split(os.pathsep) if name]
    elif isinstance(configured, str):
        names = [configured]
    elif isinstance(configured, list | tuple):
        names = [str(name) for name in configured]
    else:
        raise RegistryError(f"model_config image_roots: a folder or a list of folders, not {configured!r}")
    return [Path(name).resolve() for name in names]


def _major(number: str) -> str:
    return number.partition(".")[0]
