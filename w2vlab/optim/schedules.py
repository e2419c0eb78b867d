"""Learning-rate schedules as functions of the update count: schedulers that are stepped once an update."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from w2vlab.utils.checks import check_at_least


class UpdateSchedule(LRScheduler, ABC):
    """A schedule that multiplies the optimiser's learning rate by a factor, a function of the update count."""

    @abstractmethod
    def factor(self, update: int) -> float:
        """Returns the factor of the learning rate after `update` updates."""

    def state_dict(self) -> dict[str, Any]:
        """Returns only the update count, so that a schedule that is changed in YAML applies to a resumed run."""
        return {"last_epoch": self.last_epoch}

    def get_lr(self) -> list[float | Tensor]:
        """Returns the learning rate of each parameter group."""
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]


class PolynomialSchedule(UpdateSchedule):
    """Linear warm-up, then polynomial decay to `end_factor` (wav2vec 2.0).

    Args:
        optimizer: Supplied by the module, not by YAML.
        warmup_updates: Updates until the full learning rate.
        total_updates: Updates until the end of the decay.
        end_factor: Factor of the learning rate at the end.
        power: 1 decays linearly.
        last_epoch: Updates done; -1 for a new run.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 4.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_updates: int = 32_000,
        total_updates: int = 400_000,
        end_factor: float = 0.0,
        power: float = 1.0,
        last_epoch: int = -1,
    ) -> None:
        _check_updates(warmup_updates, total_updates)
        self.warmup_updates = warmup_updates
        self.total_updates = total_updates
        self.end_factor = end_factor
        self.power = power
        super().__init__(optimizer, last_epoch)

    def factor(self, update: int) -> float:
        """Returns the factor of the learning rate after `update` updates; that of the first update is not zero."""
        if update <= self.warmup_updates:
            return max(update, 1) / max(self.warmup_updates, 1)
        remaining = 1 - (update - self.warmup_updates) / (self.total_updates - self.warmup_updates)
        return self.end_factor + (1 - self.end_factor) * math.pow(max(remaining, 0.0), self.power)


class TriStageSchedule(UpdateSchedule):
    """Linear warm-up, constant, exponential decay (fine-tuning of wav2vec 2.0).

    Args:
        optimizer: Supplied by the module, not by YAML.
        total_updates: Updates of all three stages.
        warmup_share: Share of the updates in the first stage.
        hold_share: Share of the updates in the second stage; the rest is the third stage.
        start_factor: Factor of the learning rate at the start.
        end_factor: Factor at the end.
        last_epoch: Updates done; -1 for a new run.

    Reference:
        Baevski et al. 2020, arXiv:2006.11477, Section 4.3, which says the decay is linear; the released code decays
        exponentially.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_updates: int = 400_000,
        warmup_share: float = 0.1,
        hold_share: float = 0.4,
        start_factor: float = 0.01,
        end_factor: float = 0.05,
        last_epoch: int = -1,
    ) -> None:
        if not 0 <= warmup_share <= warmup_share + hold_share < 1:
            raise ValueError(
                "`warmup_share` and `hold_share` must be at least 0 and sum to less than 1, but are "
                f"{warmup_share} and {hold_share}."
            )
        if not 0 < end_factor <= 1:
            raise ValueError(f"`end_factor` must be above 0 and at most 1, but is {end_factor}.")
        self.warmup_updates = int(total_updates * warmup_share)
        self.hold_updates = int(total_updates * hold_share)
        self.decay_updates = total_updates - self.warmup_updates - self.hold_updates
        self.start_factor = start_factor
        self.end_factor = end_factor
        _check_updates(self.warmup_updates, total_updates)
        super().__init__(optimizer, last_epoch)

    def factor(self, update: int) -> float:
        """Returns the factor of the learning rate after `update` updates."""
        if update < self.warmup_updates:
            return self.start_factor + (1 - self.start_factor) * update / self.warmup_updates
        done = min(max(update - self.warmup_updates - self.hold_updates, 0) / self.decay_updates, 1.0)
        return math.exp(math.log(self.end_factor) * done)


class CosineSchedule(UpdateSchedule):
    """Linear warm-up, then half a cosine down. The defaults are wav2vec's, from 1e-7 to 5e-3 and down to 1e-6.

    Args:
        optimizer: Supplied by the module, not by YAML.
        warmup_updates: Updates until the full learning rate.
        total_updates: Updates until the end of the decay.
        start_factor: Factor of the learning rate at the start.
        end_factor: Factor at the end.
        last_epoch: Updates done; -1 for a new run.

    Reference:
        Schneider et al. 2019, arXiv:1904.05862, Section 3.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_updates: int = 500,
        total_updates: int = 400_000,
        start_factor: float = 2e-5,
        end_factor: float = 2e-4,
        last_epoch: int = -1,
    ) -> None:
        _check_updates(warmup_updates, total_updates)
        self.warmup_updates = warmup_updates
        self.total_updates = total_updates
        self.start_factor = start_factor
        self.end_factor = end_factor
        super().__init__(optimizer, last_epoch)

    def factor(self, update: int) -> float:
        """Returns the factor of the learning rate after `update` updates."""
        if update < self.warmup_updates:
            return self.start_factor + (1 - self.start_factor) * update / self.warmup_updates
        done = min((update - self.warmup_updates) / (self.total_updates - self.warmup_updates), 1.0)
        return self.end_factor + (1 - self.end_factor) * 0.5 * (1 + math.cos(math.pi * done))


class InverseSquareRootSchedule(UpdateSchedule):
    """Linear warm-up, then a decay with the inverse square root of the update (the Transformer, BEST-RQ).

    It has no end, so that a run can be longer than planned.

    Args:
        optimizer: Supplied by the module, not by YAML.
        warmup_updates: Updates until the full learning rate.
        last_epoch: Updates done; -1 for a new run.

    Reference:
        Vaswani et al. 2017, arXiv:1706.03762, Section 5.3, with the peak as the optimizer's learning rate.
    """

    def __init__(self, optimizer: Optimizer, warmup_updates: int = 25_000, last_epoch: int = -1) -> None:
        check_at_least(1, warmup_updates=warmup_updates)
        self.warmup_updates = warmup_updates
        super().__init__(optimizer, last_epoch)

    def factor(self, update: int) -> float:
        """Returns the factor of the learning rate after `update` updates; that of the first update is not zero."""
        return min(max(update, 1) / self.warmup_updates, math.sqrt(self.warmup_updates / max(update, 1)))


def _check_updates(warmup_updates: int, total_updates: int) -> None:
    if not 0 <= warmup_updates < total_updates:
        raise ValueError(
            f"`total_updates` must be more than `warmup_updates` ({warmup_updates}), but is {total_updates}; "
            "the learning rate would never reach its full value."
        )
