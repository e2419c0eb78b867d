"""What a user sees of a run: news, and nothing else."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from rich.text import Text

from tests.processes import forked
from w2vlab.cli.logging.loggers import guard
from w2vlab.cli.logging.no_news import without_routine_messages

SOURCE_LINE = re.compile(r"\.py:\d+")


def shown(config: Path, folder: Path, *options: str) -> list[str]:
    """All lines of a run with the loggers, callbacks and tables of every run, in a new process."""
    command = [sys.executable, "-m", "w2vlab", "fit", f"--config={config}", "--trainer.enable_model_summary=true"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "150"}
    run = forked.run(
        [*command, *options], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert run.returncode == 0, run.stdout
    return [Text.from_ansi(line).plain.rstrip() for line in run.stdout.splitlines()]


def test_a_run_shows_news_alone(tiny_config: Path, tmp_path: Path) -> None:
    lines = shown(tiny_config, tmp_path)
    text = "\n".join(lines)
    assert "warning" not in text.lower()
    assert not SOURCE_LINE.search(text)
    for noise in ("FLOPs", "anonymous", "Seed set to", "available: False", "Modules in", "stopped: `max_steps", "💡"):
        assert noise not in text
    # Each with one number of ones, and a duration above zero.
    assert not re.search(r"(?<![\d.])1 (\w|-)+s\b", text)
    assert not re.search(r"\b0\.00 (h|min|s)\b", text)
    # The rest: the data, the parts, the results and the folder.
    own = [line for line in lines if line and not line.startswith("wandb")]
    assert [line for line in own if " to train on, " in line]
    parts = own[own.index(next(line for line in own if line.startswith("part "))) :]
    assert parts[0].split() == ["part", "class", "parameters"]
    rows = {line.split()[0]: line.split()[1:] for line in parts[1:9]}
    assert rows["masking"] == ["SpanMasking"]
    assert rows["encoder"][0] == "ConvFeatureEncoder"
    assert rows["encoder"][1] != "0"
    assert any(re.fullmatch(r"[\d.,]+ ?K? parameters, all of them learn", line) for line in parts)


def test_an_option_without_effect_is_one_line(tiny_config: Path, tmp_path: Path) -> None:
    """Also if it is noticed twice: in the sanity check and before the update."""
    options = (
        *("--model.quantizer=KMeansQuantizer", "--data.micro_batches=2"),
        *("--trainer.max_steps=2", "--trainer.check_val_every_n_epoch=null"),
    )
    lines = shown(tiny_config, tmp_path, "--trainer.logger=false", *options)
    (line,) = [line for line in lines if "warning" in line.lower()]
    assert line.startswith("warning: DiversityPenalty has no effect: this quantizer has no probabilities.")
    assert not SOURCE_LINE.search("\n".join(lines))
    assert not [line for line in lines if "statistics" in line]


def test_only_routine_messages_of_lightning_are_filtered(caplog: pytest.LogCaptureFixture) -> None:
    seed = logging.getLogger("lightning.fabric.utilities.seed")
    with caplog.at_level(logging.INFO), without_routine_messages():
        for said in ("GPU available: False, used: False", "TPU available: False, using: 0 TPU cores", "💡 Tip"):
            rank_zero_info(said)
        seed.info("[rank: 1] Seed set to 7")
        assert not caplog.messages
        for said in ("GPU available: True (cuda), used: True", "`Trainer.fit` stopped: `max_time=1` reached."):
            rank_zero_info(said)
        assert len(caplog.messages) == 2
    rank_zero_info("GPU available: False, used: False")
    assert len(caplog.messages) == 3


def test_an_unset_setting_is_not_passed_to_wandb() -> None:
    """Lightning passes `anonymous=None`, and Weights & Biases warns if it is passed."""
    logger, wanted = WandbLogger(offline=True), WandbLogger(offline=True, anonymous=True)
    guard([logger, wanted])
    assert "anonymous" not in logger._wandb_init
    assert wanted._wandb_init["anonymous"] == "allow"


def test_a_summary_that_was_asked_for_is_the_only_one(tiny_config: Path, tmp_path: Path) -> None:
    options = ("--trainer.max_steps=1", "--trainer.logger=false", "--trainer.callbacks+=RichModelSummary")
    text = "\n".join(shown(tiny_config, tmp_path, *options))
    assert "Total params" in text
    assert "all of them learn" not in text
