"""MLflow: an adapter's training run, its round trip through a fresh process, its versions, and the champion
among them.

What belongs here: everything that knows MLflow. How an adapter is trained belongs to ``reranking``.
"""

from setr_lib.registry.errors import RegistryError

__all__ = ["RegistryError"]
