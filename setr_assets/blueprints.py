"""How an asset is declared here: a plain function plus what Dagster should know of it.

The partitions come from the settings, which are only known when ``build_definitions(settings)`` runs; a
``Blueprint`` therefore keeps the function and its declaration apart until then. Everything that all assets
share is said once, here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from setr_assets.code_versions import CodeVersions, Reads
from setr_assets.data_versions import PartitionResults, readable
from setr_assets.failures import failing_in_words, notices_of
from setr_assets.progress import step
from setr_lib.pipeline.context import PipelineContext
from setr_lib.settings import Settings

OWNERS = ["team:retrieval"]


@dataclass(frozen=True)
class Blueprint:
    """The declaration of an asset, which becomes one when the partitions are known."""

    function: Callable[..., Any]
    partitioned: bool
    number: str
    """Of the code: raised when it computes something else."""
    reads: Reads
    """What the result depends on in the settings."""
    options: dict[str, Any] = field(default_factory=dict)
    more_deps: Callable[[Settings], Sequence[str]] = lambda _: ()
    """What it depends on besides, with these settings."""

    @property
    def name(self) -> str:
        """The asset's name."""
        return self.function.__name__

    def build(
        self, partitions: dg.PartitionsDefinition, position: int, versions: CodeVersions
    ) -> dg.AssetsDefinition:
        """The Dagster asset; several partitions of it run as one run, in one process.

        Args:
            partitions: The evaluation sets.
            position: The asset's position in the order of the data: of the steps that could run, the first in
                it does.
            versions: Makes its code version.

        Returns:
            The asset.
        """
        options = {
            **self.options,
            "deps": [*dict.fromkeys((*self.options["deps"], *self.more_deps(versions.settings)))],
            "code_version": versions.version(self.number, self.reads),
            "op_tags": {"dagster/priority": str(-position)},
        }
        if self.partitioned:
            options |= {"partitions_def": partitions, "backfill_policy": dg.BackfillPolicy.single_run()}
        return dg.asset(owners=OWNERS, **options)(_explained(self.function))


def evaluation_asset(
    *,
    group: str,
    number: str,
    reads: Reads,
    kinds: set[str],
    deps: Sequence[str] = (),
    more_deps: Callable[[Settings], Sequence[str]] = lambda _: (),
    **options: Any,
) -> Callable[[Callable[..., Any]], Blueprint]:
    """Declare an asset with one partition per evaluation set.

    Args:
        group: Its group in Dagster's UI.
        number: The number of its code.
        reads: What its result depends on in the settings.
        kinds: The marks that Dagster's UI shows.
        deps: The assets that it is made from.
        more_deps: Those that it is made from besides, with certain settings.
        options: Passed to ``dagster.asset``.

    Returns:
        A decorator of a function that returns ``PartitionResults``.
    """
    shared = {"group_name": group, "kinds": kinds, "deps": list(deps)}
    return lambda function: Blueprint(function, True, number, reads, shared | options, more_deps)


def single_asset(
    *,
    group: str,
    number: str,
    reads: Reads,
    kinds: set[str],
    deps: Sequence[str] = (),
    more_deps: Callable[[Settings], Sequence[str]] = lambda _: (),
    **options: Any,
) -> Callable[[Callable[..., Any]], Blueprint]:
    """Declare an asset without partitions.

    Args:
        group: Its group in Dagster's UI.
        number: The number of its code.
        reads: What its result depends on in the settings.
        kinds: The marks that Dagster's UI shows.
        deps: The assets that it is made from.
        more_deps: Those that it is made from besides, with certain settings.
        options: Passed to ``dagster.asset``.

    Returns:
        A decorator of a function that returns a ``MaterializeResult`` with a data version.
    """
    shared = {"group_name": group, "kinds": kinds, "deps": list(deps)}
    return lambda function: Blueprint(function, False, number, reads, shared | options, more_deps)


def _explained(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(context: dg.AssetExecutionContext, *args: Any, **kwargs: Any) -> Iterator[Any]:
        given = (each for each in (*args, *kwargs.values()) if isinstance(each, PipelineContext))
        setr = next(given, None)
        with step(function.__name__), failing_in_words(setr), notices_of(context):
            made = function(context, *args, **kwargs)
        if isinstance(made, PartitionResults):
            yield from made.events(context)
        else:
            yield made._replace(metadata=readable(made.metadata or {}))

    # Dagster compares the context's annotation with the class itself; our modules keep annotations as text.
    signature = inspect.signature(function, eval_str=True).replace(return_annotation=dg.MaterializeResult)
    wrapper.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__annotations__ = {name: given.annotation for name, given in signature.parameters.items()}
    return wrapper
