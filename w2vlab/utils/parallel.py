"""Applies a function to many items: in threads while files are waited for, in processes to use all cores."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MEASURED = 16
"""Items after which `map_waiting` decides again whether to use threads."""

_PATIENCE = 0.0003
"""Seconds of waiting for an item from which on threads are worth more than they cost."""


def map_waiting(function: Callable[[Item], Result], items: Sequence[Item], threads: int = 8) -> list[Result]:
    """Applies `function` to `items`, in threads from the moment on that it mostly waits, as for a disk or the network.

    Threads only share the interpreter, so that for files in memory they cost more than they give.

    Args:
        function: Must be safe to call in threads.
        items: Its arguments.
        threads: Number of threads.

    Returns:
        The results, in the order of the items.
    """
    results: list[Result] = []
    for first in range(0, len(items), _MEASURED):
        some = items[first : first + _MEASURED]
        before = _read_clocks()
        results.extend(map(function, some))
        after = _read_clocks()
        passed, computed, stops = (new - old for old, new in zip(before, after, strict=True))
        # A thread that waits for the disk stops; one that waits for a core, on a busy machine, is stopped.
        if passed - computed > max(2 * computed, len(some) * _PATIENCE) and 2 * stops > len(some):
            with ThreadPoolExecutor(threads) as pool:
                results.extend(pool.map(function, items[first + len(some) :]))
            break
    return results


def _read_clocks() -> tuple[float, float, float]:
    """Returns the time, the computing time of this thread, and how often it has waited by itself (known on Linux)."""
    stops = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if sys.platform == "linux" else time.perf_counter_ns()
    return time.perf_counter(), time.thread_time(), stops


class WorkerDiedError(Exception):
    """Raised if a worker process ends while it works on an item, as by a crash of a library or for want of memory.

    Args:
        status: Exit status of the process; negative for the number of a signal.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"a worker process ended with status {status}")
        self.status = status


class WorkerProcesses:
    """Processes that apply functions to items; used in a `with` statement, which ends them.

    Each is a new interpreter that imports only the modules of the functions. So, unlike a fork, it has no locks that
    threads of this process hold, and unlike those of `multiprocessing` it does not run the user's script again. A
    Ctrl-C in the terminal does not reach it, and it ends with this process, however that ends.

    Args:
        number: How many.

    Raises:
        OSError: A process cannot be started.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._all: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(number)
        self._closed = False
        try:
            for _ in range(number):
                self._all.append(_Worker())
                self._idle.put(self._all[-1])
        except OSError:
            self.close()
            raise

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes at once, also those that work."""
        self._closed = True
        for worker in self._all:
            worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close()

    def apply(self, function: Callable[[Item], Result], item: Item) -> Result:
        """Applies a function in the next process that is idle, and waits for its result.

        Args:
            function: A function of a module that can be imported.
            item: Its argument; it and the result must be picklable.

        Raises:
            WorkerDiedError: The process has ended; another one has been started in its place.
            CancelledError: The processes have been ended by `close`.
            RuntimeError: The function has raised an exception.
        """
        worker = self._idle.get()
        try:
            if self._closed:
                raise CancelledError
            return worker.ask(function, item)
        except WorkerDiedError:
            if self._closed:
                raise CancelledError from None
            self._all.remove(worker)
            worker.close()
            worker = _Worker()
            self._all.append(worker)
            raise
        finally:
            self._idle.put(worker)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Calls `function`, which calls `apply`, in as many threads as there are processes; yields results in order.

        Args:
            function: Called in threads of this process.
            items: Its arguments. Only a few more are taken than results were yielded.
        """
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._threads.submit(function, item))
            if len(waiting) > 2 * self._number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


_COMMAND = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from w2vlab.utils.parallel import serve; serve()"
)


class _Worker:
    def __init__(self) -> None:
        # One thread a process: libraries for arrays start as many as there are cores when they are imported.
        environment = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        with contextlib.suppress(BrokenPipeError):  # it has ended; `ask` reports that
            self._send(sys.path)

    def _send(self, content: object) -> None:
        assert self.process.stdin is not None, "it is a pipe"
        pickle.dump(content, self.process.stdin, pickle.HIGHEST_PROTOCOL)
        self.process.stdin.flush()

    def ask(self, function: Callable[[Item], Result], item: Item) -> Result:
        assert self.process.stdout is not None, "it is a pipe"
        try:
            self._send((function, item))
            result, problem = pickle.load(self.process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            self.process.kill()
            raise WorkerDiedError(self.process.wait()) from None
        if problem is not None:
            raise RuntimeError(f"A worker process must not fail, but has failed:\n{problem}")
        answer: Result = result
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None, "both are pipes"
            with contextlib.suppress(BrokenPipeError):  # what it has not read
                stream.close()


def serve() -> None:
    """Answers `WorkerProcesses` in a worker process, until the other process closes the pipe or has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not be mistaken for an answer
    while True:
        answer: tuple[Any, str | None]
        try:
            function, item = pickle.load(requests)
            answer = function(item), None
        except EOFError:
            return
        except Exception:  # any error of the function is one of the caller
            answer = None, traceback.format_exc()
        try:
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # without the message of a failed flush
