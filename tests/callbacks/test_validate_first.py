"""A validation before the first update: logged at update 0, never twice, and without effect on the training."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger

from tests.contracts.tiny import factory
from tests.modules.checkpoints.test_resume import UPDATES, Watch, assert_same, build, run, run_in_pieces
from tests.modules.test_runs import noisy_model
from tests.modules.training import fit, make_batches, make_trainer, with_updates
from w2vlab.callbacks import CodebookHealth, RunCheckpoint, RunReport, TrainingProgress, ValidateFirst
from w2vlab.modules import FuturePrediction, MaskedPrediction, PretrainingModule
from w2vlab.quantizers import EMAQuantizer, GumbelQuantizer


class Data:
    """Four updates of training, and a validation of three batches."""

    train = staticmethod(lambda accumulate: with_updates(make_batches(4, accumulate, 3), accumulate))
    validation = make_batches(3, 1, 2)


@pytest.mark.parametrize(
    ("cls", "quantizer", "accumulate"),
    [
        (MaskedPrediction, GumbelQuantizer, 2),
        (MaskedPrediction, EMAQuantizer, 1),
        (FuturePrediction, GumbelQuantizer, 1),
        (FuturePrediction, EMAQuantizer, 2),
    ],
)
def test_the_training_is_the_same_with_and_without(
    cls: type[PretrainingModule], quantizer: type, accumulate: int
) -> None:
    def trained(*callbacks: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
        torch.seed()
        model = noisy_model(cls, quantizer=factory(quantizer))
        options = {"callbacks": callbacks, "check_val_every_n_epoch": None, "val_check_interval": 2 * accumulate}
        record = fit(model, Data.train(accumulate), 4, accumulate, Data.validation, **options)
        return record.losses, model.state_dict()

    watch = Watch()
    (losses, weights), (expected, unchanged) = trained(ValidateFirst(), watch), trained()
    assert [update for update, _ in watch.validations] == [0, 2, 4]
    assert losses == expected
    assert len(set(losses)) == 4 * accumulate
    assert all(torch.equal(weights[name], unchanged[name]) for name in unchanged)


class HasPicture(Callback):
    """Records for each update whether the figure exists when its batch starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[int, bool] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.seen[trainer.global_step] = (self.folder / "report.png").exists()


def test_a_picture_needs_two_validations(tmp_path: Path, no_drawing: None) -> None:
    """A figure with one point is not drawn before the first update, but after the next validation."""
    look, log = HasPicture(tmp_path / "run" / "1"), CSVLogger(tmp_path, name="run", version="1")
    options: dict[str, Any] = {"check_val_every_n_epoch": None, "val_check_interval": 2, "logger": log}
    callbacks = [ValidateFirst(), RunReport(), look]
    fit(build(MaskedPrediction), Data.train(1), 4, validation=Data.validation, callbacks=callbacks, **options)
    assert look.seen == {0: False, 1: False, 2: True, 3: True}


def test_it_is_a_full_validation_of_the_untrained_weights(tmp_path: Path) -> None:
    """Equal to `trainer.validate`; at update 0 of the log, of `metrics.jsonl` and of the report."""
    model = build(MaskedPrediction)
    (expected,) = make_trainer(1).validate(model, torch.utils.data.DataLoader(Data.validation, batch_size=None))
    report, log = RunReport(), CSVLogger(tmp_path, name="run", version="1")
    options: dict[str, Any] = {"check_val_every_n_epoch": None, "val_check_interval": 2, "num_sanity_val_steps": 2}
    callbacks = [ValidateFirst(), report, RunCheckpoint(monitor="val/loss/total")]
    fit(
        build(MaskedPrediction), Data.train(1), 4, validation=Data.validation, callbacks=callbacks, logger=log,
        enable_checkpointing=True, **options,
    )  # fmt: skip
    updates, losses = report.validation.series("val/loss/total")
    assert updates == [0, 2, 4]
    assert losses[0] == expected["val/loss/total"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "1" / "metrics.jsonl").read_text().splitlines()]
    first = [row for row in rows if row["update"] == 0]
    assert [row["val/accuracy"] for row in first] == [expected["val/accuracy"]]
    assert first[0]["audio_seconds"] == 0
    with (tmp_path / "run" / "1" / "metrics.csv").open() as file:
        validated = {
            int(row["step"]): float(row["val/loss/total"]) for row in csv.DictReader(file) if row["val/loss/total"]
        }
    assert validated[0] == pytest.approx(losses[0])
    # An untrained model is not saved as the best one.
    assert not (tmp_path / "run" / "1" / "checkpoints" / "epoch=0-step=0.ckpt").exists()


