"""Keeps with every run what it takes to repeat it."""

from __future__ import annotations

import json
import shlex

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from w2vlab import __version__
from w2vlab.callbacks.run_folder import may_fail, run_folder
from w2vlab.files import CONFIG, write_whole


class SaveRunConfig(SaveConfigCallback):
    """Writes the whole configuration to the run's folder and to the logger.

    Lightning's own callback writes to a folder that all runs of a logger may share, and then refuses the second run.

    Args:
        parser: The parser of the command.
        config: What it parsed.
        command: The command line, for the head of the file.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, command: list[str]) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.command = command

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves to `config.yaml` and as the run's hyper-parameters; called on one process only."""
        # What was parsed is valid, and to find that out again takes as long as to parse it.
        text = self.parser.dump(self.config, skip_none=False, skip_validation=True)
        plain = json.loads(self.parser.dump(self.config, skip_none=False, skip_validation=True, format="json"))
        header = f"# {shlex.join(self.command)}\n# w2vlab {__version__}\n"
        with may_fail("The configuration of the run"):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / CONFIG, header + text)
        for logger in trainer.loggers:
            logger.log_hyperparams(plain)
