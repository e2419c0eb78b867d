"""Progress of work whose extent is not known before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_SILENT = 1.0
"""Seconds after which a count is shown."""


@contextmanager
def counting(name: str) -> Iterator[Callable[[int], None]]:
    """Shows a growing count on a terminal, if the work takes longer than a second.

    Args:
        name: What is counted.

    Yields:
        A function that is called with the number of new items.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    progress = Progress(*columns, transient=True)
    task = progress.add_task(name, total=None)
    start = time.monotonic()

    def advance(number: int) -> None:
        progress.advance(task, number)
        if time.monotonic() - start > _SILENT and progress.console.is_terminal:
            progress.start()  # does nothing if it has started

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
