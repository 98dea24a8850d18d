"""How an asset is declared here: a plain function plus what Dagster should know of it.

The partitions come from the settings, which are only known when ``build_definitions(settings)`` runs; a ``Blueprint``
therefore keeps the function and its declaration apart until then. Everything that all assets share is said once, here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from setr_assets.progress import step
from setr_lib.errors import SetrError

OWNERS = ["team:retrieval"]


@dataclass(frozen=True)
class Blueprint:
    """An asset that waits for its partitions."""

    function: Callable[..., Any]
    partitioned: bool
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, partitions: dg.PartitionsDefinition, place: int) -> dg.AssetsDefinition:
        """The Dagster asset; several partitions of it run as one run, in one process.

        ``place`` is the asset's place in the order of the data: of the steps that could run, the first in it does.
        """
        options = {**self.options, "op_tags": {"dagster/priority": str(-place)}}
        if self.partitioned:
            options |= {"partitions_def": partitions, "backfill_policy": dg.BackfillPolicy.single_run()}
        return dg.asset(owners=OWNERS, **options)(_explained(self.function))


def evaluation_asset(
    *,
    group: str,
    code_version: str,
    kinds: set[str],
    deps: Sequence[str] = (),
    **options: Any,
) -> Callable[[Callable[..., Any]], Blueprint]:
    """Declares an asset with one partition per evaluation set."""
    shared = {"group_name": group, "code_version": code_version, "kinds": kinds, "deps": list(deps)}
    return lambda function: Blueprint(function, True, shared | options)


def single_asset(
    *,
    group: str,
    code_version: str,
    kinds: set[str],
    deps: Sequence[str] = (),
    **options: Any,
) -> Callable[[Callable[..., Any]], Blueprint]:
    """Declares an asset without partitions."""
    shared = {"group_name": group, "code_version": code_version, "kinds": kinds, "deps": list(deps)}
    return lambda function: Blueprint(function, False, shared | options)


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    # An error meant for a person stays one: no retry can help it, and its text is the run's failure message.
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            with step(function.__name__):
                return function(*args, **kwargs)
        except SetrError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    # Dagster compares the context's annotation with the class itself; our modules keep annotations as text.
    signature = inspect.signature(function, eval_str=True)
    wrapper.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    return wrapper
