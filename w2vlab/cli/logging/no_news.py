"""Filters messages that Lightning shows in every run and that need no action."""

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
    r"Found \d+ module\(s\) in eval mode at the start of training",  # a teacher is always in evaluation mode
    "You're resuming from a checkpoint that ended before the epoch ended",  # the data module resumes within an epoch
)

_LINES = (
    "💡",  # services
    "Seed set to ",  # it is an option; each process would log it
    "GPU available: False, used: False",  # a GPU that is found is logged
    "TPU available: False",
    "Trainer already configured with model summary callbacks",  # ours
    "`Trainer.fit` stopped: `max_steps=",  # the expected end; other reasons are logged
)

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")


@contextmanager
def without_routine_messages() -> Iterator[None]:
    """Leaves out routine messages and warnings within this context."""

    def is_shown(record: logging.LogRecord) -> bool:
        message = re.sub(r"^\[rank: \d+\] ", "", record.getMessage())
        return not message.startswith(_LINES)

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(is_shown)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_shown)
