"""Signals that end a run."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from tests.callbacks.test_callbacks import Rising, run
from tests.ddp.processes import in_two_processes
from w2vlab.callbacks import GracefulStop, RunCheckpoint
from w2vlab.callbacks.fault_tolerance.stopping import SIGNALS, Stopped, signal_handler, stop_at_once


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts in the background
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Send(Callback):
    """Sends signals to this process.

    Args:
        hook: Where.
        call: The call of it at which to, from 1.
        numbers: Which.
    """

    def __init__(self, hook: str, call: int, *numbers: int) -> None:
        self.batches = 0
        self.left = call

        def send(*_: Any, **__: Any) -> None:
            self.left -= 1
            if self.left == 0:
                for number in numbers:
                    os.kill(os.getpid(), number)

        setattr(self, hook, send)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        self.batches += 1


def last_step(folder: Path) -> int:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_run_stops_after_the_micro_batch(number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of an update, which is discarded; the logs of the last complete update are on the disk."""
    callbacks = [Send("on_after_backward", 6, number), GracefulStop(), RunCheckpoint()]
    logger = CSVLogger(tmp_path, "", "")
    with pytest.raises(Stopped) as stop:
        run(tmp_path, 3, callbacks=callbacks, logger=logger, accumulate_grad_batches=5, log_every_n_steps=1)
    assert stop.value.code == 128 + number
    assert stop.value.signal == number
    assert callbacks[0].batches == 6
    assert last_step(tmp_path) == 1
    with (tmp_path / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0"]


def test_run_stops_within_a_validation(tmp_path: Path) -> None:
    seen = []

    class Count(Callback):
        def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen.append(trainer.global_step)

    send = Send("on_validation_batch_start", 5, signal.SIGTERM)
    with pytest.raises(Stopped):
        run(tmp_path, 1, callbacks=[send, Count(), GracefulStop(), RunCheckpoint()], num_sanity_val_steps=0)
    assert seen == [10] * 5
    assert last_step(tmp_path) == 10


def test_second_control_c_ends_immediately(tmp_path: Path) -> None:
    callbacks = [Send("on_after_backward", 3, signal.SIGINT, signal.SIGINT), GracefulStop(), RunCheckpoint()]
    with pytest.raises(SystemExit):
        run(tmp_path, 1, callbacks=callbacks)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_further_signals_do_not_interrupt_saving(tmp_path: Path) -> None:
    """A scheduler warns by SIGUSR1, and soon after sends SIGTERM."""
    callbacks = [
        Send("on_after_backward", 3, signal.SIGUSR1, signal.SIGTERM),
        Send("on_exception", 1, signal.SIGTERM, signal.SIGTERM),
        GracefulStop(),
        RunCheckpoint(),
    ]
    with pytest.raises(Stopped, match="138"):
        run(tmp_path, 1, callbacks=callbacks)
    assert last_step(tmp_path) == 3


@pytest.mark.parametrize("hook", ["on_fit_start", "on_validation_batch_start"])
def test_signal_before_training_ends_immediately(hook: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="143"):
        run(tmp_path, 1, callbacks=[Send(hook, 1, signal.SIGTERM), GracefulStop(), RunCheckpoint()])
    assert not (tmp_path / "checkpoints").exists()


def test_handlers_are_restored_and_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    run(tmp_path, 1, callbacks=[GracefulStop(), RunCheckpoint()])
    assert {number: signal.getsignal(number) for number in SIGNALS} == before

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signal_handler(stop_at_once):
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        with pytest.raises(Stopped, match="143"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]


def test_data_worker_ignores_the_first_signal_to_the_group(tmp_path: Path) -> None:
    """It is forked with the handlers, and its batches are still needed; a second signal ends it."""
    stop = GracefulStop()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[stop])
    stop.setup(trainer, Rising(), "fit")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        os.write(writer, b"alive")
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.read(reader, 5) == b"alive"
    assert os.WTERMSIG(status) == signal.SIGTERM
    stop.teardown(trainer, Rising(), "fit")


def stop_one_of_two(folder: Path) -> dict[str, Any]:
    """The second process gets a signal in the middle of an update."""
    rank = torch.distributed.get_rank()
    send = Send("on_after_backward", 3 if rank == 1 else 0, signal.SIGUSR1)
    callbacks = [send, GracefulStop(), RunCheckpoint(dirpath=folder / "checkpoints")]
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        accumulate_grad_batches=2,
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(Rising(), DataLoader(torch.ones(20, 3)))
    except Stopped as stop:
        return {"status": stop.status, "update": trainer.global_step, "batches": send.batches}
    return {}


def test_processes_agree_on_the_update_to_stop_at(tmp_path: Path) -> None:
    first, second = in_two_processes(stop_one_of_two, tmp_path)
    assert first == second == {"status": 138, "update": 2, "batches": 4}
    assert last_step(tmp_path) == 2
