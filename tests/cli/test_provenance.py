"""The record of a run, by which it can be repeated and compared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

import w2vlab
from w2vlab.callbacks.fault_tolerance.stopping import Stopped
from w2vlab.callbacks.records import provenance
from w2vlab.callbacks.records.metric_log import MetricLog
from w2vlab.utils.files import write_atomically

Fit = Callable[..., int]
RUN, NEXT_RUN = Path("runs/w2vlab/version_0"), Path("runs/w2vlab/version_1")


class StopAfter(Callback):
    """Ends a run as a signal or a bug does."""

    def __init__(self, update: int, bug: bool = False) -> None:
        self.update = update
        self.bug = bug

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.update:
            raise KeyError("a bug") if self.bug else Stopped(15)


def read_run(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(row: dict[str, float]) -> dict[str, float]:
    """Without values that depend on the clock, the machine and earlier logs."""
    clock = ("seconds", "train/throughput", "train/audio", "train/skipped")
    return {name: value for name, value in row.items() if not name.startswith(clock)}


def test_run_records_how_to_repeat_it(fit: Fit, tiny_config: Path) -> None:
    assert fit("--seed_everything=7", "--trainer.max_steps=2") == 0
    run = read_run(RUN)
    assert run["command"][:3] == ["w2vlab", "fit", f"--config={tiny_config}"]
    assert run["command"][-1] == "--trainer.max_steps=2"
    assert run["folder"] == os.getcwd()
    assert (run["seed"], run["processes"], run["status"], run["continued"]) == (7, 1, "finished", [])
    assert run["versions"]["torch"] == version("torch")
    assert run["versions"]["w2vlab"] == w2vlab.__version__
    assert run["device"].startswith("cpu, ")
    assert run["checkpoint"] is None
    assert run["started"] <= run["finished"]
    assert not list(Path("runs").rglob("*.unfinished"))


def test_every_row_has_its_cost(fit: Fit) -> None:
    assert fit() == 0
    found = rows(RUN)
    assert [(row["update"], "val/loss/total" in row) for row in found] == [(2, False), (2, True), (4, False), (4, True)]
    audio = [row["audio_seconds"] for row in found]
    assert 0 < audio[0] == audio[1] < audio[2] == audio[3] <= 4 * 5  # batches of 5 seconds
    assert all(before["seconds"] <= after["seconds"] for before, after in pairwise(found))
    report = json.loads((RUN / "report.json").read_text())
    assert report["cost"]["audio_seconds"] == audio[-1]
    assert report["cost"]["updates"] == 4
    assert report["cost"]["seconds"] >= found[-1]["seconds"] > 0
    assert report["cost"]["peak_memory_gib"] == found[-2]["train/throughput/peak_memory_gib"] > 0
    assert [row for row in found if "val/loss/total" in row] == report["validation"]


@pytest.mark.parametrize("same_folder", [True, False])
def test_a_resumed_run_extends_its_record(
    same_folder: bool, fit: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logger = ["--trainer.logger=CSVLogger", "--trainer.logger.name=w2vlab"]
    first, second = RUN, RUN if same_folder else NEXT_RUN
    every = "--trainer.log_every_n_steps=1"
    (tmp_path / "undisturbed").mkdir()
    (tmp_path / "disturbed").mkdir()
    monkeypatch.chdir(tmp_path / "undisturbed")
    assert fit(every, logger=logger) == 0
    whole = rows(first)
    monkeypatch.chdir(tmp_path / "disturbed")
    stop = "--trainer.callbacks+={class_path: tests.cli.test_provenance.StopAfter, init_args: {update: 3}}"
    assert fit(every, stop, logger=logger) == 128 + 15
    assert (read_run(first)["status"], len(rows(first))) == ("stopped", 4)
    started = read_run(first)
    new_run = [] if same_folder else ["--new_run=true"]
    assert fit(every, *new_run, "--ckpt_path=last", logger=logger) == 0
    assert [numbers(row) for row in rows(second)] == [numbers(row) for row in whole]
    assert read_run(first)["status"] == ("finished" if same_folder else "stopped")
    run = read_run(second)
    assert run["status"] == "finished"
    assert run["command"] == started["command"]
    (later,) = run["continued"]
    assert later.keys() - {"changed"} == started.keys() - {"continued", "finished", "status"}
    assert later["command"][-1] == "--ckpt_path=last"
    assert later["checkpoint"].endswith("checkpoints/last.ckpt")


def test_a_bug_is_a_failure(fit: Fit) -> None:
    stop = "--trainer.callbacks+={class_path: tests.cli.test_provenance.StopAfter, init_args: {update: 1, bug: true}}"
    with pytest.raises(KeyError, match="a bug"):
        fit(stop)
    assert read_run(RUN)["status"] == "failed"
    assert read_run(RUN)["finished"] is not None


def test_a_new_run_of_the_same_command_starts_a_new_record(fit: Fit) -> None:
    for run in (RUN, NEXT_RUN):
        assert fit("--trainer.max_steps=2", logger=["--trainer.logger=false"]) == 0
        assert len(rows(run)) == 2
        assert read_run(run)["continued"] == []


def test_validating_is_not_a_run(fit: Fit, tiny_config: Path) -> None:
    from w2vlab.cli.main import main

    assert fit("--trainer.max_steps=2") == 0
    before = (RUN / "run.json").read_text()
    assert main(["validate", f"--config={tiny_config}", "--trainer.logger=false", "--ckpt_path=last"]) == 0
    assert (RUN / "run.json").read_text() == before
    assert list(Path("runs").rglob("run.json")) == [RUN / "run.json"]


def test_half_a_line_of_a_killed_process_spoils_no_other(tmp_path: Path) -> None:
    log = MetricLog()
    log.begin(tmp_path, {"train": []}, update=None)
    log.record("train", {"update": 1, "train/loss/total": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 2, "tra')
    again = MetricLog()
    again.begin(tmp_path, {"train": [{"update": 1}]}, update=1)
    again.record("train", {"update": 1, "train/loss/total": 9.0})
    again.record("train", {"update": 2, "train/loss/total": 2.0})
    again.record("validation", {"update": 1, "val/loss/total": 3.0})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [
        '{"update": 1, "train/loss/total": null}',
        '{"update": 2, "train/loss/total": 2.0}',
        '{"update": 1, "val/loss/total": 3.0}',
    ]


def test_what_comes_again_is_in_the_log_once(tmp_path: Path) -> None:
    """A killed run has logged more than its checkpoint knows, and a long one more than fits into it."""
    log = MetricLog()
    log.begin(tmp_path, {"train": []}, update=None)
    for update in (1, 2, 3, 4):
        log.record("train", {"update": update, "train/loss/total": float(update)})
    log.record("validation", {"update": 2, "val/loss/total": 5.0})
    whole = (tmp_path / "metrics.jsonl").read_text().splitlines()
    again = MetricLog()
    again.begin(tmp_path, {"train": [{"update": 1}], "validation": []}, update=2)
    again.record("validation", {"update": 2, "val/loss/total": 5.0})  # it was due, and is done once more
    for update in (3, 4):
        again.record("train", {"update": update, "train/loss/total": float(update)})
    assert sorted((tmp_path / "metrics.jsonl").read_text().splitlines()) == sorted(whole)
    assert not list(tmp_path.glob("*.unfinished"))


def test_options_of_earlier_starts_are_kept(fit: Fit) -> None:
    """Those that differ; the checkpoint is not an option."""
    assert fit("--trainer.max_steps=2") == 0
    assert fit("--trainer.max_steps=2", "--ckpt_path=last") == 0
    assert fit("--trainer.max_steps=4", "--ckpt_path=last", "--model.optimizer.lr=0.01") == 0
    configs = {path.name: yaml.safe_load(path.read_text()) for path in RUN.glob("config*.yaml")}
    assert {name: config["trainer"]["max_steps"] for name, config in configs.items()} == {
        "config.yaml": 4,
        "config-1.yaml": 2,
    }
    assert all(config["ckpt_path"] is None for config in configs.values())
    first, second = read_run(RUN)["continued"]
    assert (first["changed"], second["changed"]) == ({}, {"model.optimizer.lr": [0.001, 0.01]})
    assert second["root"] == str(Path("runs").absolute())


def test_a_killed_write_leaves_nothing_for_good(fit: Fit) -> None:
    assert fit("--trainer.max_steps=2") == 0
    (RUN / "run.json.unfinished").write_text("{")
    assert fit("--trainer.max_steps=3", "--ckpt_path=last") == 0
    assert not list(Path("runs").rglob("*.unfinished"))
    with pytest.raises(OSError, match="directory"):
        write_atomically(RUN / "checkpoints", "not over a folder")
    assert not list(Path("runs").rglob("*.unfinished"))


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *identity, *args], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_commit_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(w2vlab, "__file__", str(tmp_path / "w2vlab" / "__init__.py"))
    (tmp_path / "w2vlab").mkdir()
    assert provenance.git_state() is None
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "untracked").write_text("1")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert provenance.git_state() == {"commit": commit, "changed": False}
    (tmp_path / "a").write_text("2")
    assert provenance.git_state() == {"commit": commit, "changed": True}


def test_commit_of_a_repository_that_does_not_follow_the_package_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package may be installed below a repository that has nothing to do with it."""
    repository, elsewhere = tmp_path / "repository", tmp_path / "elsewhere"
    package = repository / "site-packages" / "w2vlab"
    package.mkdir(parents=True)
    elsewhere.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(w2vlab, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(elsewhere)
    git(repository, "init", "-q")
    git(repository, "commit", "-qm", "one", "--allow-empty")
    assert provenance.git_state() is None
    git(repository, "add", "-f", ".")
    assert provenance.git_state() == {"commit": git(repository, "rev-parse", "HEAD").strip(), "changed": True}
