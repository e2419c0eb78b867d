"""Each run has another folder, and no run overwrites the checkpoints of another."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from w2vlab.cli.logging.loggers import FolderOnlyLogger, guard

Fit = Callable[..., int]
WITHOUT_LOGGER = ["--trainer.logger=false"]


def update(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_runs_without_a_logger_have_a_folder_each(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (3, 1):
        assert fit(f"--trainer.max_steps={steps}", logger=WITHOUT_LOGGER) == 0
    first, second = (Path(f"runs/w2vlab/version_{number}") for number in (0, 1))
    assert {path.name for path in Path("runs").iterdir()} == {"w2vlab"}
    files = {"checkpoints", "config.yaml", "metrics.jsonl", "report.json", "report.png", "run.json"}
    assert {path.name for path in first.iterdir()} == files
    assert update(first / "checkpoints" / "last.ckpt") == 3
    assert {path.name for path in (second / "checkpoints").iterdir()} == {"last.ckpt"}
    assert update(second / "checkpoints" / "last.ckpt") == 1
    commands = [json.loads((run / "run.json").read_text())["command"][-1] for run in (first, second)]
    assert commands == ["--trainer.max_steps=3", "--trainer.max_steps=1"]
    assert f"checkpoints: {second / 'checkpoints'}" in capsys.readouterr().out


def test_runs_that_begin_at_once_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes have seen that the folder does not exist yet."""
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    monkeypatch.setattr(CSVLogger, "_get_next_version", lambda _: 0)
    tables = [CSVLogger(tmp_path, name="w2vlab") for _ in range(2)]
    guard(tables)
    loggers = [*tables, *(FolderOnlyLogger(str(tmp_path)) for _ in range(2))]
    assert [logger.version for logger in loggers] == [0, 1, 2, 3]
    assert [logger.version for logger in loggers] == [0, 1, 2, 3]  # asked again


@pytest.mark.parametrize("where", ["--checkpoint.dirpath=shared", "--trainer.logger.version=7"])
def test_a_folder_of_another_run_is_refused(where: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(where, "--trainer.max_steps=2") == 0
    (last,) = Path().rglob("last.ckpt")
    before = {path: path.read_bytes() for path in last.parent.parent.rglob("*") if path.is_file()}
    assert fit(where, "--seed_everything=2") == 1
    error = capsys.readouterr().err.replace(f"{Path.cwd()}/", "")
    assert (
        f"error: `checkpoint.dirpath` must be a folder without checkpoints of another run, but {last} exists" in error
    )
    assert {path: path.read_bytes() for path in before} == before
    assert fit(where, f"--ckpt_path={last}") == 0  # which resumes it
    assert (update(last), update(last.with_name("last-previous.ckpt"))) == (4, 2)


def test_a_folder_that_cannot_be_written_to_is_an_error_of_one_line(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert fit("--trainer.default_root_dir=file/runs") == 1
    error = "error: `trainer.default_root_dir` must be writable, but file/runs is not (Not a directory); "
    assert f"{error}choose another one with --trainer.default_root_dir." in capsys.readouterr().err

    assert fit("--checkpoint.dirpath=file/checkpoints") == 1
    assert "error: `checkpoint.dirpath` must be writable, but file/checkpoints is not" in capsys.readouterr().err

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    assert fit() == 1
    assert "must be writable, but runs is not (Read-only file system)" in capsys.readouterr().err
