"""CollapseWatchdog on real runs that collapse, and on healthy ones."""

from __future__ import annotations

import copy
import json
import logging
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tests.callbacks.diagnosis.watchdog_worker import Sabotage, train_share
from tests.callbacks.toy_runs import damaged, noise, silence, tones, toy_model
from tests.contracts.tiny import factory
from tests.ddp.processes import in_two_processes
from tests.modules.training import fit, loader, make_trainer, parameters_of
from w2vlab.callbacks import CollapseWatchdog
from w2vlab.callbacks.diagnosis.healthy_states import HealthyStates
from w2vlab.losses import CodePredictionLoss, DiversityPenalty
from w2vlab.masking import NoMasking
from w2vlab.modules import FuturePrediction, MaskedPrediction
from w2vlab.quantizers import GumbelQuantizer, IdentityQuantizer, KMeansQuantizer
from w2vlab.types import AudioBatch

K_MEANS, GUMBEL = factory(KMeansQuantizer), factory(GumbelQuantizer)
NOISELESS, CONTINUOUS = factory(GumbelQuantizer, noise=False), factory(IdentityQuantizer)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default folder of `collapse.json`."""
    monkeypatch.chdir(tmp_path)


def watch(model: Any, batches: list[AudioBatch], updates: int, watchdog: CollapseWatchdog, **options: Any) -> list[str]:
    """Trains, and returns the reported signatures in order."""
    fit(model, batches * math.ceil(updates / len(batches)), updates, callbacks=[watchdog], **options)
    return [event["signature"] for event in watchdog.events]


def watchdog(**options: Any) -> CollapseWatchdog:
    return CollapseWatchdog(**{"every": 5, "window": 50, "patience": 100, **options})


@pytest.mark.parametrize(
    ("cls", "batches", "rate", "parts", "updates", "expected"),
    [
        # Too high a rate and no penalty: each codebook is down to one code, within tens of updates.
        (MaskedPrediction, noise, 0.5, {"quantizer": K_MEANS}, 60, ["collapsed"]),
        (MaskedPrediction, noise, 3.0, {"quantizer": GUMBEL}, 60, ["collapsed"]),
        (FuturePrediction, noise, 3.0, {"quantizer": K_MEANS}, 110, ["equal_negatives", "collapsed"]),
        # Learned codes with a code prediction loss: they become easy to predict.
        (MaskedPrediction, noise, 0.5, {"quantizer": NOISELESS, "loss": CodePredictionLoss}, 70, ["few_codes"]),
        # A slow collapse: the distractors become equal first.
        (MaskedPrediction, noise, 0.1, {"quantizer": NOISELESS}, 60, ["equal_negatives"]),
        # Nothing to predict: every candidate is as likely as any other.
        (MaskedPrediction, noise, 0.01, {"quantizer": CONTINUOUS}, 105, ["uninformed"]),
        # A learning rate of 0, as early in a warm-up that is longer than the run.
        (MaskedPrediction, noise, 0.0, {"quantizer": CONTINUOUS}, 105, ["at_chance"]),
        # The context network sees the frames that it predicts.
        (MaskedPrediction, noise, 0.01, {"quantizer": CONTINUOUS, "masking": NoMasking}, 160, ["always_right"]),
        # All targets are the same.
        (MaskedPrediction, silence, 0.01, {"quantizer": CONTINUOUS}, 60, ["equal_negatives"]),
        # Every batch has a NaN sample, so that every update is skipped.
        (MaskedPrediction, partial(damaged, range(8)), 0.01, {"quantizer": CONTINUOUS}, 20, ["not_finite"]),
    ],
)
def test_runs_that_collapse(cls, batches, rate, parts, updates, expected, caplog) -> None:
    dog = watchdog()
    with caplog.at_level(logging.WARNING, logger="w2vlab"):
        reported = watch(toy_model(cls, rate, **parts), batches(), updates, dog)
    # Equal distractors may be reported before the collapse, depending on the rounding of the processor.
    assert [signature for signature in reported if signature in expected][: len(expected)] == expected
    assert reported[0] in (expected[0], "equal_negatives")
    assert f"CollapseWatchdog, update {dog.events[0]['update']}: {dog.events[0]['seen']}" in caplog.text
    assert "The run continues." in caplog.text
    assert dog.events[0]["cures"]


@pytest.mark.parametrize(
    ("cls", "parts"),
    [
        (MaskedPrediction, {"quantizer": GUMBEL, "penalties": {"diversity": partial(DiversityPenalty, weight=1.0)}}),
        (FuturePrediction, {"quantizer": CONTINUOUS}),
        (MaskedPrediction, {"quantizer": K_MEANS, "loss": CodePredictionLoss}),
    ],
)
def test_healthy_runs_have_no_reports(cls, parts, tmp_path: Path) -> None:
    dog = watchdog(patience=150)
    assert watch(toy_model(cls, 0.005, **parts), tones(), 200, dog, default_root_dir=tmp_path) == []
    assert not (tmp_path / "collapse.json").exists()


def test_all_reports_are_in_a_file(tmp_path: Path) -> None:
    dog = watchdog()
    watch(toy_model(MaskedPrediction, 0.5, quantizer=K_MEANS), noise(), 60, dog, default_root_dir=tmp_path)
    (event,) = json.loads((tmp_path / "collapse.json").read_text())["events"]
    assert event["update"] == 50
    assert event["done"] == "The run continues."
    assert "100% of the distractors equal the target" in event["seen"]
    assert {"what": "halve the learning rate, 0.5 now", "flags": "--model.optimizer.lr=0.25"} in event["cures"]


def test_a_signature_is_reported_once_and_again_only_after_recovery() -> None:
    """The quantizer is broken twice for a while, with more than a window to recover in between."""
    dog = watchdog(every=2, window=10)
    broken = Sabotage(50, until=80), Sabotage(120, until=150)
    model = toy_model(MaskedPrediction, 0.005, quantizer=GUMBEL, penalties={"d": partial(DiversityPenalty, weight=1.0)})
    fit(model, tones() * 11, 170, callbacks=[*broken, dog])
    assert [event["update"] for event in dog.events if event["signature"] == "few_codes"] == [60, 130]


def test_stopping_ends_the_run_cleanly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dog = watchdog(action="stop")
    trainer = make_trainer(500, callbacks=[dog], default_root_dir=tmp_path)
    with caplog.at_level(logging.WARNING, logger="w2vlab"):
        trainer.fit(toy_model(MaskedPrediction, 0.5, quantizer=K_MEANS), loader(noise() * 63))
    assert trainer.global_step == 50
    assert not trainer.interrupted
    assert "The run is stopped." in caplog.text
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    # Once resumed, it has another window to recover in.
    again = watchdog(action="stop")
    trainer = make_trainer(500, callbacks=[again], default_root_dir=tmp_path)
    model = toy_model(MaskedPrediction, 0.5, quantizer=K_MEANS)
    trainer.fit(model, loader(noise() * 63), ckpt_path=tmp_path / "stopped.ckpt")
    assert [event["update"] for event in again.events] == [50, 100]


@pytest.mark.parametrize("action", ["warn", "stop", "restore"])
def test_a_healthy_run_is_the_same_with_and_without(action: str) -> None:
    def losses(callbacks: list[Callback]) -> list[float]:
        model = toy_model(FuturePrediction, 0.005, quantizer=CONTINUOUS)
        return fit(model, tones() * 4, 60, callbacks=callbacks).losses

    dog = watchdog(every=2, window=10, action=action)
    assert losses([dog]) == losses([])
    assert not dog.events
    assert bool(len(dog._states)) == (action == "restore")


class States(Callback):
    """Keeps the weights before each update."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.seen.append(parameters_of(pl_module))


