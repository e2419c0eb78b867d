"""A run that resumes is the same run, unless it is asked to be another one."""

from __future__ import annotations

import csv
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml

from w2vlab.callbacks.fault_tolerance.run_lock import RunLock
from w2vlab.cli.main import main

Fit = Callable[..., int]
LOGS = Path("runs/w2vlab")
RUN, NEXT_RUN = LOGS / "version_0", LOGS / "version_1"
EVERY = ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2"]


def update_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def table(folder: Path) -> list[dict[str, str]]:
    """What was logged, without what depends on the clock."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        {key: value for key, value in row.items() if value and "throughput" not in key and "seconds" not in key}
        for row in rows
    ]


@pytest.mark.parametrize("stop", [2, 3])
def test_the_table_of_a_resumed_run_is_that_of_an_undisturbed_one(fit: Fit, stop: int) -> None:
    """Stopped after a validation or not; the table's last rows are of updates that the checkpoint does not have."""
    assert fit(*EVERY, "--trainer.default_root_dir=whole") == 0
    assert fit(*EVERY, f"--trainer.max_steps={stop}") == 0
    path = RUN / "metrics.csv"
    names = next(csv.reader(path.open()))
    row = ",".join("3" if name == "step" else "9.0" for name in names)
    path.write_text(f"{path.read_text()}{row}\n{row[: len(row) // 2]}")
    assert fit(*EVERY, "--ckpt_path=last") == 0
    assert table(RUN) == table(Path("whole/w2vlab/version_0"))
    assert {path.name for path in RUN.iterdir()} == {path.name for path in Path("whole/w2vlab/version_0").iterdir()} | {
        "config-1.yaml"
    }


@pytest.mark.parametrize("how", ["root", "option", "logger", "older"])
def test_a_run_may_be_another_one(how: str, fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    """Whose files, and those of the run that it resumes from, are as if the other one had never been."""
    caplog.set_level("INFO")
    assert fit(*EVERY, "--trainer.max_steps=3") == 0
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    checkpoint = RUN / "checkpoints" / ("update-2.ckpt" if how == "older" else "last.ckpt")
    options: dict[str, list[str]] = {
        "root": ["--trainer.default_root_dir=other"],
        "option": ["--new_run=true"],
        "logger": ["--trainer.logger.name=other"],
        "older": [],
    }
    assert fit(*EVERY, f"--ckpt_path={checkpoint}", *options[how]) == 0
    folder = {"root": Path("other/w2vlab/version_0"), "logger": Path("runs/other/version_0")}.get(how, NEXT_RUN)
    assert update_of(folder / "checkpoints" / "last.ckpt") == 4
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows if "train/loss/total" in row] == [1, 2, 3, 4]
    why = ": update-2.ckpt is older than the newest checkpoint there" if how == "older" else ""
    assert f"It is a new run, and {RUN} stays as it is{why}." in caplog.messages
    # The new run resumes in its folder, also with the options that started it.
    caplog.clear()
    assert fit(*EVERY, "--trainer.max_steps=5", f"--ckpt_path={folder}/checkpoints/last.ckpt", *options[how][-1:]) == 0
    if how != "option":
        assert (
            f"The run continues in {folder}; --new_run=true would start a new run with another folder."
            in caplog.messages
        )


@pytest.mark.parametrize("named", ["--trainer.logger.version=exp", "--checkpoint.dirpath=there"])
@pytest.mark.parametrize("older", [False, True])
def test_a_new_run_is_refused_in_the_place_of_the_old_one(
    named: str, older: bool, fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*EVERY, "--trainer.max_steps=3", named) == 0
    last = next(Path().rglob("last.ckpt"))
    before = {path: path.read_bytes() for path in Path().rglob("*.ckpt")}
    how = [f"--ckpt_path={last.with_name('update-2.ckpt')}"] if older else [f"--ckpt_path={last}", "--new_run=true"]
    assert fit(*EVERY, named, *how) == 1
    assert "must be another" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*.ckpt")} == before


