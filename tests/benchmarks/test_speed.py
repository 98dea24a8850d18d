"""The harness of the speed benchmarks on a module that measures nothing: processes, resumption, failures, the
file and the page.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.speed.__main__ import chosen, main
from benchmarks.speed.figure import BenchSetting, Figure, Growth, Step
from benchmarks.speed.machine import Machine
from benchmarks.speed.page import page_of, write_page
from benchmarks.speed.results import NAMED, Measured, entry_of, read_results, unmeasurable, write_results
from benchmarks.speed.running import Place, Run, measure, names_by_module, run_digest
from setr_lib.errors import SetrError

MACHINE = Machine("a processor", 2, 8 << 30, 2, {"python": "3.11"}, 3e11, 2e10)
FIGURE = Figure(
    "search-small",
    "ranking",
    ours_s=0.5,
    alternative="a | loop",
    alternative_s=0.25,
    equal=True,
    checked="the ids",
    target="at most 1.1 x the loop",
    met=False,
    bound_s=0.4,
    bound="operations at the rate",
    whole_s=5.0,
    also={"bare, s": 0.125, "of them": 6.0},
    profile=(("reading", 0.3), ("sorting", 0.1)),
    growth=Growth("images", [10, 100, 1000], [0.01, 1.0, 100.0]),
    steps=(),
    note="a note",
)


def measured(figure: Figure) -> Measured:
    at = "2026-01-02T03:04:05+00:00"
    return Measured(figure.name, "a.module", figure, "", False, "cpu", at, 1.0, "d1", MACHINE)


Start = Callable[..., tuple[Run, list[str]]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Measures figures of the module that measures nothing, in a real process."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def begin(
        *modules: str, tree: str = "tree", again: bool = False, limit_s: float = 60.0
    ) -> tuple[Run, list[str]]:
        setting = BenchSetting(tmp_path, full=False, threads=3)
        place = Place(tmp_path / "bench.json", tmp_path)
        run = Run(setting, place, MACHINE, run_digest(setting, MACHINE, tree), limit_s)
        faults = measure(run, names_by_module(modules or ["fake_speed"]), again=again)
        return run, faults

    return begin


def asked(folder: Path) -> list[str]:
    return (folder / "asked.txt").read_text(encoding="utf-8").splitlines()


def test_a_module_runs_in_a_process_with_fixed_threads_and_its_figures_are_kept(
    start: Start, tmp_path: Path
) -> None:
    _, faults = start()
    assert faults == [] and asked(tmp_path) == ["import fake-second 3 False"]
    first, second = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert (first["name"], second["name"]) == ("import", "fake-second")
    assert (first["ours_s"], first["alternative_s"], first["vs_alternative"], first["speedup"]) == (
        0.5,
        1,
        0.5,
        2,
    )
    assert first["share_of_bound"] == 0.5 and first["share_of_whole"] is None and first["equal"] is True
    assert first["growth"]["exponent"] == pytest.approx(1.0)
    assert first["machine"]["linear_flops"] == 3e11 and first["module"] == "fake_speed"


def test_what_is_finished_is_not_measured_again_unless_the_code_changed_or_it_is_asked_for(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_RAISES", "no luck")
    _, faults = start()
    assert len(faults) == 2 and all("status 1" in fault for fault in faults)
    failed = read_results(tmp_path / "bench.json")[1]
    assert failed.figure is None and "fake_speed ended with status 1" in failed.failed
    monkeypatch.delenv("FAKE_RAISES")
    monkeypatch.setenv("FAKE_SECONDS", "0.75")
    run, faults = start()
    assert faults == [] and [each.figure and each.figure.ours_s for each in run.results] == [0.5, 0.75]
    assert start()[0].results == run.results
    start(tree="another")
    start(tree="another", again=True)
    whole = "import fake-second 3 False"
    assert asked(tmp_path) == [whole, "fake-second 3 False", whole, whole]


def test_other_modules_go_on_where_one_fails(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fake_broken.py").write_text(
        'NAMES = ("fake-broken",)\ndef figures(setting, names):\n    raise MemoryError\n', encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent}")
        run, faults = start("fake_broken", "fake_speed")
    assert [each.name for each in run.results if not each.failed] == ["import", "fake-second"]
    assert any(fault.startswith("fake-broken: fake_broken ended with status 1") for fault in faults)


SLOW = """
import os, time
from pathlib import Path
from benchmarks.speed.figure import Figure
NAMES = ("fake-first", "fake-last")
def figures(setting, names):
    for name in names:
        if name == "fake-last" and "FAKE_WAITS" in os.environ:
            (setting.folder / "unfinished.txt").write_text(str(os.getpid()))
            (setting.folder / "unfinished.txt").rename(setting.folder / "waiting.txt")
            time.sleep(600)
        (setting.folder / f"{name}-{time.monotonic_ns()}").touch()
        yield Figure(name, "adding up", 0.5, "", None, equal=True, checked="")