def test_restoring_a_healthy_snapshot_saves_the_run() -> None:
    dog, states = watchdog(every=2, window=20, action="restore"), States()
    model = toy_model(FuturePrediction, 0.005, quantizer=CONTINUOUS)
    record = fit(model, tones() * 20, 300, callbacks=[Sabotage(150, once=True), dog, states])
    (event,) = dog.events
    assert event["update"] in range(160, 180)
    back = int(event["done"].split("update ")[1].split()[0])
    assert event["done"] == f"Weights and optimiser of update {back} were restored (1 of 3 restores)."
    assert event["update"] - 60 <= back < 150
    # All weights are bit-identical to those of the snapshot, and the update count continues.
    for name, value in states.seen[event["update"]].items():
        assert torch.equal(value, states.seen[back][name]), name
    assert len(record.losses) == 300
    assert record.metrics[event["update"] - 1]["train/accuracy"] < 0.4
    assert record.metrics[-1]["train/accuracy"] > 0.6


def test_a_run_that_collapses_again_and_again_is_stopped() -> None:
    dog = watchdog(every=2, window=20, action="restore", max_restores=1)
    model = toy_model(FuturePrediction, 0.005, quantizer=CONTINUOUS)
    record = fit(model, tones() * 20, 300, callbacks=[Sabotage(150), dog])
    done = [event["done"] for event in dog.events]
    assert "were restored" in done[0]
    assert done[-1] == "All 1 restore (`max_restores`) were used: the run is stopped."
    assert len(record.losses) == dog.events[1]["update"] < 300


