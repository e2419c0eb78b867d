"""What Lightning says in every run, and nobody could act on."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",
    "The dirpath has changed from",
    ".*find the monitored key",  # of a run that ends before it validates
    "You're resuming from a checkpoint that ended before the epoch ended",  # the data module knows its place
)

_LINES = (
    "💡",  # services
    "Seed set to ",  # an option; each process says it
    "GPU available: False, used: False",  # a GPU that is there is news
    "TPU available: False",
    "Trainer already configured with model summary callbacks",  # ours
    "`Trainer.fit` stopped: `max_steps=",  # as asked for; other reasons are news
)

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")


@contextmanager
def only_news() -> Iterator[None]:
    """Leaves out what is no news, until the end of this context."""

    def is_news(record: logging.LogRecord) -> bool:
        message = re.sub(r"^\[rank: \d+\] ", "", record.getMessage())
        return not message.startswith(_LINES)

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_news)
