"""The stages of an evaluation, as bars or as lines of a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 60
"""In a log, of a stage that takes longer."""


@dataclass
class ProgressReporter:
    """Shows stages as bars on a terminal, and in a log as a line each, with more lines for stages that take minutes.

    Attributes:
        console: Where to print.
        prefix: Text before the name of each stage.
        threaded: Whether bars move between steps, by a thread. Without it, this process can be forked within a stage.
    """

    console: Console
    prefix: str = ""
    threaded: bool = True

    @contextmanager
    def stage(self, name: str, total: float) -> Iterator[Callable[[float], None]]:
        """Shows one stage until it is done."""
        start = printed = time.perf_counter()
        done = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        bars = Progress(*columns, console=self.console, transient=True, auto_refresh=self.threaded)
        with bars as progress:
            task = progress.add_task(self.prefix + name, total=total)

            def advance(steps: float) -> None:
                nonlocal done, printed
                progress.update(task, advance=steps, refresh=not self.threaded)
                done += steps
                now = time.perf_counter()
                if not self.console.is_terminal and now - printed > _SECONDS_BETWEEN_LINES and done < total:
                    printed = now
                    self._print(f"{name}: {done:,.0f} of {total:,.0f}")

            yield advance
        if not self.console.is_terminal:
            self._print(f"{name}: {time.perf_counter() - start:.1f} s")

    def _print(self, text: str) -> None:
        self.console.print(self.prefix + text, highlight=False, soft_wrap=True)