"""
HARNESS = """
import sys
from pathlib import Path
from test_speed import BenchSetting, MACHINE, Place, Run, measure, run_digest
folder = Path(sys.argv[1])
setting = BenchSetting(folder, full=False, threads=3)
run = Run(setting, Place(folder / "bench.json", folder), MACHINE, run_digest(setting, MACHINE, "tree"), 60.0)
measure(run, {"fake_slow": ["fake-first", "fake-last"]}, again=False)
"""


def test_a_killed_run_leaves_no_process_and_goes_on_with_what_it_had_not_finished(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake_slow.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    here = Path(__file__)
    paths = os.pathsep.join(map(str, (here.parents[2], here.parent, tmp_path)))
    monkeypatch.setenv("PYTHONPATH", paths)
    environment = {**os.environ, "FAKE_WAITS": "1"}
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, str(tmp_path)], env=environment)
    try:
        # The module is at its second figure; whoever reads what it says may not have stored the first yet.
        assert _soon(lambda: (tmp_path / "waiting.txt").is_file() and (tmp_path / "bench.json").is_file())
    finally:
        harness.kill()
        harness.wait()
    module = int((tmp_path / "waiting.txt").read_text())
    assert _soon(lambda: not psutil.pid_exists(module) or psutil.Process(module).status() == "zombie")
    assert [each.name for each in read_results(tmp_path / "bench.json")] == ["fake-first"]
    run, faults = start("fake_slow")
    assert faults == [] and [each.name for each in run.results] == ["fake-first", "fake-last"]
    assert len([*tmp_path.glob("fake-first-*")]) == len([*tmp_path.glob("fake-last-*")]) == 1


def _soon(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold within half a minute."""
    return any(holds() or time.sleep(0.05) for _ in range(600))


def test_a_module_that_is_not_there_is_an_error_and_no_shorter_run(start: Start) -> None:
    with pytest.raises(SetrError, match="there is no module not_there, whose figures a run has"):
        start("fake_speed", "not_there")


