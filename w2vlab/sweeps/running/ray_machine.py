"""Trials on a Ray cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2vlab.sweeps.running.machine import Attempt, LocalMachine, Machine
from w2vlab.utils.messages import count

_log = logging.getLogger(__name__)

_STOP, _KILL = "stop", "kill"
"""Marker files in the folder of a trial, by which the sweep controls a process on another node."""

_POLL_SECONDS = 0.5


class RayMachine(Machine):
    """Runs trials as Ray tasks, each on a node with free GPUs or CPU cores.

    Ray only places the tasks; the sweep decides which trial is next, stopped or retried, as without Ray. The folder of
    the sweep must be on a disk that all nodes share.

    Args:
        address: Address of the cluster; `auto` for the cluster of this node, `local` to start a new one.
        parallel: Maximum number of parallel trials; None for as many as the cluster has resources for.
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial; fractions are allowed.

    Raises:
        ValueError: Ray is not installed, the cluster cannot be reached, or its resources are not sufficient.
    """

    def __init__(self, address: str, parallel: int | None = None, cpus: int = 1, gpus: float = 0) -> None:
        try:
            import ray
        except ImportError:
            raise ValueError("`ray` must be installed for a sweep on a cluster: pip install 'w2vlab[sweep]'.") from None
        self._ray: Any = ray
        try:
            self._ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
                ignore_reinit_error=True,
            )
        except (ConnectionError, RuntimeError, ValueError) as problem:
            raise ValueError(f"`ray` must be the address of a Ray cluster, but {address} is not: {problem}") from None
        resources = self._ray.cluster_resources()
        capacity = int(resources.get("GPU", 0) // gpus) if gpus else int(resources.get("CPU", 0) // cpus)
        if capacity < 1 or (parallel or 0) > capacity:
            each = f"{count(cpus, 'processor')} and {gpus:g} GPUs"
            raise ValueError(
                f"`parallel` must be at most the {count(capacity, 'trial')} of {each} that the cluster has resources "
                f"for, but is {parallel or 1}."
            )
        self.parallel = parallel or capacity
        self._run = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_run_on_node)
        self._cpus = cpus

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Attempt:
        """Submits a command to the cluster."""
        for name in (_STOP, _KILL):
            (folder / name).unlink(missing_ok=True)
        threads = {"OMP_NUM_THREADS": str(self._cpus)}
        path = {name: os.environ[name] for name in ("PYTHONPATH", "PATH", "HOME") if name in os.environ}
        task = self._run.remote(list(command), {**path, **threads, **environment}, str(folder.absolute()), os.getcwd())
        return _RayAttempt(self._ray, task, folder)


class _RayAttempt(Attempt):
    """A task of Ray."""

    def __init__(self, ray: Any, task: Any, folder: Path) -> None:
        self._ray: Any = ray
        self._task = task
        self._folder = folder

    def status(self) -> int | None:
        """Returns the exit status of the command; 1 if its node was lost."""
        done, _ = self._ray.wait([self._task], timeout=0)
        if not done:
            return None
        try:
            return int(self._ray.get(self._task))
        except self._ray.exceptions.RayError as problem:
            _log.warning("%s: the cluster lost the trial: %s", self._folder.name, str(problem).splitlines()[0])
            return 1

    def stop(self) -> None:
        """Asks the task to stop the command."""
        (self._folder / _STOP).touch()

    def kill(self) -> None:
        """Asks the task to kill the command and its child processes."""
        (self._folder / _KILL).touch()


def _run_on_node(command: list[str], environment: dict[str, str], folder: str, working_folder: str) -> int:
    """Runs a command on the node of the task until it ends, or the sweep stops it."""
    os.chdir(working_folder)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # set by Ray
    machine = LocalMachine([gpus] if gpus else [], 1)
    attempt = machine.start(command, environment, Path(folder))
    stopping = False
    while (status := attempt.status()) is None:
        if Path(folder, _KILL).exists():
            attempt.kill()
        elif not stopping and Path(folder, _STOP).exists():
            stopping = True
            attempt.stop()
        try:
            time.sleep(_POLL_SECONDS)
        except BaseException:  # the task is cancelled, or its node shuts down
            attempt.kill()
            raise
    return status
