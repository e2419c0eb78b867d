"""Options of the trainer that count in epochs, and runs that end with them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

Fit = Callable[..., int]
RUN = Path("runs/w2vlab/version_0")


class Seen(Callback):
    """Writes down the utterances of each update, and the sums of their samples."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        with Path("seen.jsonl").open("a") as file:
            file.write(json.dumps([batch.ids, batch.waveform.double().abs().sum().item()]) + "\n")


def seen() -> list[Any]:
    return [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]


def validated(run: Path = RUN) -> list[int]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["update"] for row in rows if "val/loss/total" in row]


def warnings_of(action: Callable[[], int], status: int = 0) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert action() == status
    return [str(warning.message) for warning in caught if "no validation" in str(warning.message)]


@pytest.mark.parametrize(("batches", "different"), [("1", 1), ("2", 2), ("0.4", 2)])
def test_overfitting_trains_on_the_same_batches(batches: str, different: int, fit: Fit) -> None:
    """The crops, too, are those of the first epoch."""
    recorded = ["--trainer.callbacks=tests.cli.lightning.test_epochs.Seen", "--trainer.max_steps=6"]
    assert fit(f"--trainer.overfit_batches={batches}", *recorded) == 0
    found = seen()
    assert len(found) == 6
    assert found == found[:different] * (6 // different)
    assert len({json.dumps(batch) for batch in found}) == different
    assert validated() == [2, 4, 6]


@pytest.mark.parametrize(
    ("option", "updates"),
    [("limit_train_batches=0.6", [3, 6]), ("val_check_interval=0.4", [2, 4, 7]), ("val_check_interval=0.01", None)],
)
def test_shares_of_an_epoch_are_turned_into_batches(option: str, updates: list[int] | None, fit: Fit) -> None:
    """Of the five of an epoch; the first one's number counts."""
    assert fit("--trainer.val_check_interval=1.0", f"--trainer.{option}", "--trainer.max_steps=7") == 0
    assert validated() == (updates or list(range(1, 8)))


@pytest.mark.parametrize("name", ["val_check_interval", "check_val_every_n_epoch"])
def test_an_interval_of_zero_is_refused(name: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(f"--trainer.{name}=0") == 1
    assert f"error: `trainer.{name}` must be above 0, but is 0. For a run without" in capsys.readouterr().err


def test_a_run_without_validation_warns(fit: Fit) -> None:
    over_epochs = "--trainer.check_val_every_n_epoch=null"
    (warning,) = warnings_of(lambda: fit("--trainer.val_check_interval=100", over_epochs))
    assert warning.startswith(
        "`trainer.val_check_interval` is 100 updates, but the run has 4: there will be no validation"
    )
    (warning,) = warnings_of(lambda: fit("--trainer.val_check_interval=1.0"))  # an epoch has five
    assert warning.startswith("The run had no validation in 4 updates, so there is no best checkpoint.")
    assert not warnings_of(
        lambda: fit("--trainer.val_check_interval=100", over_epochs, "--trainer.limit_val_batches=0")
    )
    assert not warnings_of(fit)


@pytest.mark.parametrize("steps", ["-1", "400000"])
def test_a_run_by_epochs_shows_its_progress(
    steps: str, fit: Fit, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    watched = "--trainer.callbacks=CollapseWatchdog"
    by_epochs = [f"--trainer.max_steps={steps}", "--trainer.max_epochs=2", "--trainer.val_check_interval=1.0"]
    assert fit(*by_epochs, watched) == 0
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ": loss" in line]
    assert lines == [
        "epoch 1 of 2, update 5, validation",
        "epoch 1 of 2, update 5",
        "epoch 2 of 2, update 10, validation",
        "epoch 2 of 2, update 10",
    ]
    assert "`window` (50) is longer than the run (10 updates)" in caplog.text


def test_a_resumed_run_by_epochs_shows_its_progress(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    by_epochs = ["--trainer.max_steps=-1", "--trainer.val_check_interval=1.0"]
    assert fit(*by_epochs, "--trainer.max_epochs=1") == 0
    capsys.readouterr()
    assert fit(*by_epochs, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    lines = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ": loss" in line]
    assert lines == ["epoch 2 of 2, update 10, validation", "epoch 2 of 2, update 10"]


def test_validations_may_be_a_time_apart(fit: Fit) -> None:
    assert fit("--data.micro_batches=1", "--trainer.val_check_interval=00:00:00:00", "--trainer.max_steps=2") == 0
    assert validated() == [1, 2]


def test_a_run_by_time_shows_its_progress(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.max_steps=-1", "--trainer.max_time=00:00:00:01") == 0
    lines = [line.split(",")[0].strip() for line in capsys.readouterr().out.splitlines() if ": loss" in line]
    assert lines
    assert all(line.endswith(" %") for line in lines)
