"""An update has the recipe's micro-batches on any number of processes, or the run logs their number."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from tests.modules.training import make_trainer
from w2vlab.cli.lightning.accumulation import resolve_accumulation
from w2vlab.data import SpeechDataModule
from w2vlab.data.batches.micro_batches import micro_batches_of_each

BASE = {"batch_seconds": 87.5, "max_seconds": 15.625, "micro_batches": 64}

ON_LONGER_EPOCHS = ["--trainer.check_val_every_n_epoch=null"]


def resolved(
    monkeypatch: pytest.MonkeyPatch, processes: int, data: dict | None = None, **options: object
) -> pl.Trainer:
    monkeypatch.setattr(pl.Trainer, "world_size", property(lambda _: processes))
    trainer = make_trainer(1, **options)
    resolve_accumulation(trainer, SpeechDataModule("none", **(BASE | (data or {}))))
    return trainer


@pytest.mark.parametrize(("processes", "each"), [(1, 64), (2, 32), (8, 8), (64, 1)])
def test_the_batch_stays_the_same(
    processes: int, each: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = resolved(monkeypatch, processes, val_check_interval=5000)
    assert trainer.accumulate_grad_batches == each
    assert trainer.val_check_interval == 5000 * each
    on = "1 process" if processes == 1 else f"{processes} processes"
    logged = f"64 micro-batches, 1.56 h nominal, on {on}: {each} accumulated by each" in caplog.text
    assert logged == (each > 1)


@pytest.mark.parametrize(("processes", "each", "size"), [(6, 11, "66 micro-batches, 1.60 h"), (100, 1, "100 .*2.43 h")])
def test_a_batch_that_cannot_be_divided_evenly_is_larger_and_logged(
    processes: int, each: int, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match=f"{size} nominal, in place of 64, 1.56 h: .* rounded up to {each} "):
        assert resolved(monkeypatch, processes).accumulate_grad_batches == each


def test_shares_of_an_epoch_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = resolved(monkeypatch, 8, val_check_interval=0.5, limit_train_batches=0.25)
    assert (trainer.val_check_interval, trainer.limit_train_batches) == (0.5, 0.25)
    assert resolved(monkeypatch, 8, limit_train_batches=10).limit_train_batches == 80


def test_without_the_option_the_trainers_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = resolved(monkeypatch, 8, {"micro_batches": None}, accumulate_grad_batches=3, val_check_interval=7)
    assert (trainer.accumulate_grad_batches, trainer.val_check_interval) == (3, 7)
    assert micro_batches_of_each(None, 3, 8) == 3


def test_both_options_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"`trainer.accumulate_grad_batches` must be left out if `data.micro_batches` is given \(64\), but is 2"
    with pytest.raises(ValueError, match=message):
        resolved(monkeypatch, 8, accumulate_grad_batches=2)


def test_a_run_counts_updates(fit: Callable[..., int], caplog: pytest.LogCaptureFixture) -> None:
    """Four updates of three micro-batches over several epochs of one process, validated after every other update."""
    assert fit("--data.micro_batches=3", "--data.batch_seconds=2", *ON_LONGER_EPOCHS) == 0
    assert "3 micro-batches, 6 s nominal, on 1 process: 3 accumulated by each" in caplog.text
    (last,) = Path().rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 12
    assert [int(path.stem.removeprefix("update-")) for path in Path().rglob("update-*.ckpt")] in ([2], [4])


@pytest.mark.parametrize(("processes", "steps", "words"), [(1, 16, "64"), (8, 2, "8"), (32, 1, "2"), (64, 1, "")])
def test_fused_micro_batches_are_batches_of_the_trainer(
    processes: int, steps: int, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer = resolved(
            monkeypatch, processes, {"fuse_seconds": 350}, val_check_interval=5000, limit_train_batches=7
        )
    assert trainer.accumulate_grad_batches == steps
    assert (trainer.val_check_interval, trainer.limit_train_batches) == (5000 * steps, 7 * steps)
    fused = f": {words} accumulated by each, up to {min(4, int(words or 1))} at once, as batches of up to"
    assert (fused in caplog.text) == bool(words)


def test_a_run_of_fused_micro_batches_counts_updates(fit: Callable[..., int], caplog: pytest.LogCaptureFixture) -> None:
    """Four updates of five micro-batches in three batches; resumed without fusing them for two more."""
    options = ["--data.micro_batches=5", "--data.batch_seconds=2", *ON_LONGER_EPOCHS]
    assert fit(*options, "--data.fuse_seconds=4") == 0
    assert "5 accumulated by each, up to 2 at once, as batches of up to 4 s" in caplog.text
    (last,) = Path().rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["global_step"] == 4
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 12
    place = next(state for name, state in checkpoint.items() if name == "SpeechDataModule")
    assert (place["micro_batches"] % 5, place["update"]) == (0, 5)


def test_accumulation_may_change_between_epochs(fit: Callable[..., int]) -> None:
    scheduler = ["GradientAccumulationScheduler", "--trainer.callbacks.scheduling={0: 1, 1: 3, 2: 2}"]
    epochs = ["--trainer.max_steps=-1", "--trainer.max_epochs=3", "--trainer.val_check_interval=1.0"]
    assert fit(f"--trainer.callbacks+={scheduler[0]}", scheduler[1], *epochs) == 0
    (last,) = Path().rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    total = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"]
    each, rest = divmod(total, 3)
    assert rest == 0
    assert checkpoint["global_step"] == each + math.ceil(each / 3) + math.ceil(each / 2)


@pytest.mark.parametrize(("interval", "warned"), [(100, True), (1, False)])
@pytest.mark.parametrize("data", [["--data.micro_batches=1"], []])
def test_epochs_too_short_for_a_validation_warn(
    data: list[str], interval: int, warned: bool, fit: Callable[..., int]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*data, f"--trainer.val_check_interval={interval}", "--trainer.max_steps=-1", "--trainer.max_epochs=2")
    messages = [str(warning.message) for warning in caught if "there will be no validation" in str(warning.message)]
    assert len(messages) == warned
    if warned:
        assert "`trainer.val_check_interval` is 100 updates, but an epoch has 5" in messages[0]