@pytest.mark.parametrize(
    ("hook", "calls", "accumulate"),
    [("on_train_batch_end", 4, 1), ("on_train_batch_start", 8, 2), ("on_validation_batch_start", 4, 1)],
)
def test_a_resumed_run_does_not_repeat_it(hook: str, calls: int, accumulate: int, tmp_path: Path) -> None:
    whole, plain = Watch(), Watch()
    expected = run(build(MaskedPrediction), tmp_path / "whole", whole, accumulate, first=True)
    run(build(MaskedPrediction), tmp_path / "plain", plain, accumulate)
    assert whole.validations == [(0, 0), *plain.validations]
    assert (whole.losses, whole.rates, whole.logged) == (plain.losses, plain.rates, plain.logged)
    pieces, model = run_in_pieces(
        lambda: build(MaskedPrediction),
        tmp_path / "pieces",
        lambda: Watch(hook, calls),
        accumulate,
        first=True,
    )
    assert len(pieces) > 1
    assert_same(pieces, model, whole, expected)
    assert [validation for piece in pieces for validation in piece.validations] == whole.validations
    assert len(whole.losses) == UPDATES * accumulate


def test_a_stop_within_it_leaves_no_checkpoint(tmp_path: Path) -> None:
    stopped = Watch("on_validation_batch_start", 2)
    run(build(MaskedPrediction), tmp_path, stopped, first=True)
    assert not stopped.finished
    assert not list(tmp_path.glob("*.ckpt"))
    again, whole = Watch(), Watch()
    run(build(MaskedPrediction), tmp_path, again, first=True)
    run(build(MaskedPrediction), tmp_path / "whole", whole, first=True)
    assert again.validations == whole.validations
    assert again.losses == whole.losses


def test_without_a_validation_it_warns() -> None:
    watch = Watch()
    with pytest.warns(UserWarning, match="`validate_first` has no effect: `trainer.limit_val_batches` is 0"):
        fit(build(MaskedPrediction), Data.train(1), 1, callbacks=[ValidateFirst(), watch], limit_val_batches=0)
    assert watch.validations == []


def test_codebook_health_uses_the_first_validation(tmp_path: Path) -> None:
    """Its probe is taken from the first validation, which is this one."""
    health = CodebookHealth(every=2, num_utterances=4)
    model = build(MaskedPrediction)
    options: dict[str, Any] = {"check_val_every_n_epoch": None, "val_check_interval": 2, "default_root_dir": tmp_path}
    fit(model, Data.train(1), 4, validation=Data.validation, callbacks=[health, ValidateFirst()], **options)
    assert [row["update"] for row in health.history.rows] == [2, 4]


def test_progress_has_a_line_for_it_and_for_later_ones(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {
        "check_val_every_n_epoch": None,
        "val_check_interval": 2,
        "enable_progress_bar": True,
        "callbacks": [TrainingProgress(), ValidateFirst()],
    }
    fit(build(MaskedPrediction), Data.train(1), 4, validation=Data.validation, **options)
    lines = capsys.readouterr().out.splitlines()
    validations = [line for line in lines if "validation" in line]
    assert [line.split(":")[0].strip() for line in validations] == [
        *("0 %, update 0, validation", "50 %, update 2, validation", "100 %, update 4, validation"),
    ]
    loss = float(validations[0].split("loss ")[1].split(",")[0])
    assert 0 < loss < 3 * math.log(101)
    assert lines.index(validations[0]) == 0
