"""A few transcripts beside what was recognised."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lightning.pytorch.loggers import WandbLogger

_COLUMNS = ["utterance", "transcript", "recognised"]

logger = logging.getLogger(__name__)


def show_examples(examples: Sequence[tuple[str, str, str]], tables: Sequence[WandbLogger], update: int) -> None:
    """Writes examples to the log, and as a table to Weights & Biases.

    Args:
        examples: Id, transcript and what was recognised of each utterance.
        tables: The loggers that take tables.
        update: Updates done.
    """
    if not examples:
        return
    lines = [f"  {name}: {wanted!r}\n  recognised: {found!r}" for name, wanted, found in examples]
    logger.info("Recognised after update %d:\n%s", update, "\n".join(lines))
    for table in tables:
        table.log_table("val/examples", columns=_COLUMNS, data=[list(row) for row in examples], step=update)
