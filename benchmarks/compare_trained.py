"""The trained systems side by side, with the claims of the two papers that they are from: the section
"Trained systems" of docs/compare.md.

    make compare-trained

After a finished demo. Two processes work beside each other: one on the demo's world (its trainings and
ablations), one on two further worlds and the judge. What was done before is found again: stopped and called
again, it goes on, and nothing is trained twice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import TRAINED
from benchmarks.pages import with_section
from benchmarks.trained_ablations import ABLATIONS, Laboratory
from benchmarks.trained_claims import Key, Study, row
from benchmarks.trained_page import PICTURE, PSEUDO_WORDS, draw_pseudo_words, section
from benchmarks.trained_results import ABLATION, JUDGED, STAGE_1, Measured, Results
from benchmarks.trained_worlds import RESULTS, World, world_settings
from setr_lib.errors import SetrError
from setr_lib.files import read_json, write_json, write_text
from setr_lib.settings import Settings, load_settings

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "compare.md"
FIGURES = REPOSITORY / "docs" / "figures"
OTHERS = 2
"""How many further worlds there are: the seeds after the demo's."""
JUDGED_QUERIES = 60
PARTS = ("all", "own", "others", "page")
_TIMES = "times.json"
SECONDS = {
    "prompt_tuned": 35,
    "retrieval_dpo": 25,
    "retrieval_dpo_fused": 45,
    "pic2word": 50,
    "mapping": 60,
    "composing": 60,
    "qformer": 65,
}
"""About how long a training on the miniature takes on one idle core; for the estimate alone."""
_REGISTERING, _READING, _JUDGING, _RANKING = 25, 240, 900, 60


