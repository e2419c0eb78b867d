"""Runs that are interrupted and resumed compute the same as uninterrupted ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tests.contracts.tiny import audio_batch
from tests.modules.test_runs import noisy_model
from tests.modules.training import MODELS, make_trainer
from w2vlab.callbacks import CodebookHealth, RunCheckpoint, RunReport, ValidateFirst
from w2vlab.callbacks.fault_tolerance.stopping import Stopped, StoppedAtOnce
from w2vlab.data import WholeUpdates
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.modules.checkpoints.resuming import LAYOUT, _adapt_to_layout, _loops_at, _resume_point_in
from w2vlab.optim import PolynomialSchedule
from w2vlab.types import AudioBatch
from w2vlab.utils.resume_point import ResumePoint, resume_point, validates_at

EPOCH = 3
"""Updates per epoch."""

UPDATES = 7


class Places(Sampler[tuple[int, int]]):
    """Yields (epoch, number) of each micro-batch, as the sampler of the data module does."""

    def __init__(self, place: tuple[int, int], size: int) -> None:
        self.epoch, self.start = place
        self.size = size

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        yield from ((epoch, number) for number in range(self.start, self.size))


class Audio(Dataset[AudioBatch]):
    def __getitem__(self, place: tuple[int, int]) -> AudioBatch:
        return audio_batch((400, 400), first=100 * place[0] + 2 * place[1])


class Data(pl.LightningDataModule):
    """Different audio in each epoch; as with the data module, the number of batches is not known in advance."""

    def __init__(self, micro_batches: int) -> None:
        super().__init__()
        self.micro_batches = micro_batches
        self.place = (0, 0)

    def train_dataloader(self) -> WholeUpdates:
        loader = DataLoader(Audio(), sampler=Places(self.place, self.micro_batches), batch_size=None)
        return WholeUpdates(loader, self.trainer.accumulate_grad_batches)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Audio(), sampler=Places((50, 0), 2), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        epoch, number = resume_point(self.trainer).ahead
        return {"epoch": epoch, "number": number}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.place = (state_dict["epoch"], state_dict["number"])


class Watch(pl.Callback):
    """Records losses and learning rates by update, and stops the run.

    Args:
        hook: Hook in which to stop; by default the run is not stopped.
        calls: Call of the hook at which to stop, counted from 1 since the start of training.
        error: Builds the exception that stops the run.
    """

    def __init__(
        self, hook: str = "", calls: int = 0, error: Callable[[], BaseException] = lambda: Stopped(15)
    ) -> None:
        self.losses: dict[tuple[int, tuple[str, ...]], float] = {}
        self.rates: dict[int, float] = {}
        self.logged: dict[int, int] = {}
        self.validations: list[tuple[int, int]] = []
        self.update = 0
        self.calls = calls
        self.error = error
        self.finished = False
        if hook:
            setattr(self, hook, partial(self.stop, getattr(self, hook)))

    def stop(self, hook: Callable[..., None], trainer: pl.Trainer, *arguments: Any) -> None:
        hook(trainer, *arguments)
        if not trainer.sanity_checking:
            self.calls -= 1
        if self.calls == 0:
            raise self.error()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.update = trainer.global_step
        self.rates[self.update] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses[self.update, batch.ids] = outputs["loss"].item()
        self.logged[self.update] = trainer.fit_loop.epoch_loop._batches_that_stepped

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        self.validations.append((trainer.global_step, trainer.fit_loop.epoch_loop._batches_that_stepped))


def build(cls: type[PretrainingModule]) -> PretrainingModule:
    torch.seed()  # a new process has another random state
    model = noisy_model(cls)
    model.make_scheduler = partial(PolynomialSchedule, warmup_updates=4, total_updates=20)
    return model


def run(
    model: PretrainingModule, folder: Path, watch: Watch, accumulate: int = 1, first: bool = False, **options: Any
) -> PretrainingModule:
    """Trains until the end or the stop; resumes from the last checkpoint in `folder` if it exists."""
    checkpoint = RunCheckpoint(every=1, dirpath=folder, save_top_k=0)
    defaults = {"updates": UPDATES, "check_val_every_n_epoch": None, "val_check_interval": 2 * accumulate}
    trainer = make_trainer(
        accumulate=accumulate,
        callbacks=[watch, checkpoint, *([ValidateFirst()] if first else [])],
        enable_checkpointing=True,
        **defaults | options,
    )
    with suppress(SystemExit):
        trainer.fit(model, datamodule=Data(EPOCH * accumulate), ckpt_path=last_of(folder))
        watch.finished = True
    return model


def last_of(folder: Path) -> Path | None:
    return path if (path := folder / "last.ckpt").exists() else None


def read(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.ckpt", weights_only=True)


def run_in_pieces(
    make_model: Callable[[], PretrainingModule],
    folder: Path,
    make_watch: Callable[[], Watch],
    accumulate: int,
    **options: Any,
) -> tuple[list[Watch], PretrainingModule]:
    pieces: list[Watch] = []
    while True:
        pieces.append(make_watch())
        model = run(make_model(), folder, pieces[-1], accumulate, **options)
        if pieces[-1].finished:
            return pieces, model
        assert len(pieces) < 20, "the run makes no progress"


def assert_same(pieces: list[Watch], model: PretrainingModule, whole: Watch, expected: PretrainingModule) -> None:
    """Updates that were computed twice must be equal, too."""
    for piece in pieces:
        assert piece.losses.items() <= whole.losses.items()
        assert piece.rates.items() <= whole.rates.items()
        assert piece.logged.items() <= whole.logged.items()
    assert {key for piece in pieces for key in piece.losses} == whole.losses.keys()
    for (name, first), second in zip(expected.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(first, second), name


EPOCH_END = {"check_val_every_n_epoch": 1, "val_check_interval": 1.0}

STOPS: dict[str, tuple[type[PretrainingModule], int, str, int, dict[str, Any]]] = {
    "every update": (FuturePrediction, 1, "on_train_batch_end", 1, {}),
    "after an update": (FuturePrediction, 1, "on_train_batch_start", 2, {}),
    "mid-accumulation": (MaskedPrediction, 3, "on_train_batch_end", 4, {}),
    "mid-accumulation, next": (FuturePrediction, 3, "on_train_batch_start", 6, {}),
    "validation": (MaskedPrediction, 1, "on_validation_batch_start", 4, {}),
    "validation of an epoch": (FuturePrediction, 2, "on_validation_start", 2, EPOCH_END),
    "epoch": (FuturePrediction, 2, "on_train_epoch_end", 1, EPOCH_END),
    "next epoch": (FuturePrediction, 2, "on_train_epoch_start", 2, {}),
    "limited epoch": (FuturePrediction, 1, "on_train_batch_end", 2, {"limit_train_batches": 2}),
    "limited epoch, validated": (FuturePrediction, 1, "on_train_batch_end", 2, {"limit_train_batches": 2, **EPOCH_END}),
    "float64": (MaskedPrediction, 1, "on_train_batch_end", 3, {"precision": "64-true"}),
    "epochs, not updates": (FuturePrediction, 1, "on_train_batch_end", 1, {"updates": -1, "max_epochs": 2}),
}


@pytest.mark.parametrize("stop", STOPS)
def test_stopped_runs_equal_an_uninterrupted_run(stop: str, tmp_path: Path) -> None:
    cls, accumulate, hook, calls, options = STOPS[stop]
    updates = EPOCH * options["max_epochs"] if "max_epochs" in options else UPDATES
    whole = Watch()
    expected = run(build(cls), tmp_path / "whole", whole, accumulate, **options)
    pieces, model = run_in_pieces(
        lambda: build(cls), tmp_path / "pieces", lambda: Watch(hook, calls), accumulate, **options
    )
    assert len(pieces) > 1
    assert_same(pieces, model, whole, expected)
    # Each validation ran once, and was logged at the same update.
    assert [validation for piece in pieces for validation in piece.validations] == whole.validations
    assert len(whole.losses) == updates * accumulate
    assert len(set(whole.losses.values())) == len(whole.losses)


@pytest.mark.parametrize("cls", MODELS, ids=lambda cls: cls.__name__)
def test_killed_runs_equal_an_uninterrupted_run(cls: type[PretrainingModule], tmp_path: Path) -> None:
    """Nothing is saved on exit, so the updates since the last checkpoint are repeated."""
    whole = Watch()
    expected = run(build(cls), tmp_path / "whole", whole, 2)
    pieces, model = run_in_pieces(
        lambda: build(cls), tmp_path / "pieces", lambda: Watch("on_train_batch_end", 5, StoppedAtOnce), 2
    )
    assert_same(pieces, model, whole, expected)
    assert {update for piece in pieces for update in piece.validations} == set(whole.validations)


@pytest.mark.parametrize(
    ("accumulate", "options"),
    [
        (1, {"limit_val_batches": 0}),
        (1, {"check_val_every_n_epoch": 2}),
        (1, {"val_check_interval": 2}),
        (1, {"check_val_every_n_epoch": None, "val_check_interval": 2}),
        (2, {"val_check_interval": 4}),
    ],
    ids=["none", "other epochs", "within epochs", "other updates", "accumulated"],
)
def test_a_pending_validation_is_skipped_if_the_resumed_run_has_none(
    accumulate: int, options: dict[str, Any], tmp_path: Path
) -> None:
    """The following epochs are trained once, under their own numbers."""
    run(build(FuturePrediction), tmp_path, Watch("on_validation_start", 1), **EPOCH_END)
    assert place_in(read(tmp_path)) == ResumePoint(0, EPOCH, is_last=True, validation_is_due=True)
    seen: list[tuple[int, int]] = []
    watch = Watch()
    watch.on_train_batch_end = lambda trainer, module, outputs, batch, index: seen.append(
        (trainer.current_epoch, int(batch.ids[0].removeprefix("utterance-")) // 100)
    )
    run(build(FuturePrediction), tmp_path, watch, accumulate, updates=EPOCH + 5, **EPOCH_END | options)
    epochs = [1] * EPOCH * accumulate + [2] * 2 * accumulate
    assert seen == [(epoch, epoch) for epoch in epochs]


def place_in(checkpoint: dict[str, Any]) -> ResumePoint:
    return _resume_point_in(checkpoint["loops"]["fit_loop"])


@pytest.mark.parametrize(
    ("options", "validates"),
    [
        (EPOCH_END, True),
        ({"check_val_every_n_epoch": 2}, True),
        ({"check_val_every_n_epoch": 3}, False),
        ({"val_check_interval": 0.5}, True),
        ({"val_check_interval": 0.8}, False),
        ({"val_check_interval": 2}, True),
        ({"val_check_interval": 3}, False),
        ({"check_val_every_n_epoch": None, "val_check_interval": 5}, True),
        ({"check_val_every_n_epoch": None, "val_check_interval": 4}, False),
        ({"check_val_every_n_epoch": None, "val_check_interval": {"hours": 1}}, False),
        ({"limit_val_batches": 0}, False),
    ],
)
def test_validation_at_the_end_of_an_epoch_is_predicted(options: dict[str, Any], validates: bool) -> None:
    """At the end of the second epoch, of 4 micro-batches and 10 in all."""
    trainer = make_trainer(UPDATES, **options)
    model = build(FuturePrediction)
    trainer.strategy.connect(model)
    trainer._data_connector.attach_data(model, datamodule=Data(4))
    assert validates_at(ResumePoint(1, 4, is_last=True, validation_is_due=True), 10, trainer) is validates


def test_a_run_can_be_extended(tmp_path: Path) -> None:
    """`max_steps` ends a run within an epoch, which Lightning counts as its end."""
    whole = Watch()
    expected = run(build(FuturePrediction), tmp_path / "whole", whole, 2)
    pieces = [Watch() for _ in range(3)]
    for watch, updates in zip(pieces, (1, 5, UPDATES), strict=True):
        model = run(build(FuturePrediction), tmp_path / "pieces", watch, 2, updates=updates)
    assert_same(pieces, model, whole, expected)


def recursive(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.ExponentialLR:
    """Computes each learning rate from the previous one."""
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)


def test_options_are_overridden_and_optimizer_state_is_kept(tmp_path: Path) -> None:
    def changed() -> PretrainingModule:
        model = build(FuturePrediction)
        model.make_optimizer = partial(torch.optim.AdamW, lr=0.5, betas=(0.8, 0.9), weight_decay=0.25)
        model.make_scheduler = recursive
        return model

    before = build(FuturePrediction)
    before.make_optimizer = partial(torch.optim.AdamW, lr=0.001)
    run(before, tmp_path, Watch(), updates=2)
    saved = read(tmp_path)["optimizer_states"][0]
    watch = Watch("on_train_batch_start", 1)  # before the first update
    model = changed()
    trainer = make_trainer(UPDATES, callbacks=[watch])
    with pytest.raises(Stopped):
        trainer.fit(model, datamodule=Data(EPOCH), ckpt_path=last_of(tmp_path))
    (group,) = trainer.optimizers[0].param_groups
    assert group["lr"] == 0.5 * 0.9 * 0.9
    assert (group["betas"], group["weight_decay"], group["initial_lr"]) == ((0.8, 0.9), 0.25, 0.5)
    state = trainer.optimizers[0].state_dict()["state"]
    assert saved["state"].keys() == state.keys()
    assert all(torch.equal(saved["state"][key]["exp_avg"], state[key]["exp_avg"]) for key in state)


def test_a_different_optimizer_or_model_raises(tmp_path: Path) -> None:
    run(build(FuturePrediction), tmp_path, Watch(), updates=1)
    model = build(FuturePrediction)
    model.make_optimizer = partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match=r"`model.optimizer` must be \S+, as in the checkpoint, but is \S+SGD;"):
        run(model, tmp_path, Watch())
    with pytest.raises(ValueError, match=r"of the same model, but these differ: .* and \d+ more. Use the model's"):
        run(build(MaskedPrediction), tmp_path, Watch())


@pytest.mark.parametrize(
    ("before", "now", "done", "batches", "total"),
    [
        ((1, 4), (2, 2, 2), (12, 20), 6, 10),
        ((2, 2), (1, 4, 4), (12, 20), 24, 40),
        # another size of an update: of 18 micro-batches, 16 are in complete updates
        ((2, 3), (1, 4, 4), (9, 18), 16, 24),
        ((1, 4, 4), (1, 1, 4), (12, 20), 3, 5),  # all four micro-batches at once
        ((1, 2, 4), (1, 4, 4), (6, 10), 12, 20),  # two at once, then none
        ((1, 2, 4), (2, 1, 2), (6, 10), 3, 5),
    ],
)
def test_progress_is_converted_to_another_layout(
    before: tuple[int, ...], now: tuple[int, ...], done: tuple[int, int], batches: int, total: int, tmp_path: Path
) -> None:
    """Layouts are processes, batches of an update on each, and micro-batches on each, which older checkpoints lack.

    Done are the batches in this epoch and in all, such as 3 updates of 5 with (1, 4).
    """
    names = ("processes", "accumulate", "micro_batches")
    place = ResumePoint(1, done[0], is_last=False, validation_is_due=True)
    checkpoint = {
        "loops": {"fit_loop": _loops_at(place, done[1])},
        LAYOUT: dict(zip(names, before, strict=False)),
    }
    _adapt_to_layout(checkpoint, dict(zip(names, now, strict=True)))
    loops = checkpoint["loops"]["fit_loop"]
    assert loops == _loops_at(replace(place, batches=batches), total)


class WithState(pl.Callback):
    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.state}


class WithObject(WithState):
    pass


@pytest.mark.usefixtures("no_drawing")
def test_checkpoint_of_a_module_built_in_python_is_plain(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mixed = {"path": tmp_path, "number": np.float64(0.5), "row": np.arange(2), "level": IntEnum("Level", "LOW")(1)}
    trainer = make_trainer(
        1,
        callbacks=[WithState(mixed), WithObject(object()), RunReport(), CodebookHealth(every=1)],
        default_root_dir=tmp_path,
    )
    trainer.fit(build(FuturePrediction), datamodule=Data(EPOCH))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callbacks = read(tmp_path)["callbacks"]
    assert callbacks["WithState"] == {"kept": {"path": str(tmp_path), "number": 0.5, "row": [0, 1], "level": 1}}
    assert "WithObject" not in callbacks
    assert "callbacks.WithObject is not saved in checkpoints" in caplog.text
    assert len(callbacks) == 3
