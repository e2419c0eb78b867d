"""Logging of example transcripts next to the recognised text."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning.pytorch.loggers import WandbLogger

_COLUMNS = ["utterance", "transcript", "recognised"]

logger = logging.getLogger(__name__)


def log_examples(examples: Sequence[tuple[str, str, str]], wandb_loggers: Sequence[WandbLogger], update: int) -> None:
    """Logs examples as text, and as a table to Weights & Biases.

    Args:
        examples: Id, reference transcript and hypothesis of each utterance.
        wandb_loggers: The loggers that get a table.
        update: Optimiser updates so far.
    """
    if not examples:
        return
    lines = [f"  {name}: {reference!r}\n  recognised: {hypothesis!r}" for name, reference, hypothesis in examples]
    logger.info("Recognised after update %d:\n%s", update, "\n".join(lines))
    for wandb_logger in wandb_loggers:
        wandb_logger.log_table("val/examples", columns=_COLUMNS, data=[list(row) for row in examples], step=update)
