"""A retrieval method is opened with a version of its trained system before it scores."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from setr_lib.methods.inputs import MethodError, MethodInputs
from setr_lib.methods.method import Method, as_method
from setr_lib.methods.weights import opened
from setr_lib.weights import Weights


def weights(folder: Path, version: str = "3") -> Weights:
    return Weights("setr-line", version, "fitted", {"line": folder}, "cpu", None)


class Plain:
    """A trained method that does not derive from ``Method``."""

    name, trained = "plain", "line"
    is_cosine = False
    slope = 0.0

    def with_weights(self, weights: Weights) -> Plain:
        found = Plain()
        found.slope = float((weights.folders["line"] / "slope").read_text())
        return found

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return np.full((1, 1), self.slope, dtype=np.float32)


class Own(Method):
    """The same as a subclass; it keeps the weights itself."""

    name, trained = "own", "line"
    kept: ClassVar[list[str]] = []

    def with_weights(self, weights: Weights) -> Method:
        self.kept.append(weights.version)
        return self

    def scores(self, inputs: MethodInputs) -> np.ndarray:
        return np.zeros((1, 1), dtype=np.float32)


def test_a_method_is_opened_with_the_folders_of_a_version(tmp_path: Path) -> None:
    (tmp_path / "slope").write_text("2.5")
    named = as_method(Plain, "here")
    assert (named.trained, as_method(Own, "here").trained) == ("line", "line")
    ready = opened(named, weights(tmp_path))
    assert ready.scores(None) == np.float32(2.5)  # pyright: ignore[reportArgumentType] - it reads none
    assert (ready.name, ready.is_cosine) == ("plain", False)
    assert named.scores(None) == 0, "the method that settings name is as it was"  # pyright: ignore[reportArgumentType]
    own = as_method(Own, "here")
    assert opened(own, weights(tmp_path, "4")) is own and Own.kept == ["4"]


def test_a_trained_method_that_cannot_load_weights_is_refused(tmp_path: Path) -> None:
    class Forgot(Method):
        name, trained = "forgot", "line"

        def scores(self, inputs: MethodInputs) -> np.ndarray:
            return np.zeros((1, 1), dtype=np.float32)

    class PlainForgot:
        name, trained = "plain", "line"

        def scores(self, inputs: MethodInputs) -> np.ndarray:
            return np.zeros((1, 1), dtype=np.float32)

    for kind in (Forgot, PlainForgot):
        with pytest.raises(MethodError, match=r"needs the weights of 'line', and has no with_weights"):
            as_method(kind, "here")
    with pytest.raises(
        MethodError, match=r"'plain' cannot load version 3 of setr-line: FileNotFoundError.*slope"
    ):
        opened(as_method(Plain, "here"), weights(tmp_path / "nowhere"))


def test_an_opened_method_is_what_it_said_before(tmp_path: Path) -> None:
    class Elsewhere(Own):
        def with_weights(self, weights: Weights) -> Method:
            made = Own()
            made.space = "other"
            return made

    with pytest.raises(
        MethodError, match=r"says space = 'clip', and with_weights\(\) gives one with 'other'"
    ):
        opened(as_method(Elsewhere, "here"), weights(tmp_path))
    with pytest.raises(MethodError, match=r"what with_weights\(\) of retrieval method 'own' gives is not"):
        opened(
            as_method(type("Nothing", (Own,), {"with_weights": lambda self, weights: None}), "here"),
            weights(tmp_path),
        )
