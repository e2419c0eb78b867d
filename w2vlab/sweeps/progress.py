"""How far a trial is, read from the files of its run while it goes on."""

from __future__ import annotations

import json
from pathlib import Path

from w2vlab.files import METRICS
from w2vlab.registry import known_names
from w2vlab.sweeps.trial import Trial, newest

_LARGEST = 1e300  # JSON may have whole numbers beyond every float


class TrialProgress:
    """Brings a trial up to date with the rows that its run has logged.

    Args:
        trial: The trial.
        folder: Its folder, with the run somewhere below it.
        metric: The metric of the sweep; None for none.
    """

    def __init__(self, trial: Trial, folder: Path, metric: str | None) -> None:
        self._trial = trial
        self._folder = folder
        self._metric = metric
        self._size = -1
        self.names: set[str] = set()

    def look(self) -> None:
        """Reads the rows, if there are more than at the last look."""
        path = newest(self._folder, METRICS)
        if path is None or path.stat().st_size == self._size:
            return
        data = path.read_bytes()
        self._size = path.stat().st_size
        values: dict[int, float] = {}
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
                update = int(row["update"])
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                continue  # half a line: the run is writing it, or died of it
            self._trial.update = update
            self.names.update(row)
            value = row.get(self._metric)
            if isinstance(value, int | float) and abs(value) < _LARGEST:
                # A run that went on from a checkpoint did some updates again.
                values = {done: old for done, old in values.items() if done < update}
                values[update] = value
        self._trial.history = list(values.values())

    def missing_metric(self) -> str | None:
        """Says what is wrong where the run has logged something, but not the metric."""
        if self._metric is None or not self.names or self._metric in self.names:
            return None
        logged = sorted(name for name in self.names if "/" in name)
        return f"`metric` must be something that trials log, but {self._trial.name} logged no {self._metric}. " + (
            known_names(self._metric, logged)
        )
