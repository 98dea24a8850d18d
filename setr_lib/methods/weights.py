"""How a retrieval method is opened with trained weights."""

from __future__ import annotations

from setr_lib.methods.inputs import MethodError
from setr_lib.methods.method import Method, as_method
from setr_lib.weights import Weights, check_same, loaded


def opened(method: Method, weights: Weights) -> Method:
    """A trained method, ready to score.

    Args:
        method: A method with ``trained``.
        weights: The version to rank with.

    Returns:
        What its ``with_weights`` gives.

    Raises:
        MethodError: The weights cannot be loaded, or what is given is not what ``method`` says of itself.
    """
    what = f"retrieval method {method.name!r}"
    found = loaded(what, weights, lambda: method.with_weights(weights), MethodError)
    ready = as_method(found, f"what with_weights() of {what} gives")
    same = ("name", "space", "needs", "texts", "is_cosine", "option_keys")
    check_same(what, method, ready, same, MethodError)
    return ready
