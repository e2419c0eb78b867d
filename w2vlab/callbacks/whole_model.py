"""Check of strategies that do not shard the model."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy


def has_unsharded_model(trainer: Trainer) -> bool:
    """Returns whether each process has all weights, so that it can run and copy the model without collectives."""
    strategy = trainer.strategy
    return isinstance(strategy, SingleDeviceStrategy | DDPStrategy) and not getattr(strategy, "shards_weights", False)
