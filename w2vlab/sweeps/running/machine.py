"""Machines that run trials."""

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
    """One attempt to run a trial: a running command."""

    @abstractmethod
    def status(self) -> int | None:
        """Returns the exit status; None while it runs, and negative if it was ended by a signal."""

    @abstractmethod
    def stop(self) -> None:
        """Asks the command to stop; a run writes a checkpoint first."""

    @abstractmethod
    def kill(self) -> None:
        """Kills the command and its child processes."""


class Machine(ABC):
    """Runs a limited number of trials in parallel.

    Attributes:
        parallel: Maximum number of parallel trials.
    """

    parallel: int

    @abstractmethod
    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Attempt:
        """Starts a command on free resources; its output is appended to `log.txt` in `folder`."""


class LocalMachine(Machine):
    """Runs trials on this machine, each with one GPU or a share of the CPU cores.

    Args:
        devices: The GPUs, by their names for `CUDA_VISIBLE_DEVICES`; empty to use the CPU.
        parallel: Maximum number of parallel trials; None for one a GPU, or one on the CPU.
        inherited: A file descriptor that every trial keeps open.

    Raises:
        ValueError: `parallel` is more than the number of GPUs, or of CPU cores.
    """

    def __init__(self, devices: Sequence[str], parallel: int | None = None, inherited: int | None = None) -> None:
        processors = sorted(os.sched_getaffinity(0))
        available = list(devices) or processors
        self.parallel = (len(devices) or 1) if parallel is None else parallel
        if self.parallel > len(available):
            kind = "GPUs" if devices else "processors"
            raise ValueError(
                f"`parallel` must be at most the number of {kind}, {len(available)}, but is {self.parallel}: "
                "trials would wait for each other."
            )
        share = len(processors) // self.parallel
        # With GPUs, the data workers of all trials share the cores; without, each trial has separate cores.
        self._slots = [
            _Slot({"CUDA_VISIBLE_DEVICES": devices[number]}, processors)
            if devices
            else _Slot(
                {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(share)},
                processors[number * share : (number + 1) * share],
            )
            for number in range(self.parallel)
        ]
        self._inherited = () if inherited is None else (inherited,)

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Attempt:
        """Starts a command in the first free slot."""
        slot = next(slot for slot in self._slots if slot.attempt is None or slot.attempt.status() is not None)
        with (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, **slot.environment},
                pass_fds=self._inherited,
                # A separate process group, so that Ctrl-C reaches the sweep only, which stops its trials.
                start_new_session=True,
            )
        with suppress(ProcessLookupError):  # it may have ended
            os.sched_setaffinity(process.pid, slot.processors)
        slot.attempt = _LocalAttempt(process)
        return slot.attempt


class _Slot:
    """The resources of one trial."""

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
        """Sends SIGTERM to the process, which ends its child processes itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL to the process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
