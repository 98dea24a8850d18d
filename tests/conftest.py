"""What every test runs under: none of the developer's own settings or stores, one thread per model, no
telemetry.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings

# A busy machine is not a failing property; CI tries the same examples every time, a person new ones.
hypothesis_settings.register_profile("setr", deadline=None, derandomize=bool(os.environ.get("CI")))
# Of a mutant only whether it is noticed is asked: shrinking an example can take minutes.
hypothesis_settings.register_profile(
    "mutants", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
hypothesis_settings.load_profile("setr")

# Before any test imports torch: two test processes with a thread per core each would slow one another down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

_PERSONAL = ("SETR_", "DAGSTER_", "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI")


def pytest_configure(config: pytest.Config) -> None:
    for name in [each for each in os.environ if each.startswith(_PERSONAL)]:
        del os.environ[name]
    # A shell lets what it starts behind "&" ignore Ctrl-C; Dagster then lets all that a test starts ignore
    # SIGTERM, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "soak: kills and resumes long steps; minutes; only with `make soak`")


@pytest.fixture(autouse=True, scope="session")
def evaluations_are_told_where_they_are_looked_at() -> Iterator[None]:
    """An MLflow store for each small world would take seconds: evaluations are logged in this process where
    ``[registry] evaluations`` names an experiment of the test's own.
    """
    from setr_lib.pipeline import evaluation_runs
    from setr_lib.pipeline.context import PipelineContext

    real = evaluation_runs.tell_mlflow

    def told(
        context: PipelineContext, key: str, result: Any, tags: Mapping[str, str] | None = None
    ) -> evaluation_runs.Told:
        registry = context.settings.registry
        if registry.evaluations == "setr-evaluations":
            silent = registry.model_copy(update={"log_evaluations": False})
            settings = context.settings.model_copy(update={"registry": silent})
            context = PipelineContext(settings, context.models, context.tables.folder)
        return real(context, key, result, tags)

    evaluation_runs.tell_mlflow = told
    yield
    evaluation_runs.tell_mlflow = real


_LONGEST_FIRST = ("miniature/test_training", "assets/test_graph", "assets/test_staleness")
"""Files that take minutes: where each process takes whole files, one that begins late ends late."""


_MANY_MODULES = 300


class _Collections:
    """Keeps garbage collections short: each one looks at every object of the libraries that are imported,
    up to a second of one core, and what frees memory between batches asks for dozens.
    """

    modules = 0

    @classmethod
    def leave_libraries_out(cls) -> None:
        if len(sys.modules) - cls.modules >= _MANY_MODULES:
            gc.collect()
            gc.freeze()
            cls.modules = len(sys.modules)


def pytest_runtest_setup() -> None:
    _Collections.leave_libraries_out()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(name in item.nodeid for name in _LONGEST_FIRST))
    if "soak" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="slow: run `make soak`")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)
