"""Ending a run from outside, such that it can go on where it was."""

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

from w2vlab.distributed import is_distributed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], Any]


class Stopped(SIGTERMException):
    """A signal ended the run.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.status = 128 + number  # as shells give it
        super().__init__(self.status)


class StoppedAtOnce(KeyboardInterrupt):
    """Ctrl-C was pressed again, by somebody who does not want to wait for anything."""


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Has `handler` called for the signals that stop a run; what the system was told to ignore stays ignored."""
    before = install(handler)
    try:
        yield
    finally:
        restore(before)


def install(handler: Handler) -> dict[signal.Signals, Any]:
    """Does so until `restore` is given what this returns; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handled for number, handled in before.items() if handled != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    return before


def restore(before: dict[signal.Signals, Any]) -> None:
    """Puts back the handlers that `install` replaced."""
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Ends a run that has nothing to lose yet.

    Raises:
        Stopped: Always.
    """
    raise Stopped(number)


def _do_nothing() -> None:
    pass


class GracefulStop(Callback):
    """Ends training on SIGINT (Ctrl-C), SIGTERM and SIGUSR1 behind a whole micro-batch, so that it can be saved.

    A single process stops behind the micro-batch at hand, of training or of validation; several agree once an update
    on where to. The exit status says which signal it was: 130, 143 or 138. Before training begins, a signal ends the
    run at once, and so does a second Ctrl-C.

    Lightning's own handlers are not used: theirs start a collective operation wherever a process happens to be, and
    requeue jobs by themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[signal.Signals, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._begun = False
        self._received = 0
        self._stop = 0  # the signal that all processes stop for
        self._updates = 0
        self._agreement = _Agreement()

    @property
    def received(self) -> bool:
        """Whether a signal has come that asks for the end."""
        return bool(self._received)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the signals over."""
        if stage != TrainerFn.FITTING:
            return
        self._reset()
        # There is no option for either. The second waits for the device in every micro-batch.
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = _do_nothing
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = _do_nothing
        self._before = self._before or install(self._receive)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        restore(self._before)
        self._before = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Passes the signal on to processes that this one started, where they do not agree yet.

        The signals are not given back: nothing must disturb the saving of the last state, but a second Ctrl-C.
        """
        if isinstance(exception, Stopped) and not self._begun and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(exception.signal)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            self._receive_in_worker(number)
            return
        if not self._begun:
            stop_at_once(number, frame)
        if self._received and number == signal.SIGINT:
            raise StoppedAtOnce
        if not self._received:
            self._received = number
            # Nothing else can be written to safely, wherever the signal came.
            os.write(2, f"\n{signal.Signals(number).name}: stopping and saving; Ctrl-C ends at once.\n".encode())

    def _receive_in_worker(self, number: int) -> None:
        """Lets a forked process that reads data outlive a signal to the whole group, as its batches are still needed.

        PyTorch itself ends one, if it must, by SIGTERM, and Python by another.
        """
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to save."""
        self._begun = True
        self._updates = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decides whether to stop."""
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
        if self._begun:
            self._agree(pl_module)

    def _agree(self, pl_module: LightningModule) -> None:
        self._stop = self._stop or self._agreement.highest(self._received, pl_module.device)

    # What is logged of a micro-batch is written after its last hook, so the run stops at the next hook that there is.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops if that was decided."""
        self._stop_if_agreed()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops if that was decided."""
        self._stop_if_agreed()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stops if that was decided."""
        self._stop_if_agreed()

    def _stop_if_agreed(self) -> None:
        if self._stop:
            raise Stopped(self._stop)


class _Agreement:
    """The highest of the numbers that processes have; on a GPU that of the call before, which nobody waits for."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def highest(self, mine: int, device: torch.device) -> int:
        if not is_distributed():
            return mine
        number = torch.full((), mine, dtype=torch.int32, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        if device.type != "cuda":
            return int(number)
        host = torch.empty((), dtype=torch.int32, pin_memory=True)
        host.copy_(number, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        before, self._pending = self._pending, (host, event)
        if before is None:
            return 0
        before[1].synchronize()
        return int(before[0])
