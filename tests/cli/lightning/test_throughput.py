"""Every run logs its throughput."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from w2vlab.callbacks import RunReport, ThroughputMonitor, TrainingProgress
from w2vlab.cli.lightning.lightning_cli import W2VLightningCLI
from w2vlab.cli.main import main

RUN = Path("runs/w2vlab/version_0")
NAMES = {f"train/throughput/{name}" for name in ("mfu", "flops_per_second", "data_wait_share", "peak_memory_gib")}


def test_a_run_logs_and_shows_its_speed(fit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--throughput.mfu=true", "--throughput.window=5") == 0
    with (RUN / "metrics.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["train/audio_seconds_per_second"]]
    assert len(rows) == 2
    for row in rows:
        assert all(float(row[name]) > 0 for name in NAMES)
        assert float(row["train/throughput/mfu"]) < 1
        assert float(row["train/throughput/data_wait_share"]) < 1
    output = capsys.readouterr().out
    assert output.count(", audio s/s ") == 4, "each line has it, the first one too"
    cells = [line.split("│")[2].strip() for line in output.splitlines() if line.count("│") == 3]
    speed = " ".join(cells)  # a cell may continue in the next line, depending on the figures
    assert speed.count("s of audio a second") == 1
    assert ", MFU " in speed
    assert " % waiting" in speed
    last = json.loads((RUN / "report.json").read_text())["train"][-1]
    assert set(last) >= NAMES
    assert yaml.safe_load((RUN / "config.yaml").read_text())["throughput"] == {"mfu": True, "window": 5}


def test_it_precedes_callbacks_that_show_its_metrics(fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    orders = []
    monkeypatch.setattr(W2VLightningCLI, "fit", lambda self, **_: orders.append(self.trainer.callbacks))
    assert fit() == 0
    (callbacks,) = orders
    places = {type(callback): place for place, callback in enumerate(callbacks)}
    assert places[ThroughputMonitor] < min(places[TrainingProgress], places[RunReport])


def test_options_are_documented_and_checked(fit: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--throughput.window" in text
    assert "--throughput.mfu" in text
    assert fit("--throughput.window=0") == 1
    assert "`throughput.window` must be at least 1, but is 0." in capsys.readouterr().err
