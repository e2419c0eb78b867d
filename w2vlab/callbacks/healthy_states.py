"""States of a run to go back to."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

_MAX_STATES = 2
"""Proven states that are kept; with the one that is waiting, a run keeps so many more of everything it learns."""


@dataclass
class SavedState:
    """Weights and optimiser at one update, on the host.

    Attributes:
        update: Optimiser updates done.
        weights: The module's state.
        moments: What the optimiser remembers of each parameter, such as Adam's moments.
    """

    update: int
    weights: dict[str, Any]
    moments: dict[int, Any]


class HealthyStates:
    """Keeps states, each of which has proven healthy because all was well for a whole window after it."""

    def __init__(self) -> None:
        self._waiting: SavedState | None = None
        self._proven: deque[SavedState] = deque(maxlen=_MAX_STATES)

    def __len__(self) -> int:
        return len(self._proven)

    def offer(self, update: int, module: nn.Module, optimizer: Optimizer) -> None:
        """Takes note that all was well since the last call, and saves the state of now, to be proven by the next."""
        if self._waiting is not None:
            self._proven.append(self._waiting)
        self._waiting = SavedState(update, _on_host(module.state_dict()), _on_host(optimizer.state_dict()["state"]))

    def doubt(self) -> None:
        """Takes note that not all was well since the last call."""
        self._waiting = None

    def go_back(self, module: nn.Module, optimizer: Optimizer) -> int:
        """Loads the newest proven state, which is then used up, and returns its update.

        Weights, buffers and the optimiser's memory go back; its settings, such as the learning rate, stay as the
        schedule has them now.
        """
        state = self._proven.pop()
        self._waiting = None
        module.load_state_dict(state.weights)
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state.moments, "param_groups": groups})
        return state.update


def _on_host(values: Any) -> Any:
    """Copies nested mappings with their tensors."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", copy=True)
    if isinstance(values, dict):
        return {key: _on_host(value) for key, value in values.items()}
    return values
