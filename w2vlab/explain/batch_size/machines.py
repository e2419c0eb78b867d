"""Where trials run: on a GPU in this process, on a CPU in one that may run out of memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from w2vlab.explain.batch_size.cost_model import BatchShape
from w2vlab.explain.batch_size.fitting_memory import OutOfMemory
from w2vlab.explain.batch_size.steps import TrialSettings, run_updates
from w2vlab.types import RunError, Seconds

_POLL_SECONDS = 0.02

Result = TypeVar("Result")


@dataclass(frozen=True)
class Updates:
    """Measurements of some updates.

    Attributes:
        times: Time of a micro-batch of each update, in seconds.
        peak: Peak of the memory, in bytes.
    """

    times: list[Seconds]
    peak: int


class Machine(ABC):
    """Computes updates and measures them.

    Args:
        settings: How updates are computed.
        memory: Most memory that they may take, in bytes.
    """

    searches: bool
    """Whether batches are tried until memory runs out; otherwise memory is extrapolated from small batches."""

    def __init__(self, settings: TrialSettings, memory: int) -> None:
        self.settings = settings
        self.memory = memory

    @abstractmethod
    def run(self, shapes: Sequence[BatchShape], on_update: Callable[[float], None] = lambda steps: None) -> Updates:
        """Computes one update of each shape, in turn.

        Args:
            shapes: Shape of the micro-batches of each update.
            on_update: Called with 1 after each update.

        Raises:
            OutOfMemory: They take more than `memory`.
            RunError: The process that computes them has ended.
        """

    def call(self, function: Callable[[Callable[[float], None]], Result], advance: Callable[[float], None]) -> Result:
        """Computes a function where updates are computed.

        Args:
            function: It gets a function that shows progress, which it may call with numbers. On a CPU, it and what it
                returns are pickled.
            advance: Called with these numbers.

        Raises:
            OutOfMemory: It takes more than `memory`.
            RunError: The process that computes it has ended.
        """
        return function(advance)


class GpuMachine(Machine):
    """Computes updates in this process. PyTorch's allocator is limited to `memory`, so batches above it fail."""

    searches = True

    def __init__(self, settings: TrialSettings, memory: int, device: torch.device) -> None:
        super().__init__(settings, memory)
        total = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction(min(memory / total, 1.0), device)
        self._model = settings.build_model()

    def run(self, shapes: Sequence[BatchShape], on_update: Callable[[float], None] = lambda steps: None) -> Updates:
        """Computes one update of each shape, in turn."""
        times: list[Seconds] = []

        def record(seconds: Seconds) -> None:
            times.append(seconds)
            on_update(1)

        return Updates(times, run_updates(self.settings, self._model, shapes, record))


class CpuMachine(Machine):
    """Computes updates in a new process, which is ended when its resident memory exceeds `memory`.

    The process is forked from a server that has imported PyTorch, because the import takes longer than many trials. A
    fork of this process could not compute gradients if this one has: autograd's threads do not survive a fork.
    """

    searches = False

    def run(self, shapes: Sequence[BatchShape], on_update: Callable[[float], None] = lambda steps: None) -> Updates:
        """Computes one update of each shape, in turn."""
        times: list[Seconds] = []

        def record(seconds: Seconds) -> None:
            times.append(seconds)
            on_update(1)

        _, peak = self._in_child(partial(_run_updates, self.settings, shapes), record)
        return Updates(times, peak)

    def call(self, function: Callable[[Callable[[float], None]], Result], advance: Callable[[float], None]) -> Result:
        """Computes a function in a new process."""
        return self._in_child(function, advance)[0]

    def _in_child(
        self, function: Callable[[Callable[[float], None]], Result], on_number: Callable[[float], None]
    ) -> tuple[Result, int]:
        """Computes a function in a new process, and receives the numbers that it sends.

        Returns:
            What it returns; and the peak of the memory, in bytes.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *self._modules()])  # has an effect before the first process only
        reader, writer = context.Pipe(duplex=False)
        child = context.Process(target=_compute, args=(function, writer), daemon=True)
        child.start()
        writer.close()
        try:
            while True:
                if reader.poll(_POLL_SECONDS):
                    try:
                        message = reader.recv()
                    except EOFError:
                        break
                    if isinstance(message, Exception):
                        raise message
                    if isinstance(message, tuple):  # the last one
                        result, peak = message
                        if peak > self.memory:
                            raise OutOfMemory(f"{peak} bytes")
                        return result, peak
                    on_number(message)
                elif (used := _resident_bytes(child.pid)) > self.memory:
                    raise OutOfMemory(f"{used} bytes")
            child.join()
        finally:
            child.kill()
            child.join()
            reader.close()
        if child.exitcode == -signal.SIGKILL:
            raise OutOfMemory("killed by the system")
        raise RunError(f"The process of a trial has ended with status {child.exitcode}.")

    def _modules(self) -> list[str]:
        """Returns the modules of the functions that a trial calls."""
        builders = (self.settings.build_model, self.settings.build_callbacks)
        return [getattr(builder, "func", builder).__module__ for builder in builders]


def _run_updates(settings: TrialSettings, shapes: Sequence[BatchShape], send: Callable[[float], None]) -> None:
    run_updates(settings, settings.build_model(), shapes, send)


def _compute(function: Callable[[Callable[[float], None]], Any], writer: Connection) -> None:
    """Computes a function in the child; sends its numbers, and then what it returns with the peak of the memory."""
    for number in (signal.SIGINT, signal.SIGUSR1):  # the terminal sends them to all of its processes
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(OSError):  # if memory runs out, the system ends this process and no other
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    last: Any
    try:
        last = (function(writer.send), _peak_bytes())
    except Exception as problem:
        problem.add_note(traceback.format_exc())
        last = problem
    try:
        writer.send(last)
    except Exception:  # it cannot be pickled
        writer.send(RunError(f"{type(last).__name__}: {last}"))
    writer.close()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _resident_bytes(pid: int | None) -> int:
    """Returns the resident memory of a process; 0 if the system does not show it."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
