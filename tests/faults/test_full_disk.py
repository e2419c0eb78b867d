"""A disk that is full for a while does not end a run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks.toy_runs import noise, toy_model
from tests.modules.training import Record, loader, make_trainer
from w2vlab.callbacks import RunCheckpoint, RunReport, run_folder
from w2vlab.callbacks.fault_tolerance import atomic_io
from w2vlab.modules import MaskedPrediction


class FullDisk:
    """Raises an error after 20,000 bytes of a file while the disk is full."""

    full = False

    def __init__(self, file: Any) -> None:
        self.file = file
        self.room = 20_000
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        self.room -= len(bytes(data))
        if FullDisk.full and self.room < 0:
            self.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise self.failure
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


class Fills(Record):
    """Fills the disk before the third update, and empties it before the fifth."""

    def __init__(self, last: Path) -> None:
        super().__init__()
        self.last = last
        self.whole: list[int] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        FullDisk.full = trainer.global_step in (2, 3)
        if self.last.exists():
            self.whole.append(torch.load(self.last, weights_only=True)["global_step"])


@pytest.fixture(autouse=True)
def _no_warnings_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_warned", set())


def test_checkpoints_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(atomic_io, "_ErrorRecordingFile", FullDisk)
    fills = Fills(tmp_path / "last.ckpt")
    trainer = make_trainer(
        6,
        callbacks=[fills, RunCheckpoint(dirpath=tmp_path, every=1)],
        enable_checkpointing=True,
        default_root_dir=tmp_path,
    )
    trainer.fit(toy_model(MaskedPrediction, 0.001), loader(noise()))
    FullDisk.full = False
    assert trainer.global_step == 6
    # Before the 2nd, 3rd, … update: the existing file stayed intact, and after the fault a new one is written.
    assert fills.whole == [1, 2, 2, 2, 5]
    assert torch.load(fills.last, weights_only=True)["global_step"] == 6
    assert not list(tmp_path.glob("*.unfinished"))
    warnings = [entry.getMessage() for entry in caplog.records if "No space left" in entry.getMessage()]
    assert len(warnings) == 2


def test_reports_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    report = RunReport()
    trainer = make_trainer(4, callbacks=[report], val_check_interval=2, default_root_dir=tmp_path)
    trainer.fit(toy_model(MaskedPrediction, 0.001), loader(noise()), loader(noise(1)))
    assert trainer.global_step == 4
    warnings = [entry.getMessage() for entry in caplog.records if "No space left" in entry.getMessage()]
    assert warnings == [
        "The report cannot be written: [Errno 28] No space left on device. The run continues without it."
    ]
