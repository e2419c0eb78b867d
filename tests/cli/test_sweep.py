"""`w2vlab sweep`, from the command line to the files of its trials."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers import wandb_files
from tests.processes import forked
from w2vlab.cli.main import main

Write = Callable[..., Path]


@pytest.fixture
def write(tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a sweep of tiny runs; arguments replace its content."""
    monkeypatch.chdir(tmp_path)

    def write(**content: object) -> Path:
        path = tmp_path / "sweep.yaml"
        whole = {
            "name": "tiny",
            "program": "w2vlab",
            "command": ["${program}", "fit", f"--config={tiny_config}", "${args}"],
            "method": "grid",
            "metric": {"name": "val/loss/total", "goal": "minimize"},
            "parameters": {"model.quantizer": {"values": ["GumbelQuantizer", "KMeansQuantizer"]}},
            **content,
        }
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return path

    return write


def test_a_plan_shows_every_command_and_begins_nothing(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write()), "--seeds=2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "tiny: 4 trials (grid)" in printed
    assert printed.count("w2vlab fit --config=") == 4
    assert "--model.quantizer=KMeansQuantizer --seed_everything=2" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model.quantizer": {"values": ["GumbleQuantizer"]}}, "Unknown quantizer 'GumbleQuantizer'"),
        ({"model.quantizer": {"values": ["GumbleQuantizer"]}}, "Did you mean GumbelQuantizer?"),
        ({"trainer.max_step": {"values": [1]}}, "Unknown argument --trainer.max_step. Did you mean trainer.max_steps?"),
        ({"model.quantizer.codebook_sizes": {"values": [1]}}, "codebook_sizes"),
        ({"model.quantizer.codebook_size": {"values": [8, 0]}}, "`model.quantizer.codebook_size` must be"),
        ({"config": {"values": ["nowhere.yaml"]}}, "nowhere.yaml"),
        (
            # Each is fine, and both together are not.
            {"model.quantizer": {"value": "IdentityQuantizer"}, "model.loss": {"value": "CodePredictionLoss"}},
            "`model.quantizer` must have codebooks for CodePredictionLoss",
        ),
    ],
)
def test_invalid_trials_are_reported_before_the_first_one(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], parameters: dict[str, object], message: str
) -> None:
    assert main(["sweep", str(write(parameters=parameters)), "--devices=cpu"]) == 1
    error = capsys.readouterr().err
    assert "cannot be run: " in error
    assert message in error
    assert "No trial was started." in error
    assert not list(tmp_path.rglob("log.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parallel=1000", "--devices=cpu"], "`parallel` must be at most the number of processors"),
        (["--devices=97"], "`devices` must be auto, cpu, or some of the GPUs"),
        (["--parallel=0"], "`parallel` must be at least 1, but is 0."),
        (["--wandb=maybe"], "`wandb` must be one of 'offline', 'online' or null, but is maybe."),
    ],
)
def test_options_that_cannot_be(
    write: Write, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["sweep", str(write()), *options]) in (1, 2)
    assert message in capsys.readouterr().err


