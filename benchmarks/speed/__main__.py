"""How fast SETR is, against named alternatives and counted bounds, measured here and now.

    python -m benchmarks.speed                 # make bench
    python -m benchmarks.speed --full --resume # make bench-full
    python -m benchmarks.speed --only search-small
    python -m benchmarks.speed --page          # docs/performance.md again, of what is measured

Every module of `running.MODULES` runs in a process of its own, with as many threads as there are cores. Each
figure is written to var/bench.json as soon as it is measured; docs/performance.md is made of that file alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from benchmarks.speed.figure import BenchSetting
from benchmarks.speed.machine import usable_cores
from benchmarks.speed.page import write_page
from benchmarks.speed.results import read_results
from benchmarks.speed.running import (
    LIMITS,
    MODULES,
    REPOSITORY,
    Place,
    Run,
    faults_of,
    machine_now,
    measure,
    names_by_module,
    run_digest,
    told,
    tree_digest,
)
from setr_lib.errors import SetrError

PHOTOS = REPOSITORY.parent / "shared" / "data" / "photos"
"""Real photographs, for whoever has some there; without them pictures are drawn."""
PAGE = REPOSITORY / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 0 when every figure was measured and every output was equal.
    """
    options = _parser().parse_args(arguments)
    place = Place(REPOSITORY / "var" / "bench.json", REPOSITORY / "var" / "bench")
    try:
        modules = chosen(names_by_module(MODULES), options.only)
        if options.list:
            for module, names in modules.items():
                print("\n".join(f"{name:<24} {module}" for name in names))
            return 0
        if options.page:
            write_page(place.results, PAGE)
            return 0
        return run(options, place, modules)
    except SetrError as error:
        print(f"setr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {place.results}", file=sys.stderr)
        return 1


def run(options: argparse.Namespace, place: Place, modules: Mapping[str, Sequence[str]]) -> int:
    """Measure some figures, write the page and print the table.

    Args:
        options: The command line.
        place: Where figures are kept.
        modules: Module -> figures.

    Returns:
        The exit status.
    """
    machine = machine_now(options.threads)
    setting = BenchSetting(
        folder=place.folder,
        full=options.full,
        threads=options.threads,
        photos=PHOTOS if PHOTOS.is_dir() else None,
        device=options.device or ("cuda" if machine.accelerator else "cpu"),
    )
    place.folder.mkdir(parents=True, exist_ok=True)
    this = Run(
        setting,
        place,
        machine,
        run_digest(setting, machine, tree_digest()),
        options.limit or LIMITS[options.full],
    )
    faults = measure(this, modules, again=not options.resume)
    write_page(place.results, PAGE)
    print(table(place))
    for fault in faults:
        print(f"FAILED {fault}", file=sys.stderr)
    return 1 if faults else 0


def table(place: Place) -> str:
    """What is measured, a line each.

    Args:
        place: Where it is kept.

    Returns:
        The lines.
    """
    results = read_results(place.results)
    lines = [f"{each.name:<24} {told(each)}" for each in results]
    return "\n".join([*lines, f"{len(results) - len(faults_of(results))} figures; more in {PAGE}"])


def chosen(modules: Mapping[str, Sequence[str]], only: Sequence[str] | None) -> dict[str, list[str]]:
    """The figures that are asked for.

    Args:
        modules: Module -> figures.
        only: Their names; None for all.

    Returns:
        Module -> figures, without modules that have none of them.

    Raises:
        SetrError: There is no figure of a name.
    """
    known = [name for names in modules.values() for name in names]
    if unknown := [name for name in only or () if name not in known]:
        raise SetrError(f"there is no figure {', '.join(unknown)}; there are {', '.join(known)}")
    found = {
        module: [name for name in names if not only or name in only] for module, names in modules.items()
    }
    return {module: names for module, names in found.items() if names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="How fast SETR is, measured here and now."
    )
    parser.add_argument("--full", action="store_true", help="the sizes of make bench-full")
    parser.add_argument("--resume", action="store_true", help="measure only what is not finished yet")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="this figure; may be given several times"
    )
    parser.add_argument("--list", action="store_true", help="the figures and the modules that measure them")
    parser.add_argument("--page", action="store_true", help="write docs/performance.md of what is measured")
    parser.add_argument("--threads", type=_count, default=usable_cores(), help="of every process")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="where models run (default: a GPU if any)")
    parser.add_argument("--limit", type=_count, metavar="SECONDS", help="after which a module is ended")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