def test_the_command_of_a_new_run_resumes_that_one(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    stop = ["--trainer.callbacks=tests.cli.test_fit.InterruptAfter", "--trainer.callbacks.update=3"]
    assert fit("--trainer.max_steps=2") == 0
    Path("new.yaml").write_text("new_run: true\n")
    for option in ("--new_run=true", "--config=new.yaml"):
        caplog.clear()
        assert fit(option, "--ckpt_path", f"{RUN}/checkpoints/last.ckpt", *stop) == 130
        (message,) = (text for text in caplog.messages if "Resume with" in text)
        assert "--new_run=true" not in message
        assert message.endswith("last.ckpt --new_run=false")
        config = yaml.safe_load((NEXT_RUN / "config.yaml").read_text())
        assert (config["new_run"], config["ckpt_path"]) == (False, None)


def test_without_a_logger_a_run_has_a_numbered_folder_and_continues_there(fit: Fit) -> None:
    logger = ["--trainer.logger=false"]
    assert fit("--trainer.max_steps=2", logger=logger) == 0
    assert fit("--trainer.max_steps=3", "--ckpt_path=last", logger=logger) == 0
    assert [path.name for path in LOGS.iterdir()] == [RUN.name]
    record = (RUN / "run.json").read_text()
    assert len(json.loads(record)["continued"]) == 1
    assert fit("--trainer.max_steps=4", "--ckpt_path=last", "--new_run=true", logger=logger) == 0
    assert (RUN / "run.json").read_text() == record
    assert (NEXT_RUN / "checkpoints" / "last.ckpt").is_file()


def test_a_number_is_not_an_id_of_weights_and_biases(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of other folders have the same number, and would be taken for the same run."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert fit("--trainer.max_steps=2", logger=[]) == 0
    monkeypatch.delenv("WANDB_MODE")
    assert fit("--trainer.max_steps=3", "--ckpt_path=last", logger=[]) == 0
    (folder,) = set(LOGS.iterdir()) - {RUN}
    assert "version" not in folder.name
    assert update_of(folder / "checkpoints" / "last.ckpt") == 3
    assert update_of(RUN / "checkpoints" / "last.ckpt") == 2


def test_a_log_of_another_run_is_not_taken_for_its_own(fit: Fit) -> None:
    logger = ["--trainer.logger=false"]
    assert fit("--trainer.max_steps=2", logger=logger) == 0
    other = "--trainer.default_root_dir=other"
    assert fit("--trainer.max_steps=4", other, logger=logger) == 0
    assert fit(other, f"--ckpt_path={RUN}/checkpoints/last.ckpt", logger=logger) == 0
    for number, updates in enumerate([[2, 2, 4, 4], [2, 2, 4, 4]]):
        log = Path("other", "w2vlab", f"version_{number}", "metrics.jsonl")
        assert [json.loads(line)["update"] for line in log.read_text().splitlines()] == updates
    record = json.loads((log.parent / "run.json").read_text())
    assert len(record["continued"]) == 1


def test_last_is_searched_in_the_folders_of_the_run(
    fit: Fit, tiny_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the order of the options; another root folder is another run."""
    caplog.set_level("INFO")
    assert fit("--trainer.default_root_dir=runs/job-100", "--trainer.max_steps=2", "--ckpt_path=last") == 0
    other, logger = "--trainer.default_root_dir=runs/job-200", ["--trainer.logger=CSVLogger"]
    for options in ([other, f"--config={tiny_config}"], [f"--config={tiny_config}", other]):
        caplog.clear()
        assert main(["fit", *options, *logger, "--trainer.fast_dev_run=1", "--ckpt_path=last"]) == 0
        assert "There is no last.ckpt below runs/job-200: starting from the beginning." in caplog.messages
    caplog.clear()
    assert fit("--trainer.fast_dev_run=1", "--ckpt_path=last") == 0
    text = "There is no last.ckpt below runs except for runs with another root folder"
    assert f"{text} ({Path('runs/job-100').resolve()}): starting from the beginning." in caplog.messages


def test_config_of_a_run_follows_another_root_folder(fit: Fit) -> None:
    """Also that of a run that was resumed: the checkpoint is not one of its options."""
    assert fit("--trainer.default_root_dir=first", "--trainer.max_steps=1") == 0
    assert fit("--trainer.default_root_dir=first", "--trainer.max_steps=2", "--ckpt_path=last") == 0
    config = Path("first/w2vlab/version_0/config.yaml")
    before = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    assert main(["fit", f"--config={config}", "--trainer.default_root_dir=other"]) == 0
    assert update_of(Path("other/w2vlab/version_0/checkpoints/last.ckpt")) == 2
    assert json.loads(Path("other/w2vlab/version_0/run.json").read_text())["checkpoint"] is None
    assert {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()} == before


def test_every_logger_follows_the_root_folder(fit: Fit) -> None:
    loggers = "[{class_path: CSVLogger, init_args: {save_dir: runs, name: a}}, {class_path: CSVLogger, init_args: "
    assert (
        fit(
            "--trainer.max_steps=1",
            "--trainer.default_root_dir=other",
            logger=[f"--trainer.logger={loggers}{{save_dir: runs, name: b}}}}]"],
        )
        == 0
    )
    assert {path.name for path in Path("other").iterdir()} == {"a", "b"}
    assert not Path("runs").exists()


@pytest.mark.usefixtures("_own_wandb_process")
def test_a_resumed_run_is_one_run_of_weights_and_biases(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    real = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: started.append(options) or real(**options))
    for updates in (2, 3, 4):
        assert fit(f"--trainer.max_steps={updates}", "--ckpt_path=last", logger=[]) == 0
        wandb.finish()
    (run,) = LOGS.iterdir()
    assert [options["id"] for options in started] == [None, run.name, run.name]
    assert {options["resume"] for options in started[1:]} == {"allow"}
    files = sorted(Path("runs/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 3
    assert {path.stem for path in files} == {f"run-{run.name}"}
    assert update_of(run / "checkpoints" / "last.ckpt") == 4
    assert len(json.loads((run / "run.json").read_text())["continued"]) == 2


@pytest.mark.usefixtures("_own_wandb_process")
def test_an_id_that_was_given_counts(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fit("--trainer.max_steps=1", logger=[]) == 0
    wandb.finish()
    wandb.teardown()
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert fit("--trainer.max_steps=2", "--ckpt_path=last", logger=[]) == 0
    assert update_of(LOGS / "mine" / "checkpoints" / "last.ckpt") == 2
    assert len(list(LOGS.iterdir())) == 2


def test_a_run_that_still_runs_is_not_continued(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    """By another process; the lock of a killed process does not block."""
    assert fit("--trainer.max_steps=2") == 0
    before = (RUN / "metrics.csv").read_bytes()
    ready, end = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        RunLock().acquire(RUN)
        os.write(ready[1], b"1")
        os.read(end[0], 1)
        os._exit(0)  # as if killed
    try:
        os.read(ready[0], 1)
        assert fit("--trainer.max_steps=3", "--ckpt_path=last") == 1
        assert f"but process {child} on {socket.gethostname()} still writes to {RUN}." in capsys.readouterr().err
        assert (RUN / "metrics.csv").read_bytes() == before
    finally:
        os.write(end[1], b"1")
        os.waitpid(child, 0)
    assert (RUN / "run.lock").exists()
    assert fit("--trainer.max_steps=3", "--ckpt_path=last") == 0
    assert not (RUN / "run.lock").exists()
