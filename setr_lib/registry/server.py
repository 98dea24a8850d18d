"""MLflow's server, where the store is one: whether it answers, and its address without anyone's password."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import urlsplit, urlunsplit

from setr_lib.registry.errors import RegistryError

_HEALTH, _PATIENCE = "/health", 5.0
"""What any server of MLflow answers, and the seconds for it."""
_DEFAULT_EXPERIMENT, _PATIENCE_OF_STORE = "/api/2.0/mlflow/experiments/get?experiment_id=0", 30.0
"""What it answers from its store (404, if that experiment was removed), and the seconds for it."""


def address_of(tracking_uri: str) -> str | None:
    """The address of a server, without user and password.

    Args:
        tracking_uri: MLflow's store.

    Returns:
        The address; None for a store that is no server.
    """
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return None
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def check_answers(tracking_uri: str) -> None:
    """Ask a server briefly: MLflow itself would try for minutes.

    Two questions: whether it is there, and whether it reaches its own store (a server without its database,
    or a proxy without its server, answers the first all the same).

    Args:
        tracking_uri: The store; one that is no server is not asked.

    Raises:
        RegistryError: It does not answer, or answers that it is out of order.
    """
    address = address_of(tracking_uri)
    if address is None:
        return
    for question, patience in ((_HEALTH, _PATIENCE), (_DEFAULT_EXPERIMENT, _PATIENCE_OF_STORE)):
        _ask(address, question, patience)


def _ask(address: str, question: str, patience: float) -> None:
    try:
        with urllib.request.urlopen(f"{address}{question}", timeout=patience):  # noqa: S310 - http or https
            return
    except urllib.error.HTTPError as error:
        if error.code < 500:  # it is there, whatever it wants
            return
        told = f"status {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # whom to trust is MLflow's own affair
            return
        told = str(reason)
    raise RegistryError(
        f"MLflow's server {address} does not answer ({told}): start it, or name another store in "
        "[registry] tracking_uri"
    )
