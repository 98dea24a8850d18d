"""MLflow: runs of trainings, the round trip of a logged model through a fresh process, the versions of a
registered model, and the champion among them.

What belongs here: everything that knows MLflow, and the bundle of the judge's adapter. How something is
trained belongs to ``training`` and to what is trained.
"""

from setr_lib.registry.errors import RegistryError

__all__ = ["RegistryError"]
