"""Ends a run of several processes when one of them is gone."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.callbacks.process_links import DIED, DONE, ENDS, ProcessLinks
from w2vlab.types import Seconds

GRACE: Seconds = 10.0
"""How long a process may go on after another one has ended with an exception, which perhaps concerns both."""

_NEWS: Seconds = 3.0
"""How long an error waits for the news that explains it."""

_FIRST = "W2VLAB_FIRST_PROCESS"
"""Environment variable by which process 0 tells those that it starts which one it is."""

_log = logging.getLogger(__name__)


class ProcessWatch(Callback):
    """Ends this process when another one of the run has died.

    The others would wait for it: 30 minutes with gloo, and as long as the watchdog of NCCL lets them. Here they end
    at once, or after 20 seconds where a machine or its network is gone. A process that ends with an exception gives
    the others `GRACE` seconds to end with one of their own, and then they end too. Exit status 1.

    Args:
        way_on: Printed at such an end: how to resume.
    """

    def __init__(self, way_on: str | Callable[[], str] = "") -> None:
        super().__init__()
        self._way_on = way_on
        self._links: ProcessLinks | None = None
        self._process = 0
        self._set_up = self._watching = self._ending = False
        self._news: tuple[str, bool] | None = None

    def watch_start(self, trainer: Trainer) -> None:
        """Watches until `setup` connects the processes; to be called before the trainer starts any.

        Until then there is nothing to notice by: the start waits for process 0, perhaps while it fetches a corpus. A
        process that Lightning starts on the same machine ends with its parent, and the parent with it. Whoever else
        starts processes (torchrun, SLURM) watches them itself.
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
                    self._end(f"Process {index + 1} died or ended before the run had begun.")
            _silence_observer_of_lightning()
            time.sleep(0.5)

    def _watch_parent(self, parent: int) -> None:
        while not self._set_up:
            if os.getppid() != parent:
                self._end("Process 0 died or ended before the run had begun.")
            time.sleep(0.5)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Connects the processes."""
        os.environ.pop(_FIRST, None)  # what else this process starts is no part of the run
        self._set_up = True
        if trainer.world_size == 1:
            return
        self._news_came = threading.Event()  # not in the constructor, because it cannot be pickled
        self._process = trainer.global_rank
        _silence_observer_of_lightning()
        strategy: Any = trainer.strategy
        host = strategy.cluster_environment.main_address
        self._ending, self._watching = False, True
        try:
            self._links = ProcessLinks(self._process, trainer.world_size, host, strategy.broadcast, self._heard)
        except OSError as problem:
            _log.warning("Process %d will not notice the death of another one: %s", self._process, problem)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tells the others; where this is only what the end of another process looks like, ends in its words."""
        os.environ.pop(_FIRST, None)
        self._set_up = True
        if self._links is None:
            return
        # A collective that has lost a process raises a RuntimeError, often before the news of it has come.
        if isinstance(exception, RuntimeError) and self._news_came.wait(_NEWS) and self._news is not None:
            self._end(*self._news)
        self._ending = True
        self._links.say(ENDS)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Says goodbye."""
        self._watching = False
        if self._links is not None:
            self._links.say(DONE)
            self._links.close()
            self._links = None

    def _heard(self, process: int, word: str) -> None:
        if word == DONE or not self._watching or (word == ENDS and self._ending):
            return
        said_by_first = self._process != 0 != process  # who hears of all of them
        if word == DIED:
            reason = f"Process {process} of the run died: killed, perhaps for want of memory, or its machine was lost."
            patience = GRACE if self._ending else 0.2  # what process 0 passes on has to leave it
        else:
            reason = f"Process {process} of the run ended with an error; its message says which."
            patience = GRACE
        self._news = reason, said_by_first
        self._news_came.set()
        time.sleep(patience)
        if self._watching and not (word == ENDS and self._ending):
            self._end(*self._news)

    def _end(self, reason: str, quiet: bool = False) -> None:
        """Ends this process, whatever its other threads are waiting for."""
        if not _end_begun.acquire(blocking=False):
            return
        if not quiet:  # process 0 says it for all
            way_on = ""
            with suppress(Exception):  # whatever it is, this process ends
                way_on = self._way_on if isinstance(self._way_on, str) else self._way_on()
            # Straight to the file: another thread may hold the lock of the stream.
            os.write(2, f"\nerror: {reason} The other processes end too. {way_on}".rstrip().encode() + b"\n")
        os._exit(1)


_end_begun = threading.Lock()


def _silence_observer_of_lightning() -> None:
    """Takes the processes away from Lightning's observer, which would kill this process before it can say anything."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]  # then it takes all of them for done, and ends