def test_a_run_that_was_never_healthy_is_stopped() -> None:
    dog = watchdog(action="restore")
    record = fit(toy_model(MaskedPrediction, 0.5, quantizer=K_MEANS), noise() * 63, 500, callbacks=[dog])
    assert dog.events[0]["done"] == "There is no healthy snapshot to restore: the run is stopped."
    assert len(record.losses) == 50


def test_a_snapshot_is_confirmed_by_the_window_after_it() -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    states = HealthyStates()

    def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()

    step(model, optimizer)
    states.confirm_and_save(1, model, optimizer)
    assert len(states) == 0
    then = copy.deepcopy(model)
    memory = copy.deepcopy(optimizer.state_dict())
    for _ in range(3):
        step(model, optimizer)
    states.confirm_and_save(4, model, optimizer)
    states.discard_unconfirmed()
    states.confirm_and_save(7, model, optimizer)
    assert len(states) == 1
    optimizer.param_groups[0]["lr"] = 0.05  # the schedule continued
    assert states.restore(model, optimizer) == 1
    assert len(states) == 0
    twin = torch.optim.Adam(then.parameters(), lr=0.1)
    twin.load_state_dict(memory)
    twin.param_groups[0]["lr"] = 0.05
    for _ in range(3):
        step(model, optimizer)
        step(then, twin)
    for mine, expected in zip(model.parameters(), then.parameters(), strict=True):
        assert torch.equal(mine, expected)


def test_readings_and_reports_are_saved_in_checkpoints(tmp_path: Path) -> None:
    """A collapse is reported once, however often the run is resumed."""
    model = toy_model(MaskedPrediction, 0.5, quantizer=K_MEANS)
    trainer = make_trainer(60, callbacks=[watchdog()], default_root_dir=tmp_path)
    trainer.fit(model, loader(noise() * 10))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    dog = watchdog()
    fit(
        toy_model(MaskedPrediction, 0.5, quantizer=K_MEANS),
        noise() * 15,
        120,
        ckpt_path=str(tmp_path / "half.ckpt"),
        callbacks=[dog],
        default_root_dir=tmp_path,
    )
    assert [event["update"] for event in dog.events] == [50]
    assert torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]["CollapseWatchdog"]["events"]


