"""The callbacks in a trainer, without the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from w2vlab.callbacks import RunCheckpoint, RunReport, TrainingProgress
from w2vlab.callbacks.run_folder import run_folder


class Rising(LightningModule):
    """Its validation loss rises, as may happen while more codes come into use."""

    title = "Rising with IdentityQuantizer"
    num_candidates = 4
    num_codes = 0
    codebook_counts: Tensor | None = None
    examples: tuple[tuple[str, str, str], ...] = ()
    error_rates: dict[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        self.log_dict({"train/loss/total": loss, "train/accuracy": 0.25, "train/audio_seconds_per_second": 8.0})
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss/total", float(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(root: Path, epochs: int, ckpt_path: Path | None = None, **options: Any) -> Trainer:
    """Trains 10 updates an epoch."""
    data = DataLoader(torch.ones(10, 3))
    trainer = Trainer(
        default_root_dir=root,
        accelerator="cpu",
        max_epochs=epochs,
        enable_model_summary=False,
        **{"logger": False, "log_every_n_steps": 5, **options},
    )
    trainer.fit(Rising(), data, data, ckpt_path=ckpt_path)
    return trainer


def checkpoint() -> RunCheckpoint:
    return RunCheckpoint(monitor="val/loss/total", filename="update-{step}", auto_insert_metric_name=False)


def test_last_checkpoint_does_not_wait_for_a_better_loss(tmp_path: Path) -> None:
    run(tmp_path, 3, callbacks=[checkpoint()])
    steps = {path.name: torch.load(path)["global_step"] for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {"last.ckpt": 30, "last-previous.ckpt": 20, "update-10.ckpt": 10}


@pytest.mark.usefixtures("no_drawing")
def test_report_continues_after_a_resume(tmp_path: Path) -> None:
    run(tmp_path, 1, callbacks=[checkpoint(), RunReport()])
    report = RunReport()
    run(tmp_path, 2, tmp_path / "checkpoints" / "last.ckpt", callbacks=[checkpoint(), report])
    assert [row["update"] for row in report.train.rows] == [5, 10, 15, 20]
    assert report.validation.series("val/loss/total") == ([10, 20], [10.0, 20.0])
    assert report.train.last("learning_rate") == pytest.approx(0.1)


@pytest.mark.usefixtures("no_drawing")
def test_sanity_check_is_not_recorded(tmp_path: Path) -> None:
    report = RunReport()
    run(tmp_path, 1, callbacks=[report], num_sanity_val_steps=2)
    assert [row["update"] for row in report.validation.rows] == [10]


def test_report_without_codebooks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, 1, callbacks=[RunReport()], enable_progress_bar=False, enable_checkpointing=False)
    output = capsys.readouterr().out
    assert "Rising with IdentityQuantizer, update 10" in output
    assert "codes used          │ –" in output  # noqa: RUF001
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_progress_prints_ten_lines_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, 5, callbacks=[TrainingProgress()], enable_checkpointing=False)
    lines = capsys.readouterr().out.splitlines()
    validations = [line for line in lines if "validation" in line]
    lines = [line for line in lines if line not in validations]
    assert [line.split(":")[0].strip() for line in lines] == [f"{n * 10} %, update {n * 5}" for n in range(1, 11)]
    assert ", accuracy 0.25, audio s/s 8" in lines[-1]
    assert [line.strip() for line in validations] == [
        f"{n * 20} %, update {n * 10}, validation: loss {n * 10}" for n in range(1, 6)
    ]


def test_progress_prints_one_validation_a_tenth_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, 5, callbacks=[TrainingProgress()], enable_checkpointing=False, val_check_interval=1)
    validations = [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert validations == [
        "0 %, update 1, validation",
        *(f"{n * 10} %, update {n * 5}, validation" for n in range(1, 11)),
    ]


def test_progress_of_an_endless_run_is_a_line_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = LambdaCallback(
        on_train_epoch_end=lambda trainer, _: setattr(trainer, "should_stop", trainer.current_epoch == 3)
    )
    run(tmp_path, -1, callbacks=[TrainingProgress(), stop], enable_checkpointing=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "validation" not in line] == [
        f"epoch {n}, update {10 * n}" for n in (1, 2, 3, 4)
    ]
    assert [line.split(":")[0] for line in lines if "validation" in line] == [
        f"epoch {n}, update {10 * n}, validation" for n in (1, 2, 3, 4)
    ]


def test_progress_is_a_bar_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(tmp_path, 1, callbacks=[TrainingProgress(refresh_rate=1)], enable_checkpointing=False)
    output = capsys.readouterr().out
    assert "10/10" in output
    assert "accuracy=0.25" in output


@pytest.mark.parametrize("logger", [True, False])
def test_run_folder_is_the_parent_of_checkpoints(logger: bool, tmp_path: Path) -> None:
    table = CSVLogger(tmp_path, name="some") if logger else False
    trainer = run(tmp_path, 1, logger=table, callbacks=[checkpoint()])
    assert (run_folder(trainer) / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(("name", "version"), [("../../x", "1"), ("/x", "1"), ("a", "../../../x"), ("a", "/x")])
def test_a_logger_name_cannot_leave_its_folder(name: str, version: str, tmp_path: Path) -> None:
    logger = SimpleNamespace(name=name, version=version, save_dir=str(tmp_path))
    trainer: Any = SimpleNamespace(loggers=[logger], default_root_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"`trainer.logger` must have a name and a version below its `save_dir`"):
        run_folder(trainer)
