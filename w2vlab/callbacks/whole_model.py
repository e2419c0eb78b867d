"""Which strategies keep all weights in every process."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy


def keeps_whole_model(trainer: Trainer) -> bool:
    """Tells whether a process can use the model, and copy its weights, without the help of the others."""
    strategy = trainer.strategy
    return isinstance(strategy, SingleDeviceStrategy | DDPStrategy) and not getattr(strategy, "shards_weights", False)
