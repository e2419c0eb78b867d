"""Tasks that several processes do, with their progress, and that end with the process that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, suppress
from multiprocessing.sharedctypes import Synchronized
from typing import Any, TypeVar

from w2vlab.types import RunError

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[float], None]

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1

_done: Any = None
"""In a worker: the sum of what its functions have reported, shared with the other processes."""


def run_tasks(
    function: Callable[[Task, Advance], Result],
    tasks: Sequence[Task],
    processes: int,
    progress: AbstractContextManager[Advance],
) -> Iterator[Result]:
    """Yields the results of tasks as they come; each is done by one process.

    Args:
        function: What to do with a task; it reports its progress by its second argument. With more than one process,
            function and tasks must be picklable.
        tasks: The tasks.
        processes: Number of processes; 1 works in this one.
        progress: Shows the progress.

    Raises:
        RunError: A process was killed.
        Exception: What the function has raised; the other processes are ended.
    """
    processes = min(processes, len(tasks))
    if processes <= 1:
        with progress as advance:
            for task in tasks:
                yield function(task, advance)
        return
    # Forked, as PyTorch's data loader does: a new process would import PyTorch for seconds. That is before a thread
    # shows the progress, because a lock that it holds would stay locked in the new process.
    context = multiprocessing.get_context("fork")
    done: Synchronized[float] = context.Value("d", 0.0)
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, context, _begin_worker, (done, os.getpid()))
    try:
        waiting: set[Future[Result]] = {pool.submit(_do, function, task) for task in tasks}
        reported = 0.0
        with progress as advance:
            while waiting:
                finished, waiting = wait(waiting, _POLL_SECONDS, FIRST_COMPLETED)
                now = done.value
                advance(now - reported)
                reported = now
                for future in finished:
                    yield future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise RunError(
            "A process that writes was killed, perhaps because the memory is full: use fewer --processes. The same "
            "command resumes."
        ) from None
    finally:
        for process in set(multiprocessing.active_children()) - before:
            process.kill()  # without effect after the shutdown; at an error, half a shard need not be completed
        pool.shutdown(wait=False, cancel_futures=True)


def _begin_worker(done: Synchronized[float], parent: int) -> None:
    global _done
    _done = done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the first one ends all
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    import torch

    torch.set_num_threads(1)


def _do(function: Callable[[Task, Advance], Result], task: Task) -> Result:
    return function(task, _advance)


def _advance(amount: float) -> None:
    with _done.get_lock():
        _done.value += amount
