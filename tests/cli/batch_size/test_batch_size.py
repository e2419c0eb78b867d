"""`w2vlab batch-size` on a tiny run, on the CPU."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import RUN
from tests.processes import forked
from w2vlab.cli.lightning.parsed import check_run
from w2vlab.cli.main import main
from w2vlab.explain.batch_size import trial


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The tiny run without a corpus, in an empty folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RUN))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return path


def test_it_prints_and_writes_options_that_fit_takes(config, capsys, monkeypatch):
    monkeypatch.setattr(trial, "MAX_DEVIATION", float("inf"))
    words = [str(config), "--rounds=2", "--out=batches.yaml", "--data.micro_batches=3"]
    # On a busy machine the times of a tiny model can be noise that does not grow with the audio, which is refused.
    assert 0 in (main(["batch-size", *words]) for _ in range(5))
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    assert next(line for line in output.out.splitlines() if line.endswith("%")).startswith("5 x 0.5 s")
    assert "Written: batches.yaml" in output.out
    assert [path.name for path in Path.cwd().iterdir()] == ["batches.yaml"]
    options = yaml.safe_load(Path("batches.yaml").read_text())
    assert yaml.safe_dump(options, sort_keys=False) in output.out
    data = options["data"]
    assert data["micro_batches"] >= 1
    # an update of utterances of a second has 15 s, as before
    count = 1 if data["quadratic_seconds"] is None else 1 + 1 / data["quadratic_seconds"]
    assert data["micro_batches"] * data["batch_seconds"] / count == pytest.approx(15, rel=1e-3)
    _, all_options = check_run([f"--config={config}", "--config=batches.yaml", "--data.corpus=none"])
    assert {name: all_options[f"data.{name}"] for name in data} == data


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "`CONFIG` must be given"),
        (["nowhere"], 2, "nowhere"),
        (["CONFIG", "--memory=-1"], 2, "`memory` must be a positive number, but is -1"),
        (["CONFIG", "--rounds=0"], 2, "`rounds` must be at least 1, but is 0"),
        (["CONFIG", "--out=."], 2, "`out` must be a file, but . is a folder"),
        (["CONFIG", "--out=nowhere/batches.yaml"], 2, "`out` must be in a folder that exists"),
        (["CONFIG", "--memory=0.01"], 1, "`memory` must suffice for an update with one utterance of 1 s, but is 0.01"),
        (
            ["CONFIG", "--data.max_seconds=0.4"],
            1,
            "`data.max_seconds` must be at least `data.min_seconds`, 0.5, but is 0.4",
        ),
        (["CONFIG", "--data.batch_seconds=0.9"], 1, "`data.batch_seconds` must be at least `data.max_seconds`"),
        (["CONFIG", "--trainer.strategy=fsdp"], 1, "`trainer.strategy` must keep the whole model on each device"),
        (
            ["CONFIG", "--model=CTCFineTuning", "--model.checkpoint=a.ckpt"],
            1,
            "`model` must be a pretraining objective",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(words, status, message, config, capsys):
    assert main(["batch-size", *(str(config) if word == "CONFIG" else word for word in words)]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert list(Path.cwd().iterdir()) == []


def test_it_can_be_interrupted(config):
    command = [sys.executable, "-m", "w2vlab", "batch-size", str(config), "--rounds=100000"]
    with forked.Popen(command, stdout=forked.PIPE, stderr=forked.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if line.startswith("memory: "):
                break
        time.sleep(0.2)  # within the times
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert rest.strip().splitlines()[-1] == "Ended by SIGINT."
    assert "Traceback" not in rest
    assert list(Path.cwd().iterdir()) == []
