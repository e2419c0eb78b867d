"""The metric history of a run, of bounded size so that checkpoints can store it."""

from __future__ import annotations

from typing import Any

MAX_ROWS = 2000


class MetricHistory:
    """Metric values by update.

    Rows are subsampled evenly: when there are more than `MAX_ROWS`, every second row is removed, and from then on only
    every second row (every fourth, and so on) is recorded.

    Attributes:
        rows: One dictionary for each recorded update, in ascending order; the key `update` is the update.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._every = 1
        self._offered = 0

    def record(self, update: int, values: dict[str, float]) -> None:
        """Adds the values after `update` updates, unless that update is recorded or skipped by the subsampling."""
        if self.rows and self.rows[-1]["update"] >= update:
            return
        self._offered += 1
        if (self._offered - 1) % self._every:
            return
        self.rows.append({"update": update, **values})
        if len(self.rows) > MAX_ROWS:
            self.rows = self.rows[::2]
            self._every *= 2

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Returns the updates at which `name` was recorded, and its values."""
        rows = [row for row in self.rows if name in row]
        return [row["update"] for row in rows], [row[name] for row in rows]

    def first(self, name: str) -> float | None:
        """Returns the first value of `name`; None if it was never recorded."""
        return next((row[name] for row in self.rows if name in row), None)

    def last(self, name: str) -> float | None:
        """Returns the last value of `name`; None if it was never recorded."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)

    def state_dict(self) -> dict[str, Any]:
        """Returns the history as plain data."""
        return {"rows": self.rows, "every": self._every, "offered": self._offered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the history of `state_dict`."""
        self.rows = list(state["rows"])
        self._every = state["every"]
        self._offered = state["offered"]
