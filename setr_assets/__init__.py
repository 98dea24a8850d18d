"""Dagster's side of SETR, and nothing else: what exists, what depends on what, when it runs.

The work itself is in ``setr_lib``, which knows nothing of Dagster; the definitions are in
``setr_assets.definitions``. Importing this package costs nothing.
"""
