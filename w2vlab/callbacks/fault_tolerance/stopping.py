"""Stopping a run by a signal, so that it can be resumed from the same update."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from w2vlab.utils.distributed import is_distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any]


class Stopped(SIGTERMException):
    """A signal ended the run.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.status = 128 + number  # the convention of shells
        super().__init__(self.status)


class StoppedAtOnce(KeyboardInterrupt):
    """A second Ctrl-C: the run ends without saving."""


@contextmanager
def signal_handler(handler: Handler) -> Iterator[None]:
    """Installs `handler` for the signals that stop a run, and restores the previous handlers at the end."""
    previous = install_handler(handler)
    try:
        yield
    finally:
        restore_handlers(previous)


def install_handler(handler: Handler) -> dict[signal.Signals, Any]:
    """Installs `handler` for the signals that stop a run, except for signals that are ignored (`SIG_IGN`).

    Returns:
        The previous handlers, for `restore_handlers`; empty outside of the main thread, which alone can set handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    previous = {number: current for number, current in previous.items() if current != signal.SIG_IGN}
    for number in previous:
        signal.signal(number, handler)
    return previous


def restore_handlers(previous: dict[signal.Signals, Any]) -> None:
    """Restores the handlers that `install_handler` replaced."""
    for number, handler in previous.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Ends a run before training has started.

    Raises:
        Stopped: Always.
    """
    raise Stopped(number)


def _do_nothing() -> None:
    pass


class GracefulStop(Callback):
    """Stops training on SIGINT (Ctrl-C), SIGTERM and SIGUSR1 after a complete micro-batch, so that it can be saved.

    A single process stops after the current micro-batch of training or validation; several processes agree on the stop
    once an update. The exit status gives the signal: 130, 143 or 138. Before training starts, a signal ends the run at
    once, and so does a second Ctrl-C.

    Lightning's signal handlers are not used, because they start a collective operation at an arbitrary point of a
    process, and requeue SLURM jobs without being asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._training_started = False
        self._received = 0
        self._agreed = 0  # the signal that all processes stop for
        self._updates = 0
        self._agreement = _SignalAgreement()

    @property
    def received(self) -> bool:
        """Whether a signal to stop has been received."""
        return bool(self._received)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Installs the signal handlers."""
        if stage != TrainerFn.FITTING:
            return
        self._reset()
        # Lightning has no option to disable these. The second one synchronises with the device in every micro-batch.
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = _do_nothing
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = _do_nothing
        self._previous_handlers = self._previous_handlers or install_handler(self._on_signal)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the previous signal handlers."""
        restore_handlers(self._previous_handlers)
        self._previous_handlers = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Forwards the signal to processes that this one has launched, if training has not started yet.

        The handlers stay installed, so that only a second Ctrl-C can interrupt the saving of `last.ckpt`.
        """
        if isinstance(exception, Stopped) and not self._training_started and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(exception.signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._on_signal_in_worker(number)
            return
        if not self._training_started:
            stop_at_once(number, frame)
        if self._received and number == signal.SIGINT:
            raise StoppedAtOnce
        if not self._received:
            self._received = number
            # `os.write`, because buffered streams and loggers are not safe in a signal handler.
            os.write(2, f"\n{signal.Signals(number).name}: stopping and saving; Ctrl-C again ends at once.\n".encode())

    def _on_signal_in_worker(self, number: int) -> None:
        """Ignores the first signal in a forked data worker, because the batches of the worker are still needed.

        PyTorch ends a worker by SIGTERM, and Python by a second one, so that SIGTERM has its default effect next time.
        """
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks training as started; from here on, a stop saves."""
        self._training_started = True
        self._updates = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether to stop, once an update if there are several processes."""
        if trainer.world_size == 1 or trainer.global_step != self._updates:
            self._updates = trainer.global_step
            self._agree(pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Decides whether to stop; all processes validate on the same number of batches."""
        if self._training_started:
            self._agree(pl_module)

    def _agree(self, pl_module: LightningModule) -> None:
        self._agreed = self._agreed or self._agreement.all_reduce_max(self._received, pl_module.device)

    # The run stops at the next hook, because Lightning writes the logs of a micro-batch after its last hook.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops if all processes have agreed."""
        self._stop_if_agreed()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops if all processes have agreed."""
        self._stop_if_agreed()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stops if all processes have agreed."""
        self._stop_if_agreed()

    def _stop_if_agreed(self) -> None:
        if self._agreed:
            raise Stopped(self._agreed)


class _SignalAgreement:
    """All-reduce of the received signals; on a GPU it returns the result of the last call, to avoid synchronisation."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def all_reduce_max(self, received: int, device: torch.device) -> int:
        if not is_distributed():
            return received
        number = torch.full((), received, dtype=torch.int32, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        if device.type != "cuda":
            return int(number)
        host = torch.empty((), dtype=torch.int32, pin_memory=True)
        host.copy_(number, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        previous, self._pending = self._pending, (host, event)
        if previous is None:
            return 0
        previous[1].synchronize()
        return int(previous[0])
