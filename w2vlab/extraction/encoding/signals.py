"""How signals end an encoding: at once, because every complete shard is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.callbacks.fault_tolerance.stopping import Stopped, signal_handler


class ForwardedSignals(Callback):
    """Forwards a signal to the processes that this one has launched; Lightning's handlers are not used."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the signal handlers as they are."""
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = lambda: None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the other processes by the same signal."""
        if isinstance(exception, Stopped) and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(exception.signal)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raises `Stopped` on SIGINT, SIGTERM and SIGUSR1, in this process and not in its data workers."""
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Stopped(number)
        if number == signal.SIGTERM:  # PyTorch ends a worker by it
            os._exit(128 + number)

    with signal_handler(stop):
        yield


@contextmanager
def environment_restored() -> Iterator[None]:
    """Restores the environment, in which Lightning announces the processes that it launches."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name not in before]:
            del os.environ[name]
        os.environ.update(before)
