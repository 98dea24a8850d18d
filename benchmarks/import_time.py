"""How long Dagster waits for the code location: `import setr_assets.definitions` against `import dagster`
alone.

Run it from the repository root: `.venv/bin/python benchmarks/import_time.py`. Fresh interpreters, taken in
turns so that other work on the machine slows both alike; the smallest time of each counts. The aim is a ratio
of at most 1.3.
"""

from __future__ import annotations

import subprocess
import sys

ROUNDS = 7
LIMIT = 1.3
MEASURE = "import time; begun = time.process_time(); import {module}; print(time.process_time() - begun)"


def seconds_to_import(module: str) -> float:
    """Processor seconds of one fresh interpreter.

    Args:
        module: The module to import.

    Returns:
        Seconds.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(module=module)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> int:
    """Print both times and their ratio; status 1 above the limit."""
    times: dict[str, list[float]] = {"dagster": [], "setr_assets.definitions": []}
    for _ in range(ROUNDS):
        for module, found in times.items():
            found.append(seconds_to_import(module))
    best = {module: min(found) for module, found in times.items()}
    ratio = best["setr_assets.definitions"] / best["dagster"]
    for module, seconds in best.items():
        print(f"import {module:<26} {seconds:.2f} s")
    print(f"ratio {ratio:.2f} (at most {LIMIT})")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
