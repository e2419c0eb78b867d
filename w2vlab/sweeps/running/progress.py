"""Progress of a running trial, read from the files of its run."""

from __future__ import annotations

import json
from pathlib import Path

from w2vlab.registry import known_names
from w2vlab.sweeps.trial import Trial, find_newest
from w2vlab.utils.files import METRICS

_LARGEST = 1e300  # JSON allows integers beyond the range of floats


class TrialProgress:
    """Updates a trial with the metrics that its run has logged.

    Args:
        trial: The trial.
        folder: Its folder; the run folder may be at any depth below it.
        metric: The metric of the sweep; None if the sweep has none.
    """

    def __init__(self, trial: Trial, folder: Path, metric: str | None) -> None:
        self._trial = trial
        self._folder = folder
        self._metric = metric
        self._size = -1
        self.names: set[str] = set()

    def update(self) -> None:
        """Reads the logged rows, if the file has changed since the last call."""
        path = find_newest(self._folder, METRICS)
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
                continue  # an incomplete line: the run is writing it, or was killed while writing it
            self._trial.update = update
            self.names.update(row)
            value = row.get(self._metric)
            if isinstance(value, int | float) and abs(value) < _LARGEST:
                # A resumed run repeats the updates after its checkpoint.
                values = {earlier: old for earlier, old in values.items() if earlier < update}
                values[update] = value
        self._trial.history = list(values.values())

    def missing_metric(self) -> str | None:
        """Returns an error message if the run has logged metrics, but not that of the sweep; otherwise None."""
        if self._metric is None or not self.names or self._metric in self.names:
            return None
        logged = sorted(name for name in self.names if "/" in name)
        return f"`metric` must be a metric that trials log, but {self._trial.name} logged no {self._metric}. " + (
            known_names(self._metric, logged)
        )
