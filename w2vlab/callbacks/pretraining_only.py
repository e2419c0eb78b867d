"""Which callbacks look into pretraining alone."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule

from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.update import TrainedModule


def refuse_other_modules(callback: Callback, module: LightningModule) -> None:
    """Refuses a model that has nothing of what `callback` looks at.

    Raises:
        ValueError: It is none of the pretraining objectives.
    """
    if isinstance(module, TrainedModule) and not isinstance(module, PretrainingModule):
        raise ValueError(
            f"`trainer.callbacks` must not hold {type(callback).__name__} where `model` is {type(module).__name__}: it "
            "looks at what only the pretraining objectives have. Take it out."
        )
