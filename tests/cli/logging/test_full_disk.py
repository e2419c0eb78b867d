"""What a command does whose disk is full, or full for a while."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure

from w2vlab.callbacks import run_folder
from w2vlab.callbacks.fault_tolerance import atomic_io
from w2vlab.callbacks.records.metric_log import MetricLog
from w2vlab.cli.logging.loggers import guard


@pytest.fixture(autouse=True)
def _not_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_warned", set())


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def no_space(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of files that cannot be written as long as they are in this set; a few of their bytes are."""
    names: set[str] = set()
    really = io.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: Any) -> int:
            self.file.write(data[: len(data) // 2])
            raise NO_SPACE

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        found = really(file, mode, *arguments, **options)
        written = any(sign in mode for sign in "wax") and not isinstance(file, int)
        return Full(found) if written and any(name in os.fspath(file) for name in names) else found

    monkeypatch.setattr(io, "open", opened)  # of `pathlib`
    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("fsspec.implementations.local.open", opened, raising=False)
    return names


def test_a_run_without_a_checkpoint_fails(
    fit: Callable[..., int], no_space: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    no_space.add(".ckpt")
    assert fit() == 1
    output, error = capsys.readouterr()
    assert "checkpoints: no checkpoint was written" in output
    assert (
        "error: The state at update 4 could not be written ([Errno 28] No space left on device): no checkpoint" in error
    )
    assert json.loads(Path("runs/w2vlab/version_0/run.json").read_text())["status"] == "failed"


def test_a_run_whose_last_state_is_lost_fails(
    fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = atomic_io.AtomicCheckpointIO._write_and_sync

    def fails_at_last(self: Any, checkpoint: Any, path: Path) -> None:
        if checkpoint["global_step"] == 4:
            raise NO_SPACE
        write(self, checkpoint, path)

    monkeypatch.setattr(atomic_io.AtomicCheckpointIO, "_write_and_sync", fails_at_last)
    assert fit() == 1
    folder = Path("runs/w2vlab/version_0/checkpoints")
    output, error = capsys.readouterr()
    assert f"checkpoints: {folder}\n" in output
    assert f"No space left on device): {folder / 'last.ckpt'} is of update 2. Free disk space" in error
    assert (torch.load(folder / "last.ckpt", weights_only=True))["global_step"] == 2


def test_the_best_state_is_named_if_there_is_no_other(
    fit: Callable[..., int], no_space: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    no_space.add("last")
    assert fit() == 1
    (best,) = Path("runs/w2vlab/version_0/checkpoints").glob("*.ckpt")
    assert f"No space left on device): only the best checkpoint exists, {best}. Free" in capsys.readouterr().err


def test_records_of_a_run_may_fail(fit: Callable[..., int], no_space: set[str], caplog: Any) -> None:
    """Training continues, and its checkpoints are there."""
    files = {
        "config.yaml": "The configuration of the run",
        "metrics.csv": "The table of the CSV logger",
        "metrics.jsonl": "metrics.jsonl",
        "run.json": "The record of the run",
        "report.json": "The report",
        "codebook_health.json": "The picture of codebook health",
    }
    no_space.update({*files, "hparams.yaml"})
    callbacks = ["--trainer.callbacks=CodebookHealth", "--trainer.callbacks.every=1"]
    assert fit("--trainer.logger.flush_logs_every_n_steps=1", *callbacks) == 0
    lines = [entry.getMessage() for entry in caplog.records if "cannot be written" in entry.getMessage()]
    files.pop("codebook_health.json")
    for what in files.values():
        assert f"{what} cannot be written: [Errno 28] No space left on device. The run continues without it." in lines
    assert (Path("runs/w2vlab/version_0/checkpoints") / "last.ckpt").is_file()


def test_the_table_continues_when_there_is_space_again(tmp_path: Path, no_space: set[str]) -> None:
    """Without incomplete or duplicate rows, also if the file would have been rewritten for another column."""
    logger = CSVLogger(tmp_path, name="w2vlab", flush_logs_every_n_steps=1)
    guard([logger])
    for step in range(8):
        no_space.clear()
        if step in (0, 2, 4, 5):
            no_space.add("metrics.csv")
        logger.log_metrics({"loss": step / 2, **({"other": 1.0} if step > 3 else {})}, step)
    logger.finalize("success")
    rows = list(csv.DictReader((tmp_path / "w2vlab" / "version_0" / "metrics.csv").open()))
    assert [(row["step"], row["loss"]) for row in rows] == [(str(step), str(step / 2)) for step in range(8)]
    assert [row["other"] for row in rows] == [""] * 4 + ["1.0"] * 4
    assert not list(tmp_path.rglob("*.unfinished"))


def test_rows_of_metrics_come_when_there_is_space(tmp_path: Path, no_space: set[str]) -> None:
    log = MetricLog()
    log.begin(tmp_path, {"train": []}, None)
    for update in range(1, 7):
        no_space.clear()
        if update in (2, 3, 6):
            no_space.add("metrics.jsonl")
        with suppress(OSError):
            log.record("train", {"update": update})
    rows = [json.loads(line)["update"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [1, 2, 3, 4, 5]


def test_a_picture_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    run_folder.save_picture(Figure(), path, dpi=50)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def half(self: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise NO_SPACE

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="No space left"):
        run_folder.save_picture(Figure(), path, dpi=50)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]
