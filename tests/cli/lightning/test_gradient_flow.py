"""GradientFlow, switched on from the command line and in YAML."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
import yaml

from tests.helpers import wandb_files

Fit = Callable[..., int]
FRAGMENT = Path(__file__).parents[3] / "configs" / "callbacks" / "gradient_flow.yaml"
RUN, NEXT_RUN = Path("runs/w2vlab/version_0"), Path("runs/w2vlab/version_1")


def losses(run: Path) -> list[str]:
    rows = csv.DictReader((run / "metrics.csv").open())
    return [row["train/loss/total"] for row in rows if row["train/loss/total"]]


def test_switched_on_by_its_name(fit: Fit) -> None:
    assert fit() == 0
    assert fit("--trainer.callbacks+=GradientFlow", "--trainer.callbacks.every=2") == 0
    added = {path.name for path in NEXT_RUN.iterdir()} - {path.name for path in RUN.iterdir()}
    assert added == {"gradient_flow.png", "gradient_flow.json"}
    content = json.loads((NEXT_RUN / "gradient_flow.json").read_text())
    assert content["update"] == 2
    assert content["norms"]["diversity"]["codebook"] == 0
    assert content["norms"]["diversity"]["scores"] > 0
    rows = csv.DictReader((NEXT_RUN / "metrics.csv").open())
    norms = {row["step"]: row["gradient_flow/diversity/scores/norm"] for row in rows}
    assert [step for step, norm in norms.items() if norm] == ["0", "2"]
    assert float(norms["2"]) == content["norms"]["diversity"]["scores"]
    assert losses(RUN) == losses(NEXT_RUN)
    assert len(losses(RUN)) == 2


def test_fragment(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    use = f"w2vlab fit --config configs/quickstart.yaml --trainer.callbacks+=configs/callbacks/{FRAGMENT.name}"
    assert use in FRAGMENT.read_text()
    assert fit(f"--trainer.callbacks+={FRAGMENT}", "--print_config") == 0
    (callback,) = yaml.safe_load(capsys.readouterr().out)["trainer"]["callbacks"]
    assert callback == {"class_path": "w2vlab.callbacks.GradientFlow", "init_args": {"every": 50}}


@pytest.mark.usefixtures("_own_wandb_process")
def test_weights_and_biases_get_numbers_and_picture(fit: Fit) -> None:
    logger = ["--trainer.logger=WandbLogger", "--trainer.logger.offline=true", "--trainer.logger.save_dir=runs"]
    assert fit("--trainer.callbacks+=GradientFlow", "--trainer.max_steps=1", logger=logger) == 0
    wandb.finish()
    wandb.teardown()  # returns when everything is written, unlike `finish`
    rows = wandb_files.history(Path("runs"))
    (numbers,) = (row for row in rows if "gradient_flow/contrastive/context/norm" in row)
    assert numbers["trainer/global_step"] == 0
    (picture,) = (row for row in rows if row.get("gradient_flow/_type") == "images/separated")
    files = wandb_files.run_file(Path("runs")).parent / "files"
    assert (files / picture["gradient_flow/filenames"][0]).is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["+=GradientFlo"], "Unknown class 'GradientFlo' for `trainer.callbacks`. Did you mean GradientFlow?"),
        (["+=EarlyStoping"], "Unknown class 'EarlyStoping' for `trainer.callbacks`. Did you mean EarlyStopping?"),
        (
            ["+=Zzz"],
            "Unknown class 'Zzz' for `trainer.callbacks`. Give its full import path, as in package.module.Zzz.",
        ),
        (["+=GradientFlow", ".every=soon"], "`trainer.callbacks.every` must be of type int, but is soon."),
        (
            ["+=GradientFlow", ".updates=3"],
            "`trainer.callbacks` has no option 'updates', as GradientFlow takes none of that name. Known: every.",
        ),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str, fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(*(f"--trainer.callbacks{flag}" for flag in flags)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_an_interval_of_nothing(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.callbacks+=GradientFlow", "--trainer.callbacks.every=0") == 1
    assert "error: `trainer.callbacks.every` must be at least 1, but is 0." in capsys.readouterr().err
