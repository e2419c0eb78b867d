"""Logging of media to Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

_MAX_BINS = 512
"""Maximum number of bins of a histogram in Weights & Biases."""


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Returns the trainer's Weights & Biases loggers."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def log_codebook_usage(trainer: Trainer, counts: Tensor | None) -> None:
    """Logs a histogram of codebook usage: shares of the entries, most used first, averaged over the codebooks."""
    if counts is None or not counts.numel():
        return
    shares = (counts / counts.sum(dim=1, keepdim=True).clamp(min=1)).sort(dim=1, descending=True).values.mean(dim=0)
    ranks = np.arange(len(shares))
    bins = min(len(ranks), _MAX_BINS)
    histogram = np.histogram(ranks, bins, range=(0, len(ranks)), weights=shares.numpy())
    for logger in wandb_loggers(trainer):
        from wandb import Histogram  # takes a second to import

        values = {"val/codebook/usage_histogram": Histogram(np_histogram=histogram)}
        logger.log_metrics(values, step=trainer.global_step)  # type: ignore[arg-type]  # as its `log_image` does


def wandb_folders(trainer: Trainer) -> list[str]:
    """Returns the folders of the trainer's Weights & Biases loggers."""
    return [str(Path(logger.experiment.dir).parent) for logger in wandb_loggers(trainer)]