class Run:
    """A comparison of the trained systems.

    Args:
        settings: Those of the finished demo's world.
        others: How many further worlds.
        limit: Queries of each set that the judge re-ranks.
    """

    def __init__(self, settings: Settings, others: int = OTHERS, limit: int = JUDGED_QUERIES) -> None:
        self.settings, self.limit = settings, limit
        self.own = settings.miniature.seed
        self.seeds = [self.own + number for number in range(others + 1)]
        self._begun = time.monotonic()

    def world(self, seed: int) -> World:
        """One of the worlds.

        Args:
            seed: Its seed.

        Returns:
            The world.
        """

        def say(words: str) -> None:
            minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
            print(f"{minutes:3d}:{seconds:02d}  seed {seed}: {words}", flush=True)

        settings = world_settings(self.settings, seed)
        return World(settings, seed == self.own, say, lambda *_: None)

    def part_own(self) -> None:
        """The demo's world: all trainings, stage 1, and the ablations."""
        world = self.world(self.own)
        world.prepare()
        world.train()
        world.rank(timed=True)
        laboratory = Laboratory(world)
        for each in ABLATIONS:
            if each.system in world.systems:
                laboratory.run(each)

    def part_others(self) -> None:
        """The further worlds, and then the judge on the demo's."""
        for seed in self.seeds[1:]:
            world = self.world(seed)
            world.prepare()
            world.train()
            world.rank(timed=False)
        world = self.world(self.own)
        world.prepare()
        world.train()
        world.judge(self.limit)

    @property
    def study(self) -> Study:
        """What is measured by now, in all worlds."""
        worlds: dict[int, dict[Key, Measured]] = {}
        for seed in self.seeds:
            results = Results(world_settings(self.settings, seed).storage_root / RESULTS)
            rows = {
                Key(kind, name): one
                for kind in (STAGE_1, ABLATION, JUDGED)
                for name, one in results.of(kind).items()
            }
            if rows:
                worlds[seed] = rows
        if self.own not in worlds:
            raise SetrError("nothing is measured yet")
        options = self.settings.evaluation
        return Study(worlds, options.bootstrap_samples, options.seed)

    def write_page(self) -> None:
        """Write the section of docs/compare.md, and its picture."""
        minutes = self.seconds() / 60
        took = (
            f"All of it took {minutes:.0f} minutes of two processes on {os.cpu_count()} cores."
            if minutes >= 1
            else ""
        )
        study = self.study
        text = section(study, took, self.limit)
        page = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
        write_text(PAGE, with_section(page, TRAINED, text))
        print(f"written: {PAGE.relative_to(REPOSITORY)}")
        if study.of(row(PSEUDO_WORDS)) is not None:
            world = self.world(self.own)
            draw_pseudo_words(world.context, world.keys[0], FIGURES / PICTURE)
            print(f"written: {(FIGURES / PICTURE).relative_to(REPOSITORY)}")

    def seconds(self, more: float = 0.0) -> float:
        """How long the whole took, interrupted runs included.

        Args:
            more: Seconds of this run, which are added.

        Returns:
            Seconds.
        """
        file = self.settings.storage_root / RESULTS / "times" / _TIMES
        known = float((read_json(file) or {}).get("seconds", 0.0))
        if more:
            write_json(file, {"seconds": known + more})
        return known + more

    def has_measured_since(self, begun: float) -> bool:
        """Whether a row of any world was measured since a time: else the time of a call does not count.

        Args:
            begun: In seconds since 1970.

        Returns:
            True where one was.
        """
        folders = [world_settings(self.settings, seed).storage_root / RESULTS for seed in self.seeds]
        return any(file.stat().st_mtime >= begun for folder in folders for file in folder.glob("*.json"))

    def estimate(self) -> str:
        """About how long the whole takes from nothing on two idle cores, in words."""
        systems = [name for name in SECONDS if name in self.settings.systems]
        trainings = sum(SECONDS[name] + _REGISTERING for name in systems)
        ablations = sum(SECONDS[each.system] for each in ABLATIONS if each.system in systems)
        own = trainings + _RANKING + ablations
        others = (len(self.seeds) - 1) * (trainings + _READING + _RANKING) + _JUDGING
        return (
            f"about {own / 60:.0f} minutes for seed {self.own} and its {len(ABLATIONS)} ablations, beside it "
            f"{others / 60:.0f} for the other worlds and the judge, on two idle cores; less what is done "
            "already"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, rank and write the section.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit status: 1 where something could not be done.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_trained", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("settings", type=Path, help="the settings file of the comparison")
    parser.add_argument("--worlds", type=int, default=OTHERS, metavar="N", help="how many further worlds")
    parser.add_argument(
        "--judged", type=int, default=JUDGED_QUERIES, metavar="N", help="queries for the judge"
    )
    parser.add_argument("--part", choices=PARTS, default="all", help="only this part of the work")
    options = parser.parse_args(arguments)
    try:
        from setr_lib.commands.console import quieten_libraries

        quieten_libraries()
        run = Run(load_settings(options.settings), options.worlds, options.judged)
        if options.part == "all":
            return _whole(run, options)
        {"own": run.part_own, "others": run.part_others, "page": run.write_page}[options.part]()
    except SetrError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept: run it again to go on", file=sys.stderr)
        return 1
    return 0


def _whole(run: Run, options: argparse.Namespace) -> int:
    """Both parts beside each other, or one after the other on a single core; then the page."""
    run.world(run.own).check_demo()
    print(f"estimated: {run.estimate()}", flush=True)
    begun, cores = time.time(), os.cpu_count() or 1
    same = [str(options.settings), "--worlds", str(options.worlds), "--judged", str(options.judged)]
    environment = {"OMP_NUM_THREADS": str(max(1, cores // 2)), **os.environ}
    parts: list[subprocess.Popen[bytes]] = []
    try:
        for part in ("own", "others"):
            command = [sys.executable, "-m", "benchmarks.compare_trained", *same, "--part", part]
            parts.append(subprocess.Popen(command, env=environment))
            if cores == 1:
                parts[-1].wait()
        failed = max(abs(part.wait()) for part in parts)
    finally:
        for part in parts:
            if part.poll() is None:
                part.terminate()
                part.wait()
        if run.has_measured_since(begun):
            run.seconds(time.time() - begun)
    run.write_page()
    minutes, seconds = divmod(time.time() - begun, 60)
    print(f"took {minutes:.0f} min {seconds:.0f} s")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
