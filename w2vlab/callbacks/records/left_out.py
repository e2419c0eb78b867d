"""Records which utterances could not be read during a run."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from w2vlab.callbacks.run_folder import run_folder
from w2vlab.data import SpeechDataModule
from w2vlab.data.corpora.tally import Tally
from w2vlab.utils.messages import count

logger = logging.getLogger(__name__)

NAME = "left_out.tsv"
"""File of the run folder with reason and id of each utterance that could not be read."""


class LeftOutUtterances(Callback):
    """Has the data workers write the utterances that they cannot read to `left_out.tsv`, and sums them up at the end.

    The file is in the run folder and has a line for each time that an utterance was left out.
    """

    def __init__(self) -> None:
        self._file: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Passes the path of the file to the data module, before its loaders are made."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, SpeechDataModule):
            # Only the process that logs knows the folder; on other nodes it need not exist.
            data.left_out = self._file = Path(trainer.strategy.broadcast(str(run_folder(trainer) / NAME)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Logs one line on rank 0, if utterances were left out."""
        if stage != "fit" or not trainer.is_global_zero or self._file is None or not self._file.is_file():
            return
        lines = self._file.read_text(encoding="utf-8", errors="replace").splitlines()
        found = Tally()
        for line in sorted(set(lines)):
            reason, _, name = line.partition("\t")
            found.add(reason, name)
        logger.warning(
            "%s could not be read during this run: %s. All of them are in %s.",
            count(found.total, "utterance"),
            found,
            self._file,
        )
