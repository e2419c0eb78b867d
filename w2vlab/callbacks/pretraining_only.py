"""Check of callbacks that need a pretraining objective."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule

from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.update import TrainedModule


def require_pretraining_module(callback: Callback, module: LightningModule) -> None:
    """Checks that `module` is a pretraining objective.

    Raises:
        ValueError: `module` is not a pretraining objective.
    """
    if isinstance(module, TrainedModule) and not isinstance(module, PretrainingModule):
        raise ValueError(
            f"`trainer.callbacks` must not contain {type(callback).__name__} if `model` is {type(module).__name__}, "
            "because it needs a pretraining objective. Remove it."
        )