def test_it_reads_once_an_update() -> None:
    dog = watchdog(every=2, window=100)
    fit(toy_model(MaskedPrediction, 0.001, quantizer=GUMBEL), noise(40), 10, accumulate=4, callbacks=[dog])
    assert [reading.update for reading in dog._readings] == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("updates", "window", "patience"), [(150, 50, 100), (20_000, 200, 2000), (400_000, 500, 5000), (-1, 500, 5000)]
)
def test_windows_are_by_the_length_of_the_run(updates: int, window: int, patience: int) -> None:
    dog = CollapseWatchdog()
    trainer: Any = SimpleNamespace(max_steps=updates, max_epochs=-1, is_global_zero=True, global_step=0)
    dog.on_train_start(trainer, None)  # type: ignore[arg-type]
    assert (dog._length * dog.every, dog._patience) == (window, patience)


def test_a_run_shorter_than_a_window_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="w2vlab"):
        watch(toy_model(MaskedPrediction, 0.001, quantizer=GUMBEL), noise(), 4, watchdog())
    assert "`window` (50) is longer than the run (4 updates)" in caplog.text
    assert "patience" not in caplog.text


@pytest.mark.parametrize(("updates", "warns"), [(50, True), (99, True), (100, False), (-1, False)])
def test_a_run_shorter_than_its_patience_warns(updates: int, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Its codebooks are watched, but a model that learns nothing would not be detected."""
    trainer: Any = SimpleNamespace(
        estimated_stepping_batches=math.inf if updates < 0 else updates,
        max_steps=updates,
        max_epochs=-1,
        is_global_zero=True,
        global_step=0,
    )
    with caplog.at_level(logging.WARNING, logger="w2vlab"):
        CollapseWatchdog().on_train_start(trainer, None)  # type: ignore[arg-type]
    text = f"`patience` (100) is longer than the run ({updates} updates), so a model that learns nothing "
    text += "cannot be detected "
    names = "constant_targets, constant_predictions, uninformed, at_chance"
    assert (f"{text}({names}). Lower it." in caplog.text) == warns
    assert bool(caplog.text) == warns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "`every` must be at least 1, but is 0."),
        ({"window": 19}, r"`window` must be at least twice `every` \(10\), but is 19."),
        ({"patience": -1}, "`patience` must not be negative, but is -1."),
        ({"action": "panic"}, "`action` must be warn, stop or restore, but is panic."),
        ({"max_restores": 0}, "`max_restores` must be at least 1, but is 0."),
        ({"loss_tolerance": 0.0}, "`loss_tolerance` must be above 0, but is 0.0."),
        ({"chance_tolerance": 0.5}, "`chance_tolerance` must be at least 1, but is 0.5."),
        ({"equal_share": 1.5}, "`equal_share` must be between 0 and 1, but is 1.5."),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        CollapseWatchdog(**options)


def test_restoring_a_sharded_model_is_refused() -> None:
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace())
    with pytest.raises(ValueError, match=r"`action` must be warn or stop .*SimpleNamespace.*, but is restore"):
        CollapseWatchdog(action="restore").setup(trainer, None, "fit")  # type: ignore[arg-type]
    CollapseWatchdog(action="stop").setup(trainer, None, "fit")  # type: ignore[arg-type]


def test_two_processes_take_the_same_action(tmp_path: Path) -> None:
    """Both processes restore, and process 0 alone reports."""
    first, second = in_two_processes(train_share, tmp_path)
    done = [event["done"] for event in first["events"]]
    assert done[0].startswith("Weights and optimiser of update ")
    assert set(done[1:]) == {"All 1 restore (`max_restores`) were used: the run is stopped."}
    assert second["events"] == []
    assert first["updates"] == second["updates"] == first["events"][-1]["update"]
    for name, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][name]), name
    # Process 0 measures on its own probe, the other process does not measure.
    assert first["looks"] == sorted({0, *range(20, first["updates"], 20), first["updates"]})
    assert second["looks"] == []
