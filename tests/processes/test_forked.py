"""A forked process is equivalent to a new interpreter."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import forked
from tests.processes.server import Job, Server

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("start", [subprocess, forked], ids=["fresh", "forked"])


def state_of(start: ModuleType, arguments: list[str], folder: Path, **options: Any) -> dict[str, Any]:
    """The environment of a process as it sees it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "own"), str(ROOT)]), "MARK": "here"}
    done = start.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


LOOK = """
import json, os, random, signal, sys, threading
main = sys.modules["__main__"]
handlers = {number.name: str(signal.getsignal(number)) for number in signal.Signals if number.name != "SIGCHLD"}
print(json.dumps({
    "argv": sys.argv,
    "path": list(dict.fromkeys(sys.path)),
    "main": [vars(main).get("__spec__") and main.__spec__.name, __name__],
    "environment": dict(os.environ),
    "cwd": os.getcwd(),
    "handlers": handlers,
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "files": len(os.listdir("/proc/self/fd")),
    "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
    "threads": threading.active_count(),
    "buffered": [sys.stdout.line_buffering, sys.stderr.line_buffering, sys.stdin.isatty()],
}))
"""


@pytest.mark.parametrize("how", ["-c", "-m", "script"])
def test_it_has_the_environment_of_a_new_one(how: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "looking.py").write_text(LOOK)
    (tmp_path / "look.py").write_text(LOOK)
    arguments = {"-c": ["-c", LOOK, "a"], "-m": ["-m", "looking", "a", "--b"], "script": ["look.py", "a"]}[how]
    options = {"stdin": subprocess.DEVNULL, "start_new_session": True}
    fresh, found = (state_of(start, arguments, tmp_path, **options) for start in (subprocess, forked))
    assert found["leads"]
    assert found == fresh


def test_its_random_numbers_are_independent() -> None:
    code = "import torch, numpy, random; print(torch.rand(2), numpy.random.rand(2), random.random(), sep='|')"
    runs = [
        start.run([sys.executable, "-c", code], capture_output=True, text=True)
        for start in (subprocess, forked, forked)
    ]
    for drawn in zip(*(run.stdout.split("|") for run in runs), strict=True):
        assert len(set(drawn)) == 3


@BOTH
@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("raise ValueError('a bug')", 1, "ValueError: a bug\n"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
        ("import os; os._exit(3)", 3, ""),
        ("import atexit, sys; atexit.register(sys.stderr.write, 'bye')", 0, "bye"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, ""),
    ],
)
def test_it_ends_like_a_new_one(start: ModuleType, code: str, status: int, said: str) -> None:
    done = start.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.endswith(said)
    assert done.stdout == ""


def test_wait_poll_and_signals() -> None:
    code = "import signal; print('ready', flush=True); signal.pause()"
    with forked.Popen([sys.executable, "-c", code], stdout=forked.PIPE, text=True, start_new_session=True) as process:
        assert os.getpgid(process.pid) == process.pid  # at once: groups are sent signals
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(signal.SIGUSR1)
        assert process.wait() == -signal.SIGUSR1


def test_input_pipes_and_inherited_files(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        code = f"import os, sys; os.write({log.fileno()}, sys.stdin.buffer.read())"
        with forked.Popen([sys.executable, "-c", code], stdin=forked.PIPE, pass_fds=[log.fileno()]) as process:
            process.communicate(b"words")
    assert (tmp_path / "log").read_text() == "words"


def test_processes_end_when_the_tests_die() -> None:
    """Their end of the socket is then closed, and the server kills the processes that it has forked."""
    mine, its = socket.socketpair()
    server = os.fork()
    if server == 0:
        mine.close()
        job = Server(its, sys.path).serve()
        if job is not None:
            job()
        os._exit(0)
    its.close()
    messages = Connection(os.dup(mine.fileno()))
    job = Job(["-c", "import signal; signal.pause()"], dict(os.environ), os.getcwd(), True, [0, 1, 2])
    messages.send(vars(job))
    socket.send_fds(mine, [b"f"], [0, 1, 2])
    waiting = messages.recv()["started"]
    assert Path("/proc", str(waiting)).exists()
    messages.close()
    mine.close()
    assert os.waitpid(server, 0) == (server, 0)
    while Path("/proc", str(waiting)).exists():  # until the system has registered it
        time.sleep(0.01)
