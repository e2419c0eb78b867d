"""`w2vlab explain`, with the trial of `--speed` on the machine of `w2vlab batch-size`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from w2vlab.cli import explain
from w2vlab.cli.lightning.memory import use_large_pages


def run(words: Sequence[str]) -> int:
    """Explains a configuration, with a trial if its speed is to be measured.

    Args:
        words: What follows `explain` on the command line.

    Returns:
        The exit status of `explain.run`.
    """
    use_large_pages()  # as for `fit`
    return explain.run(words, measure)


def measure(settings: Any, data: Any) -> Any:
    """Measures the speed of a run by `speed_trial.measure`, which imports PyTorch."""
    from w2vlab.cli.batch_size import speed_trial

    return speed_trial.measure(settings, data)
