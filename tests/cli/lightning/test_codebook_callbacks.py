"""CodebookHealth and CollapseWatchdog, switched on from the command line and in YAML."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml

from tests.helpers import wandb_files
from w2vlab.callbacks import CollapseWatchdog
from w2vlab.callbacks.diagnosis.cures import RunSettings, suggest_fixes

Fit = Callable[..., int]
FRAGMENTS = Path(__file__).parents[3] / "configs" / "callbacks"
RUN = Path("runs/w2vlab/version_0")
BOTH = ["--trainer.callbacks+=CodebookHealth", "--trainer.callbacks+=CollapseWatchdog"]

WIDE = ["--model.penalties={}", "--model.quantizer=KMeansQuantizer", "--model.quantizer.gamma=0"]
RECKLESS = [
    *WIDE,
    "--model.optimizer.lr=10",
    "--model.scheduler.warmup_updates=0",
    "--model.scheduler.total_updates=99",
]
"""Down to one code within ten updates."""


@pytest.fixture
def _own_wandb_run() -> Iterator[None]:
    wandb.finish()
    yield
    wandb.finish()


def test_both_by_their_names(fit: Fit) -> None:
    assert fit(*BOTH) == 0
    looks = json.loads((RUN / "codebook_health.json").read_text())["looks"]
    assert [look["update"] for look in looks] == [0, 4]
    assert (RUN / "codebook_health.png").is_file()
    assert not (RUN / "collapse.json").exists()


def test_without_a_logger(fit: Fit) -> None:
    assert fit(*BOTH, logger=["--trainer.logger=false"]) == 0
    assert (RUN / "codebook_health.json").is_file()


def test_fragments(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [FRAGMENTS / "codebook_health.yaml", FRAGMENTS / "collapse_watchdog.yaml"]
    assert fit(*(f"--trainer.callbacks+={path}" for path in paths), "--print_config") == 0
    resolved = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert len(resolved) == 2
    for path, callback in zip(paths, resolved, strict=True):
        fragment = yaml.safe_load(path.read_text())
        assert callback["class_path"] == f"w2vlab.callbacks.{fragment['class_path']}"
        assert {name: callback["init_args"][name] for name in fragment["init_args"]} == fragment["init_args"]


def alerts_of_the_run() -> list[Any]:
    records = wandb_files.records(wandb_files.run_file(Path("runs")))
    return [record.alert for record in records if record.alert.title]


@pytest.mark.usefixtures("_own_wandb_run")
def test_a_collapse_stops_the_run_and_is_reported_everywhere(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    watchdog = [f"--trainer.callbacks.{option}" for option in ("every=2", "window=6", "action=stop")]
    logger = ["--trainer.logger.name=run", "--trainer.callbacks+=CollapseWatchdog", *watchdog]
    health = ["--trainer.callbacks+=CodebookHealth", "--trainer.max_steps=60"]
    assert fit(*RECKLESS, *health, logger=logger) == 0
    wandb.finish()
    (path,) = Path("runs").rglob("collapse.json")
    events = json.loads(path.read_text())["events"]
    assert {event["done"] for event in events} == {"The run is stopped."}
    captured = capsys.readouterr()
    update = events[0]["update"]
    assert update < 60
    assert f"CollapseWatchdog, update {update}: {events[0]['seen']} The run is stopped." in captured.err
    assert f"update {update}" in captured.out  # the report's title
    alerts = alerts_of_the_run()
    for _ in range(50):  # W&B's own process writes the file, on a busy machine after the run has finished
        if alerts:
            break
        time.sleep(0.2)
        alerts = alerts_of_the_run()
    assert [alert.title for alert in alerts] == [f"{event['signature']} at update {update}" for event in events]
    assert events[0]["seen"] in alerts[0].text
    rows = wandb_files.history(Path("runs"))
    assert any("codebook_health/1/perplexity_hard" in row for row in rows)
    assert any(row.get("codebook_health/_type") == "images/separated" for row in rows)


SETTINGS = [
    RunSettings(
        learning_rate=5e-4,
        quantizer="GumbelQuantizer",
        codebook_size=320,
        temperatures=(2.0, 0.5),
        has_probabilities=True,
        penalties={"diversity": ("DiversityPenalty", 0.1), "feature": ("FeaturePenalty", 10.0)},
        default_penalties=True,
        normalizes_waveform=False,
        num_negatives=100,
        half_precision=True,
    ),
    RunSettings(learning_rate=5e-4, has_probabilities=True),
]
FLAGS = sorted(
    {fix.flags for s in CollapseWatchdog().signatures for facts in SETTINGS for fix in suggest_fixes(s.name, facts)}
)


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_of_cures_are_accepted(flags: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(*flags.split(), "--print_config") == 0, capsys.readouterr().err