def test_a_module_that_never_ends_is_ended(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fake_endless.py").write_text(
        'import time\nNAMES = ("fake-endless",)\ndef figures(setting, names):\n    time.sleep(600)\n',
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        patch.setenv("PYTHONPATH", str(tmp_path))
        run, _ = start("fake_endless", limit_s=1.0)
    assert [each.failed for each in run.results] == ["fake_endless was ended after its limit of 1 s"]


def test_different_outputs_are_a_failure(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_UNEQUAL", "import")
    run, faults = start()
    assert faults == ["import: the outputs differ: the sums"]
    assert "**import: the outputs differ** (the sums)." in page_of(run.results)


def test_seconds_that_no_work_takes_are_refused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "nan")
    run, faults = start()
    assert len(faults) == 3 and all(each.failed for each in run.results)
    assert unmeasurable(replace(FIGURE, bound_s=0.0)) == "bound_s is 0.0, which no work takes"
    assert unmeasurable(FIGURE) == ""


def test_names_are_of_one_module(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "fake_twice.py").write_text('NAMES = ("import",)\n', encoding="utf-8")
    with pytest.raises(SetrError, match="two modules measure import"):
        start("fake_speed", "fake_twice")


def test_figures_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {"one": ("a", "b"), "two": ("c",)}
    assert chosen(modules, None) == {"one": ["a", "b"], "two": ["c"]}
    assert chosen(modules, ["b"]) == {"one": ["b"]}
    assert main(["--only", "serch-small"]) == 1
    assert "there is no figure serch-small; there are " in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "orchestration" in capsys.readouterr().out


def test_fields_of_the_file(tmp_path: Path) -> None:
    names = "name work ours_s alternative alternative_s equal checked target met bound_s bound whole_s also"
    names += " profile growth steps note vs_alternative speedup share_of_bound share_of_whole"
    names += " module failed full device measured_at took_s digest machine"
    assert list(entry_of(measured(FIGURE))) == names.split()
    failure = replace(measured(FIGURE), figure=None, failed="no luck")
    assert list(entry_of(failure)) == names.split() and entry_of(failure)["ours_s"] is None
    stepped = replace(
        FIGURE, name="real", alternative="", alternative_s=None, steps=(Step("a", 1.0, 5),), growth=None
    )
    path = tmp_path / "bench.json"
    write_results(path, [measured(stepped), failure, measured(FIGURE)])
    back = read_results(path)
    assert [each.name for each in back] == ["search-small", "search-small", "real"]
    assert back == [failure, measured(FIGURE), measured(stepped)]


def test_a_file_that_lacks_fields_is_read_or_told(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    entry = {
        "name": "import",
        "work": "w",
        "ours_s": 2.0,
        "alternative": "a",
        "alternative_s": 1.0,
        "equal": True,
        "checked": "c",
        "of another version": 1,
    }
    path.write_text(json.dumps([entry]), encoding="utf-8")
    (found,) = read_results(path)
    assert found.figure == Figure("import", "w", 2.0, "a", 1.0, True, "c", profile=(), steps=())
    assert "| import | 2.00 | a | 1.00 | 2.00 x slower |" in page_of([found])
    del entry["ours_s"]
    path.write_text(json.dumps([entry]), encoding="utf-8")
    with pytest.raises(SetrError, match=r"bench\.json, import: there is no 'ours_s'.*make bench"):
        read_results(path)
    for broken in ("{}", "[1]", "["):
        path.write_text(broken, encoding="utf-8")
        with pytest.raises(SetrError, match="remove it"):
            read_results(path)


def test_the_page_says_what_was_measured_missed_and_left_out() -> None:
    text = page_of(
        [measured(FIGURE), replace(measured(FIGURE), name="import", figure=None, failed="no luck")]
    )
    cells = "search-small | 0.500 | a \\| loop | 0.250 | 2.00 x slower | 80 % | at most 1.1 x the loop"
    assert f"| {cells} | **missed** |" in text
    assert (
        f"Not measured: {', '.join(name for name in NAMED if name not in ('search-small', 'import'))}."
        in text
    )
    assert "- Measured besides: bare: 0.125 s; of them: 6." in text
    assert "**import could not be measured**: no luck." in text
    assert "| reading | 0.300 | 60 % |" in text and "2026-01-02" in text and "300 GFLOP/s" in text
    assert "| search-small | images | 10 / 100 / 1,000 | 0.0100 / 1.00 / 100 | 2.00 |" in text
    whole = page_of([measured(replace(FIGURE, name=name, met=True)) for name in NAMED])
    assert (
        "not a whole run" not in whole
        and "13 of 13 targets" in whole
        and "Targets that are missed" not in whole
    )


def test_steps_that_take_much_are_explained_or_said_not_to_be() -> None:
    steps = [
        Step("reading", 1.0, 5_000_000),
        Step("sorting", 11.0),
        Step("writing", 1.0, 3 * 10**9, "it is long"),
    ]
    text = page_of([measured(replace(FIGURE, steps=steps))])
    assert "| reading | 1.00 | 5 |  |" in text
    assert "| sorting | 11.0 | – | **not explained** |" in text
    assert "| writing | 1.00 | 3,000 | it is long |" in text


def test_page_and_picture_are_made_of_the_file_alone(tmp_path: Path) -> None:
    path, page = tmp_path / "bench.json", tmp_path / "docs" / "performance.md"
    write_page(path, page)
    assert "This is not a whole run" in page.read_text(encoding="utf-8")
    write_results(path, [measured(replace(FIGURE, name=name)) for name in NAMED])
    pictures = []
    for _ in range(2):
        write_page(path, page)
        pictures.append((tmp_path / "docs" / "figures" / "performance.svg").read_bytes())
    assert pictures[0] == pictures[1] and 5_000 < len(pictures[0]) < 100_000
    assert all(name.encode() in pictures[0] for name in NAMED)
