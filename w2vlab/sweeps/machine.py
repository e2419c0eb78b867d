"""Where trials run."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from w2vlab.sweeps.trial import LOG


class Attempt(ABC):
    """A command that runs."""

    @abstractmethod
    def status(self) -> int | None:
        """Returns the exit status; None while it runs, and less than 0 where a signal ended it."""

    @abstractmethod
    def stop(self) -> None:
        """Asks it to end, for which a run writes a checkpoint."""

    @abstractmethod
    def kill(self) -> None:
        """Ends it at once, with all that it has started."""


class Machine(ABC):
    """Has room for so many trials at a time.

    Attributes:
        parallel: Trials at a time.
    """

    parallel: int

    @abstractmethod
    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Attempt:
        """Starts a command where there is room; what it prints is added to `log.txt` in `folder`."""


class LocalMachine(Machine):
    """This machine: a GPU or a share of the processors to each trial.

    Args:
        devices: The GPUs by the names that `CUDA_VISIBLE_DEVICES` takes; none of them for the processors.
        parallel: Trials at a time; None for one a GPU, or one on the processors.
        inherited: A descriptor that every trial keeps open.

    Raises:
        ValueError: There are more trials at a time than GPUs, or than processors.
    """

    def __init__(self, devices: Sequence[str], parallel: int | None = None, inherited: int | None = None) -> None:
        processors = sorted(os.sched_getaffinity(0))
        there = list(devices) or processors
        self.parallel = (len(devices) or 1) if parallel is None else parallel
        if self.parallel > len(there):
            kind = "GPUs" if devices else "processors"
            raise ValueError(
                f"`parallel` must be at most the number of {kind}, {len(there)}, but is {self.parallel}: "
                "trials would wait for each other."
            )
        share = len(processors) // self.parallel
        # Of a GPU, the processes that read audio may run anywhere; without one, each trial has processors of its own.
        self._places = [
            _Place({"CUDA_VISIBLE_DEVICES": devices[number]}, processors)
            if devices
            else _Place(
                {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(share)},
                processors[number * share : (number + 1) * share],
            )
            for number in range(self.parallel)
        ]
        self._inherited = () if inherited is None else (inherited,)

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Attempt:
        """Starts a command on the first place that is free."""
        place = next(place for place in self._places if place.attempt is None or place.attempt.status() is not None)
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, **place.environment},
                pass_fds=self._inherited,
                # A group of its own: what is typed at the terminal is the sweep's to pass on.
                start_new_session=True,
            )
        with suppress(ProcessLookupError):  # it may have ended
            os.sched_setaffinity(process.pid, place.processors)
        place.attempt = _LocalAttempt(process)
        return place.attempt


class _Place:
    """Room for one trial."""

    def __init__(self, environment: dict[str, str], processors: list[int]) -> None:
        self.environment = environment
        self.processors = processors
        self.attempt: Attempt | None = None


class _LocalAttempt(Attempt):
    """A process on this machine and its children."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def status(self) -> int | None:
        """Returns the exit status."""
        return self._process.poll()

    def stop(self) -> None:
        """Sends SIGTERM to the process, which ends its children itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to the process and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
