"""What reaches the loggers, read back from their files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
import yaml
from lightning.pytorch.loggers import WandbLogger

from tests.helpers import wandb_files

Fit = Callable[..., int]
FRAGMENTS = Path(__file__).parents[3] / "configs" / "logger"


@pytest.mark.usefixtures("_own_wandb_process")
def test_offline_run_of_weights_and_biases(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(logger=[f"--trainer.logger={FRAGMENTS / 'wandb_offline.yaml'}"]) == 0
    wandb.finish()
    wandb.teardown()  # returns when everything is written, unlike `finish`
    root = Path("runs")
    config = wandb_files.config(root)
    assert config["model"]["class_path"] == "w2vlab.modules.MaskedPrediction"
    assert config["model"]["init_args"]["quantizer"]["init_args"]["codebook_size"] == 8
    assert config["trainer"]["max_steps"] == 4

    rows = wandb_files.history(root)
    logged = set().union(*rows)
    assert {
        *("train/loss/total", "train/loss/contrastive", "train/accuracy", "train/codebook/perplexity_hard"),
        *("train/gumbel_temperature", "val/loss/total", "val/accuracy", "val/codebook/num_used", "lr-AdamW"),
    } <= logged
    validations = [row["val/loss/total"] for row in rows if "val/loss/total" in row]
    assert len(validations) == 2
    assert all(0 < loss < 100 for loss in validations)

    (first, _) = (row for row in rows if "val/codebook/usage_histogram/values" in row)
    shares = first["val/codebook/usage_histogram/values"]
    assert first["trainer/global_step"] == 2
    assert first["val/codebook/usage_histogram/bins"] == list(range(9))
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)

    pictures = [row for row in rows if row.get("report/_type") == "images/separated"]
    assert pictures[-1]["trainer/global_step"] == 4
    run_folder = wandb_files.run_file(root).parent
    assert (run_folder / "files" / pictures[-1]["report/filenames"][0]).is_file()

    output = capsys.readouterr().out
    assert f"Weights & Biases: {run_folder}" in output.replace(str(Path.cwd()) + "/", "")
    (checkpoints,) = root.glob("w2vlab/*/checkpoints")
    assert {path.name for path in checkpoints.parent.iterdir()} == {
        *("checkpoints", "config.yaml", "metrics.jsonl", "report.json", "report.png", "run.json"),
    }


@pytest.mark.usefixtures("_own_wandb_process")
def test_a_run_continues_without_weights_and_biases(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its calls raise when its process on this machine has died; the logger is the plain one of the options."""

    def lost(*_: object, **__: object) -> None:
        raise ConnectionResetError("Connection lost")

    begin = WandbLogger.log_hyperparams

    def begin_and_lose(*args: object) -> None:
        begin(*args)
        monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", lost)

    monkeypatch.setattr(WandbLogger, "log_hyperparams", begin_and_lose)
    assert fit(logger=[]) == 0
    assert (
        capsys.readouterr().err.count("Weights & Biases cannot log any more: ConnectionResetError: Connection lost")
        == 1
    )
    (report,) = Path("runs").glob("w2vlab/*/report.json")
    assert [row["update"] for row in json.loads(report.read_text())["validation"]] == [2, 4]


def test_tables(fit: Fit) -> None:
    assert fit(logger=[f"--trainer.logger={FRAGMENTS / 'csv.yaml'}"]) == 0
    run = Path("runs/w2vlab/version_0")
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["val/loss/total"]] == ["1", "3"]
    assert yaml.safe_load((run / "hparams.yaml").read_text())["trainer"]["max_steps"] == 4


@pytest.mark.parametrize("path", sorted(FRAGMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_fragment_names_its_command_and_parses(path: Path, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    comment = path.read_text().split("\nclass_path")[0]
    assert f"w2vlab fit --config configs/quickstart.yaml --trainer.logger=configs/logger/{path.name}" in comment
    assert fit("--print_config", logger=[f"--trainer.logger={path}"]) == 0
    resolved = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    fragment = yaml.safe_load(path.read_text())
    assert resolved["class_path"].endswith(f".{fragment['class_path']}")
    assert {name: resolved["init_args"][name] for name in fragment["init_args"]} == fragment["init_args"]
