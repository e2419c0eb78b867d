"""A front end that no longer learns from some update on."""

from __future__ import annotations

from dataclasses import replace

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from w2vlab.functional.gradients import with_zero_gradients
from w2vlab.interfaces import Penalty
from w2vlab.modules.masked_objective import MaskedObjective
from w2vlab.types import AudioBatch, Encoding
from w2vlab.utils.checks import check_at_least


class FrontendFreezing(MaskedObjective):
    """Base of an objective whose encoder, norm and input projection can be frozen from an update on.

    Args:
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        penalties: The further terms of the objective, by their names in the logs.
        seed: Seed of every random draw of the run.
        freeze_frontend_from: Updates after which they no longer change; None if they always change.

    Raises:
        ValueError: `freeze_frontend_from` is negative.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        penalties: dict[str, Penalty],
        seed: int,
        freeze_frontend_from: int | None,
    ) -> None:
        super().__init__(optimizer, scheduler, penalties, seed)
        check_at_least(0, freeze_frontend_from=freeze_frontend_from)
        self.freeze_frontend_from = freeze_frontend_from
        self.frontend_is_frozen = freeze_frontend_from == 0

    def set_update(self, update: int) -> None:
        """Freezes encoder, norm and input projection when it is time."""
        super().set_update(update)
        self.frontend_is_frozen = self.freeze_frontend_from is not None and update >= self.freeze_frontend_from

    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch, after layer normalization, with their padding mask."""
        if not (self.frontend_is_frozen and torch.is_grad_enabled()):
            return super().encode(batch)
        with torch.no_grad():
            encoding = super().encode(batch)
        return replace(encoding, latents=with_zero_gradients(encoding.latents, self._frontend_parameters()))

    def _frontend_parameters(self) -> list[Tensor]:
        parts = (self.encoder, self.norm, getattr(self.context, "input_projection", None))
        parameters = (parameter for part in parts if part is not None for parameter in part.parameters())
        return [parameter for parameter in parameters if parameter.requires_grad]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Also removes the gradients of a frozen front end, so that neither momentum nor weight decay changes it."""
        if self.frontend_is_frozen:
            for parameter in self._frontend_parameters():
                parameter.grad = None
        super().on_before_optimizer_step(optimizer)
