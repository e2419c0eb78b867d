"""Replaces `subprocess` with processes that are forked from one that has imported the libraries.

A new interpreter takes seconds to import PyTorch and Lightning. Tests of the start-up itself use `subprocess`.
"""

from __future__ import annotations

import atexit
import inspect
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, CompletedProcess
from typing import Any

__all__ = ["DEVNULL", "PIPE", "STDOUT", "CompletedProcess", "Popen", "run"]

ROOT = Path(__file__).parents[2]


class Popen(subprocess.Popen):
    """A `subprocess.Popen` whose process is forked; its command is `[sys.executable, …]` or `["w2vlab", …]`.

    An interrupt that the command does not handle gives it status 1, and not that of SIGINT.
    """

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        refused = [name for name in ("preexec_fn", "executable", "shell") if given[name]]
        assert not refused, f"a forked process has no {refused[0]}"
        pipes = {0: given["p2cread"], 1: given["c2pwrite"], 2: given["errwrite"]}
        files = {number: number if pipe == -1 else pipe for number, pipe in pipes.items()}
        files |= {number: number for number in given["pass_fds"]}
        environment = os.environ if given["env"] is None else given["env"]
        self._server = server()
        self.pid = self._server.start(
            arguments=_after_the_interpreter(given["args"]),
            environment=dict(environment),
            cwd=os.fspath(given["cwd"] or os.getcwd()),
            new_session=given["start_new_session"],
            files=files,
        )
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
        )

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid == self.pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        status = self._server.status(self.pid)
        while status is None and flags == 0:
            time.sleep(0.01)
            status = self._server.status(self.pid)
        return (0, 0) if status is None else (self.pid, status)


def run(
    command: Sequence[str],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> CompletedProcess[Any]:
    """Runs a command to its end, as `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": PIPE, "stderr": PIPE}
    with Popen(command, **options) as process:
        try:
            output, error = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done: CompletedProcess[Any] = CompletedProcess(command, process.returncode, output, error)
    if check:
        done.check_returncode()
    return done


def _after_the_interpreter(command: Sequence[Any]) -> list[str]:
    first, *rest = map(os.fspath, command)
    if first == "w2vlab":
        return ["-m", "w2vlab", *rest]
    assert first == sys.executable, f"{first} is not a Python interpreter"
    while rest[0] == "-u" or rest[0].startswith("-X"):  # the interpreter's standard streams
        rest = rest[1:]
    return rest


class _Server:
    """The server process that forks; one for all tests of this process, and it ends with this process."""

    def __init__(self) -> None:
        mine, its = socket.socketpair()
        places = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py"), str(its.fileno()), *places],
            # Inductor would start compile workers, each of which imports PyTorch, for a handful of kernels.
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "TORCHINDUCTOR_COMPILE_THREADS": "1"},
            pass_fds=[its.fileno()],
            stdin=DEVNULL,
            start_new_session=True,
        )
        its.close()
        self.socket, self.messages = mine, Connection(os.dup(mine.fileno()))
        self.lock = threading.RLock()
        self.ended: dict[int, int] = {}
        atexit.register(self.end)

    def start(self, files: dict[int, int], **job: Any) -> int:
        """Forks a process in which these files have the descriptors in the keys; returns its process id."""
        with self.lock:
            self.messages.send({**job, "files": list(files)})
            socket.send_fds(self.socket, [b"f"], list(files.values()))
            while True:
                message = self._read()
                if "started" in message:
                    return message["started"]

    def status(self, pid: int) -> int | None:
        """Returns the result of `os.waitpid`, or None if it has not ended."""
        with self.lock:
            while pid not in self.ended and self.messages.poll():
                self._read()
            return self.ended.get(pid)

    def _read(self) -> Mapping[str, int]:
        try:
            message: dict[str, int] = self.messages.recv()
        except BaseException:  # a message may be read in part
            self.end()
            server.cache_clear()
            raise
        if "ended" in message:
            self.ended[message["ended"]] = message["status"]
        return message

    def end(self) -> None:
        self.messages.close()
        self.socket.close()
        self.process.wait()


@cache
def server() -> _Server:
    """Returns the server process; the first call starts it."""
    return _Server()
