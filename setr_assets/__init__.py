"""Dagster's side of SETR, and nothing else: what exists, what depends on what, when it runs.

The work itself is in ``setr_lib``, which knows nothing of Dagster; the definitions are in
``setr_assets.definitions``. Importing this package imports Dagster alone.
"""

import gc

_collecting = gc.isenabled()
gc.disable()  # the import makes half a million objects that stay as long as the process: nothing to collect
try:
    import dagster  # noqa: F401
finally:
    # Else every full collection, of the import of the code location and of a whole run, walks through them.
    gc.freeze()
    if _collecting:
        gc.enable()
