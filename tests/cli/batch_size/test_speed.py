"""`w2vlab explain --speed` on a tiny run, on the CPU."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import RUN
from tests.processes import forked
from w2vlab.cli.batch_size import speed_trial
from w2vlab.cli.main import main


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speed_trial, "_STEP_SECONDS", 8.0)
    monkeypatch.setattr(speed_trial, "_READING_SECONDS", 0.5)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def test_it_says_what_limits_the_run(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"--config={tiny_config}", "--no_gradients", "--speed"]) == 0
    output = capsys.readouterr()
    lines = output.out.rstrip().splitlines()
    assert lines[-1].startswith("Limited by ")
    assert any(line.startswith("Speed of a micro-batch of 5 x 1 s, on noise, on cpu in float32") for line in lines)
    table = {line.split()[0]: line for line in lines[-9:] if line.strip()}
    assert {"products", "memory", "host", "data", "total"} <= set(table)
    assert "by the training process, " in table["data"]
    assert any("device-hours at" in line for line in lines), "the measured speed gives the time of the run"
    assert list(Path.cwd().iterdir()) == []


def test_json_and_no_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(RUN))
    assert main(["explain", f"--config={config}", "--no_gradients", "--json", "--speed"]) == 0
    found: Any = json.loads(capsys.readouterr().out)
    assert found["speed"]["reading_audio_seconds_per_second"] is None
    assert sum(found["speed"]["shares"].values()) == pytest.approx(1)
    assert found["cost"]["speed"] == pytest.approx(found["speed"]["audio_seconds_per_second"], rel=0.01)


def test_micro_batches_that_are_computed_at_once_are_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(RUN))
    fused = ["--data.micro_batches=2", "--data.fuse_seconds=10"]
    assert main(["explain", f"--config={config}", "--no_gradients", "--json", "--speed", *fused]) == 0
    found = json.loads(capsys.readouterr().out)["speed"]
    assert found["utterances"] == 10
    assert " of 2 micro-batches at once" in found["line"]


def test_it_can_be_interrupted(tiny_config: Path) -> None:
    command = [sys.executable, "-m", "w2vlab", "explain", f"--config={tiny_config}", "--speed"]
    with forked.Popen(command, stdout=forked.PIPE, stderr=forked.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if line.startswith("steps of "):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert rest.strip().splitlines()[-1] == "Ended by SIGINT."
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--speed=0"], "`speed` must be a positive number, but is 0"),
        (["--speed=fast"], "speed"),
        (["--speed", "--trainer.strategy=fsdp"], "`trainer.strategy` must keep the whole model on each device"),
    ],
)
def test_wrong_usage(words: list[str], message: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"--config={tiny_config}", "--no_gradients", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
