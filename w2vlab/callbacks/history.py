"""The metrics of a run so far, small enough to travel in its checkpoints."""

from __future__ import annotations

from typing import Any

MAX_ROWS = 2000


class MetricHistory:
    """Values of metrics by update.

    A long run keeps evenly spaced rows: when there are too many, every other one goes, and from then on only every
    other one comes in.

    Attributes:
        rows: One mapping a recorded update, ascending; `update` is the key of the update itself.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._every = 1
        self._offered = 0

    def record(self, update: int, values: dict[str, float]) -> None:
        """Adds the values after `update` updates, unless that update is there or rows must be thinner by now."""
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
        """Returns the first value of `name`; None without one."""
        return next((row[name] for row in self.rows if name in row), None)

    def last(self, name: str) -> float | None:
        """Returns the last value of `name`; None without one."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything as plain data."""
        return {"rows": self.rows, "every": self._every, "offered": self._offered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.rows = list(state["rows"])
        self._every = state["every"]
        self._offered = state["offered"]
