"""In-memory snapshots of weights and optimiser, to roll back to after a collapse."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_MAX_STATES = 2
"""Confirmed snapshots that are kept; one unconfirmed snapshot is held in addition."""


@dataclass
class Snapshot:
    """Weights and optimiser state at one update, on the CPU.

    Attributes:
        update: Optimiser updates so far.
        weights: The module's state dict.
        moments: The optimiser's state of each parameter, such as Adam's moments.
    """

    update: int
    weights: dict[str, Any]
    moments: dict[int, Any]


class HealthyStates:
    """Keeps snapshots; each is confirmed as healthy if no collapse signature is detected for a window after it."""

    def __init__(self) -> None:
        self._unconfirmed: Snapshot | None = None
        self._confirmed: deque[Snapshot] = deque(maxlen=_MAX_STATES)

    def __len__(self) -> int:
        return len(self._confirmed)

    def confirm_and_save(self, update: int, module: nn.Module, optimizer: Optimizer) -> None:
        """Confirms the snapshot of the last call, and saves the current state as a new, unconfirmed one."""
        if self._unconfirmed is not None:
            self._confirmed.append(self._unconfirmed)
        self._unconfirmed = Snapshot(
            update, _copy_to_cpu(module.state_dict()), _copy_to_cpu(optimizer.state_dict()["state"])
        )

    def discard_unconfirmed(self) -> None:
        """Discards the snapshot of the last call, because a signature was detected since then."""
        self._unconfirmed = None

    def restore(self, module: nn.Module, optimizer: Optimizer) -> int:
        """Loads the newest confirmed snapshot, removes it, and returns its update.

        Weights, buffers and optimiser state are restored; hyper-parameters of the optimiser, such as the learning rate,
        keep their current values.
        """
        snapshot = self._confirmed.pop()
        self._unconfirmed = None
        module.load_state_dict(snapshot.weights)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": snapshot.moments, "param_groups": groups})
        return snapshot.update


def _copy_to_cpu(values: Any) -> Any:
    """Copies nested dictionaries of tensors to the CPU."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, dict):
        return {key: _copy_to_cpu(value) for key, value in values.items()}
    return values
