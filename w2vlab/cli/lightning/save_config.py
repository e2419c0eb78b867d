"""Saves the configuration of every run, so that it can be repeated."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback

from w2vlab import __version__
from w2vlab.callbacks.run_folder import run_folder, warn_on_write_failure
from w2vlab.utils.files import CONFIG, write_atomically


def _keep(path: Path, text: str) -> None:
    """Keeps the options of earlier starts if they differ: `config-1.yaml` has those of the first."""
    try:
        before = path.read_text(encoding="utf-8")
    except OSError:
        return
    if _without_comments(before) != _without_comments(text):
        number = 1 + len(list(path.parent.glob(f"{path.stem}-*{path.suffix}")))
        write_atomically(path.with_name(f"{path.stem}-{number}{path.suffix}"), before)


def _without_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


class SaveRunConfig(SaveConfigCallback):
    """Writes the whole configuration to the run's folder and to the logger.

    Lightning's own callback writes to a folder that all runs of a logger may share, and then refuses the second run.
    A run that resumes with different options also keeps the previous ones. The checkpoint is recorded in `run.json`
    and not in the options, so that they can be used for a new run.

    Args:
        parser: The parser of the command.
        config: Parsed options.
        command: Command line, written as the first line of the file.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, command: list[str]) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.command = command

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Saves to `config.yaml` and as the run's hyper-parameters; called on one process only."""
        # The parsed options are valid; another validation would take as long as parsing.
        config = self.config.clone()
        config["ckpt_path"], config["new_run"] = None, False
        text = self.parser.dump(config, skip_none=False, skip_validation=True)
        plain = json.loads(self.parser.dump(config, skip_none=False, skip_validation=True, format="json"))
        header = f"# {shlex.join(self.command)}\n# w2vlab {__version__}\n"
        with warn_on_write_failure("The configuration of the run"):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            if self.config["ckpt_path"] is not None:
                _keep(folder / CONFIG, text)
            write_atomically(folder / CONFIG, header + text)
        for logger in trainer.loggers:
            logger.log_hyperparams(plain)