def test_an_interrupt_stops_trials_and_shows_how_to_resume(write: Write, tmp_path: Path) -> None:
    fake = Path(__file__).parents[1] / "sweeps" / "fake_run.py"
    path = write(
        program=str(fake),
        command=[sys.executable, "${program}", "${args}"],
        parameters={"kind": {"values": ["waits", "plain"]}},
    )
    command = [sys.executable, "-m", "w2vlab", "sweep", str(path), "--devices=cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "running" in process.stdout.readline()
        while not list((tmp_path / "runs").rglob("last.ckpt")):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
    assert process.returncode == 130
    assert f"Resume with: w2vlab sweep {path} --devices=cpu" in printed
    assert "2 waiting" in printed


def test_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml. `w2vlab configs` lists them" in capsys.readouterr().err


def test_a_whole_sweep_and_the_same_again(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("w2vlab.sweeps.running.machine.subprocess", forked)
    parameters = {
        "model.quantizer": {"values": ["GumbelQuantizer", "KMeansQuantizer"]},
        "trainer.max_steps": {"value": 2},
    }
    command = ["sweep", str(write(parameters=parameters)), "--devices=cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "2 finished" in printed
    assert "2 of 2" in printed
    assert "w2vlab report runs/sweeps/tiny" in printed
    folder = tmp_path / "runs" / "sweeps" / "tiny"
    record = json.loads((folder / "sweep.json").read_text())
    assert [trial["state"] for trial in record["trials"]] == ["finished", "finished"]
    for trial in record["trials"]:
        (report,) = (folder / trial["name"]).rglob("report.json")
        losses = [row["val/loss/total"] for row in json.loads(report.read_text())["validation"]]
        assert trial["value"] == pytest.approx(min(losses))
        quantizer = trial["parameters"]["model.quantizer"]
        assert (
            quantizer
            in yaml.safe_load((report.parent / "config.yaml").read_text())["model"]["init_args"]["quantizer"][
                "class_path"
            ]
        )
        # One offline run a trial, in the group of the sweep.
        (run,) = (folder / trial["name"]).rglob("run-*.wandb")
        assert wandb_files.group_and_name(run) == ("tiny", trial["name"])
    # Losses of two quantizers: neither is the better one.
    assert "(best)" not in printed
    assert "No trial is the best: val/loss/total cannot be compared, they differ in the quantizer" in printed
    assert main(command) == 0
    assert all((folder / trial["name"] / "log.txt").read_text().count("picture: ") == 1 for trial in record["trials"])

    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    sweep["command"].insert(-1, "--model.optimizer.lr=0.01")
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    capsys.readouterr()
    assert main([*command, "--dry-run"]) == 0
    assert "was run with other options: model.optimizer.lr 0.001 -> 0.01" in capsys.readouterr().out
    before = (folder / "sweep.json").read_text()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert all(f"{trial['name']}: model.optimizer.lr 0.001 -> 0.01" in error for trial in record["trials"])
    assert "--repeat=changed" in error
    assert (folder / "sweep.json").read_text() == before


@pytest.mark.parametrize(
    ("name", "folder"), [("../../x", "x-[0-9a-f]{6}"), ("/etc/x", "etc_x-[0-9a-f]{6}"), ("a b: ü", "a b: ü")]
)
def test_a_sweep_stays_in_its_folder_whatever_its_name(write: Write, tmp_path: Path, name: str, folder: str) -> None:
    fake = Path(__file__).parents[1] / "sweeps" / "fake_run.py"
    place = tmp_path / "a" / "b" / "c"
    place.mkdir(parents=True)
    path = write(
        name=name,
        program=str(fake),
        command=[sys.executable, "${program}", "${args}"],
        parameters={"kind": {"value": "plain"}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["sweep", str(path), "--devices=cpu"]) == 0
    (made,) = (place / "runs" / "sweeps").iterdir()
    assert re.fullmatch(folder, made.name)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "sweep.yaml"}


@pytest.mark.parametrize(
    ("parameters", "flags"),
    [
        (
            {"model.quantizer": {"value": "IdentityQuantizer"}, "model.loss": {"value": "CodePredictionLoss"}},
            ["--model.quantizer=IdentityQuantizer", "--model.loss=CodePredictionLoss"],
        ),
        ({"model": {"value": "FuturePrediction"}}, ["--model=FuturePrediction"]),
        ({"model.context.model_dim": {"value": 7}}, ["--model.context.model_dim=7"]),
        ({"trainer.gradient_clip_val": {"value": "x"}}, ["--trainer.gradient_clip_val=x"]),
    ],
)
def test_an_impossible_pair_has_the_message_of_fit(
    write: Write,
    tiny_config: Path,
    capsys: pytest.CaptureFixture[str],
    parameters: dict[str, object],
    flags: list[str],
) -> None:
    assert main(["sweep", str(write(parameters=parameters)), "--dry-run"]) == 1
    by_sweep = capsys.readouterr().err.splitlines()
    try:
        status = main(["fit", f"--config={tiny_config}", *flags, "--trainer.logger=false"])
    except SystemExit as refused:
        status = int(str(refused.code))
    assert status in (1, 2)
    problem = capsys.readouterr().err.splitlines()[0].removeprefix("error: ")
    assert by_sweep[0].endswith(f"cannot be run: {problem}")
    assert by_sweep[1] == "No trial was started."


def test_null_is_a_value(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["sweep", str(write(parameters={"trainer.gradient_clip_val": {"values": [None, 5]}})), "--dry-run"]) == 0
    )
    printed = capsys.readouterr().out
    assert "--trainer.gradient_clip_val=null" in printed
    assert "--trainer.gradient_clip_val=5" in printed
