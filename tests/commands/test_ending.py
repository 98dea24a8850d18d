"""A long command ends at once, and nothing that is registered for its end is left out."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit, sys, tempfile, threading, time, weakref
from pathlib import Path
from setr_lib.commands.ending import end_process

folder = tempfile.TemporaryDirectory(dir=sys.argv[1])
atexit.register(lambda: print("at the end"))

def late():
    time.sleep(0.2)
    Path(sys.argv[1], "by a thread").touch()

class Freed:
    def __del__(self):
        print("freed")

freed = Freed()
freed.itself = freed  # only a collection frees it
threading.Thread(target=late).start()
sys.stdout.write("before, ")
end_process(3)
"""


def test_exit_functions_run_threads_end_and_only_memory_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 3
    assert done.stdout == "before, at the end\n"
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["by a thread"]


INTERRUPTED = """
import atexit, os, signal, sys, threading, time
from setr_lib.commands.ending import end_process

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell starts behind "&"
main = threading.main_thread()

def waits():
    frame, names = sys._current_frames()[main.ident], set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return {"end_process", "_shutdown"} <= names

def slow():
    while not waits():
        time.sleep(0.01)
    time.sleep(0.2)
    signal.pthread_kill(main.ident, signal.SIGINT)
    time.sleep(60)

atexit.register(lambda: print("at the end"))
threading.Thread(target=slow).start()
end_process(0)
"""


def test_an_interruption_at_the_end_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "at the end\n", "")


def test_output_that_was_closed_from_the_beginning() -> None:
    program = (
        "import sys; sys.stdout = None; from setr_lib.commands.ending import end_process; end_process(3)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (3, "")
