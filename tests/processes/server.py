"""A process that has imported the libraries of the commands, and forks itself for each command that a test starts.

`tests/processes/forked.py` starts it and communicates with it. It has one thread and only imports, so that a fork is
equivalent to a new interpreter; `Job.prepare` handles the differences.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

_MODULES = """
wandb.sdk.launch.inputs.internal numpy torch torch.distributed.tensor torch.utils.flop_counter torch._dynamo
torch._inductor.compile_fx torchaudio
lightning.pytorch.cli lightning.pytorch.loggers.wandb matplotlib.pyplot matplotlib.backends.backend_agg PIL.Image
soundfile vector_quantize_pytorch pytest hypothesis ipykernel.kernelapp
w2vlab.cli.fit w2vlab.cli.evaluate w2vlab.cli.compare w2vlab.cli.sweep w2vlab.cli.report w2vlab.cli.explain
w2vlab.cli.parts w2vlab.cli.lightning.parsed w2vlab.evaluation.output.tables w2vlab.evaluation.output.comparison_table
w2vlab.explain.text
"""
"""Modules that commands, workers and notebooks import, in the order of `w2vlab fit`; missing ones are skipped."""

HANDLERS = {number: signal.getsignal(number) for number in signal.valid_signals()}
"""Signal handlers of an interpreter at its start; ignored signals are inherited."""


@dataclass
class Job:
    """A command that a test starts.

    Args:
        arguments: The arguments of the interpreter: `-m module …`, `-c code …` or `script …`.
        environment: The complete environment.
        cwd: The working directory.
        new_session: Whether it starts a new session, and so a new process group.
        files: The descriptors of the files that are passed: 0, 1, 2 and others that it inherits.
    """

    arguments: list[str]
    environment: dict[str, str]
    cwd: str
    new_session: bool
    files: list[int]

    def prepare(self, files: list[int], libraries: list[str]) -> None:
        """Sets the state that an interpreter initializes from its environment at start-up."""
        above = 1 + max(self.files)  # so that no descriptor overwrites another one
        moved = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for file in files]
        for file in files:
            os.close(file)
        for file, number in zip(moved, self.files, strict=True):
            os.dup2(file, number)
            os.close(file)
        os.chdir(self.cwd)
        os.environ.clear()
        os.environ.update(self.environment)
        places = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = [self._first_place(), *map(os.path.abspath, places), *libraries]
        importlib.invalidate_caches()
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number, handler in HANDLERS.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)
        self._read_environment()

    def _read_environment(self) -> None:
        """Repeats what libraries read from the environment when they are imported."""
        torch, numpy, matplotlib = (sys.modules[name] for name in ("torch", "numpy", "matplotlib"))
        torch.seed()
        numpy.random.seed()
        if threads := os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(int(threads))
        if backend := os.environ.get("MPLBACKEND"):
            matplotlib.rcParams["backend"] = backend

    def run(self) -> None:
        """Runs the arguments like the interpreter."""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        kind, *rest = self.arguments
        if kind == "-m":
            sys.argv = rest
            runpy._run_module_as_main(rest[0])  # called by `python -m`
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        else:
            sys.argv = list(self.arguments)
            runpy.run_path(kind, run_name="__main__")

    def _first_place(self) -> str:
        kind = self.arguments[0]
        return {"-m": os.getcwd(), "-c": ""}.get(kind, os.path.dirname(os.path.abspath(kind)))


class Server:
    """Forks a process for each job, and reports its end.

    Args:
        control: A socket to the process that runs the tests; the server ends when it is closed.
        libraries: The module search path of an interpreter, without its first entry and `PYTHONPATH`.
    """

    def __init__(self, control: socket.socket, libraries: list[str]) -> None:
        self.socket = control
        self.messages = Connection(os.dup(control.fileno()))
        self.libraries = libraries
        self.children: set[int] = set()

    def serve(self) -> Callable[[], None] | None:
        """Returns the job in each child, and None in the server when it ends."""
        ended, write = os.pipe()
        for end in (ended, write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self.socket, ended], [], [])
            try:
                if ended in ready:
                    os.read(ended, 1024)
                    self._report_ends()
                if self.socket not in ready:
                    continue
                job = Job(**self.messages.recv())
                _, files, _, _ = socket.recv_fds(self.socket, 1, len(job.files))
                if self._fork(job):
                    for end in (ended, write):
                        os.close(end)
                    job.prepare(files, self.libraries)
                    return job.run
            except (EOFError, ConnectionError):  # the test process has ended or died
                return self._end()
            for file in files:
                os.close(file)

    def _fork(self, job: Job) -> bool:
        """Returns whether this is the child. The server waits for the child's session, so that signals reach it."""
        session_made, in_child = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.messages.close()
            self.socket.close()
            if job.new_session:
                os.setsid()
            os.close(session_made)
            os.close(in_child)
            return True
        os.close(in_child)
        os.read(session_made, 1)  # until the other end is closed
        os.close(session_made)
        self.children.add(pid)
        self.messages.send({"started": pid})
        return False

    def _report_ends(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.children.remove(pid)
            self.messages.send({"ended": pid, "status": status})

    def _end(self) -> None:
        """Kills all processes if the test process has died."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)


def _import_all() -> None:
    from w2vlab.cli.lightning.memory import use_large_pages

    use_large_pages()  # before PyTorch is imported, as `w2vlab fit` does
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _MODULES.split():
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                if name.startswith("w2vlab"):
                    raise
    tasks = "/proc/self/task"  # on Linux, which also counts threads of libraries
    threads = len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()
    assert threads == 1, "a fork would lose threads"
    gc.collect()
    gc.freeze()  # otherwise every garbage collection would traverse all imported objects, and copy their pages


def main() -> Callable[[], None] | None:
    """Serves; returns the job in a child."""
    _, control, *places = sys.argv
    libraries = sys.path[1:]
    sys.path[:1] = places
    _import_all()
    return Server(socket.socket(fileno=int(control)), libraries).serve()


if __name__ == "__main__":
    job = main()
    if job is not None:  # at the top level, so that a process ends like any other, with its traceback and its status
        job()
