"""Ends all processes of a run when one of them has died."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.callbacks.fault_tolerance.process_links import DIED, DONE, FAILED, ProcessLinks
from w2vlab.types import Seconds

GRACE: Seconds = 10.0
"""How long a process may run after another one has ended with an exception, because it may raise the same one."""

_STATUS_TIMEOUT: Seconds = 3.0
"""How long an exception waits for a status message that another process has died, which would explain it."""

_FIRST = "W2VLAB_FIRST_PROCESS"
"""Environment variable with the process ID of process 0, for the processes that it starts."""

_log = logging.getLogger(__name__)


class ProcessWatch(Callback):
    """Ends this process with exit status 1 when another process of the run has died.

    Otherwise a collective would block the remaining processes: 30 minutes with gloo, and until the timeout of NCCL's
    watchdog. Here they end at once, or after 20 seconds if a machine or its network has failed. After a process has
    raised an exception, the others have `GRACE` seconds to raise theirs, and then they end too.

    Args:
        way_on: How to resume; printed when the process is ended.
    """

    def __init__(self, way_on: str | Callable[[], str] = "") -> None:
        super().__init__()
        self._resume_hint = way_on
        self._links: ProcessLinks | None = None
        self._process = 0
        self._set_up = self._watching = self._ending = False
        self._failure: tuple[str, bool] | None = None

    def watch_start(self, trainer: Trainer) -> None:
        """Watches the start-up until `setup` connects the processes; call it before the trainer starts any.

        During start-up, processes wait for process 0, which may be downloading a corpus. Processes that Lightning
        starts on the same machine end with their parent, and the parent ends with them. Other launchers (torchrun,
        SLURM) watch their processes themselves.
        """
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.environ[_FIRST] = str(os.getpid())
            threading.Thread(target=self._watch_children, args=(trainer,), daemon=True).start()
        elif first := os.environ.get(_FIRST):
            threading.Thread(target=self._watch_parent, args=(int(first),), daemon=True).start()

    def _watch_children(self, trainer: Trainer) -> None:
        launcher: Any = trainer.strategy.launcher
        while not self._set_up:
            for index, child in enumerate(getattr(launcher, "procs", ())):
                if child.poll():
                    self._end_process(f"Process {index + 1} died or ended before the run had started.")
            _disable_lightning_observer()
            time.sleep(0.5)

    def _watch_parent(self, parent: int) -> None:
        while not self._set_up:
            if os.getppid() != parent:
                self._end_process("Process 0 died or ended before the run had started.")
            time.sleep(0.5)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the processes."""
        os.environ.pop(_FIRST, None)  # other processes that this one starts do not belong to the run
        self._set_up = True
        if trainer.world_size == 1:
            return
        self._failure_received = threading.Event()  # not in the constructor, because it cannot be pickled
        self._process = trainer.global_rank
        _disable_lightning_observer()
        strategy: Any = trainer.strategy
        host = strategy.cluster_environment.main_address
        self._ending, self._watching = False, True
        try:
            self._links = ProcessLinks(self._process, trainer.world_size, host, strategy.broadcast, self._on_status)
        except OSError as problem:
            _log.warning("Process %d cannot detect the death of another process: %s", self._process, problem)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Announces the failure; if the exception follows from the death of another process, reports that instead."""
        os.environ.pop(_FIRST, None)
        self._set_up = True
        if self._links is None:
            return
        # A collective without one of its processes raises a RuntimeError, often before the status message arrives.
        if isinstance(exception, RuntimeError) and self._failure_received.wait(_STATUS_TIMEOUT) and self._failure:
            self._end_process(*self._failure)
        self._ending = True
        self._links.announce(FAILED)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Announces that this process has finished, and closes the connections."""
        self._watching = False
        if self._links is not None:
            self._links.announce(DONE)
            self._links.close()
            self._links = None

    def _on_status(self, process: int, status: str) -> None:
        if status == DONE or not self._watching or (status == FAILED and self._ending):
            return
        quiet = self._process != 0 != process  # process 0 gets the same status, and prints it
        if status == DIED:
            reason = f"Process {process} of the run died: killed, perhaps out of memory, or its machine has failed."
            delay = GRACE if self._ending else 0.2  # time for process 0 to forward the status
        else:
            reason = f"Process {process} of the run ended with an error; see its message."
            delay = GRACE
        self._failure = reason, quiet
        self._failure_received.set()
        time.sleep(delay)
        if self._watching and not (status == FAILED and self._ending):
            self._end_process(*self._failure)

    def _end_process(self, reason: str, quiet: bool = False) -> None:
        """Ends this process, even if its other threads are blocked."""
        if not _end_started.acquire(blocking=False):
            return
        if not quiet:
            hint = ""
            with suppress(Exception):  # the process ends in any case
                hint = self._resume_hint if isinstance(self._resume_hint, str) else self._resume_hint()
            # To the file descriptor, because another thread may hold the lock of `sys.stderr`.
            os.write(2, f"\nerror: {reason} The other processes end too. {hint}".rstrip().encode() + b"\n")
        os._exit(1)


_end_started = threading.Lock()


def _disable_lightning_observer() -> None:
    """Disables Lightning's child-process observer, which would kill this process before it can print the reason."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]  # without processes to watch, it ends
