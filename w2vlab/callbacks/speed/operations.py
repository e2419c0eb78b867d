"""How much of a piece of work on the CPU is spent in PyTorch's operations, and how much around them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import torch

from w2vlab.types import Seconds

_TRIES, _OPERATIONS = 5, 40

_AUTOGRAD: Any = torch.autograd


class Recorder:
    """Records PyTorch's operations in this thread, from `start` to `stop`.

    It uses the recorder of `torch.autograd.profiler_legacy`, because `torch.profiler` takes seconds when it is first
    started, and writes to stderr. Nothing that is computed changes.
    """

    @staticmethod
    def available() -> bool:
        """Returns whether operations can be recorded now: PyTorch has the recorder, and no profiler is running."""
        return hasattr(_AUTOGRAD, "_enable_profiler_legacy") and not _AUTOGRAD._profiler_enabled()

    @staticmethod
    def start() -> None:
        """Begins to record."""
        from torch.autograd import profiler_legacy

        legacy: Any = profiler_legacy
        _AUTOGRAD._enable_profiler_legacy(legacy.profile().config())

    @staticmethod
    def stop() -> list[Any]:
        """Ends the recording; returns the begin and end of each operation of this thread, in order."""
        threads = _AUTOGRAD._disable_profiler_legacy()
        return next(events for events in threads if any(event.name() == "__start_profile" for event in events))


@dataclass(frozen=True)
class Cost:
    """What belongs to each operation, but does not depend on how much it computes.

    Attributes:
        launch: Time within an operation on a single element: choosing its kernel and allocating its output.
        recording: Time that the recording of an operation adds.
    """

    launch: Seconds
    recording: Seconds


def host_seconds(events: Iterable[Any]) -> tuple[Seconds, Seconds]:
    """Returns the time of a recording that was not spent in kernels, and all of its time.

    The former is the time outside of all operations (Python, autograd's engine, the trainer), and in each operation the
    time that it would take on a single element. The time of the recording itself is in neither.

    Args:
        events: From `Recorder.stop`.
    """
    cost = operation_cost()
    total, own = _times(events)
    total = max(0.0, total - len(own) * cost.recording)
    return max(0.0, total - sum(max(0.0, each - cost.launch) for each in own)), total


def _times(events: Iterable[Any]) -> tuple[Seconds, list[Seconds]]:
    """Returns the time of a recording; and the time of each operation, without that of the operations it consists of.

    Ranges that are not operations count with a time of 0.
    """
    first: Any = None
    last: Seconds = 0.0
    own: list[Seconds] = []
    open_ranges: list[list[Any]] = []  # name, start, time of the ranges within
    for event in events:
        if first is None:
            first = event
        kind = event.kind()
        if kind not in ("push", "pop", "mark"):
            continue
        last = first.cpu_elapsed_us(event) / 1e6
        if kind == "push":
            open_ranges.append([event.name(), last, 0.0])
        elif kind == "pop" and open_ranges:
            name, start, within = open_ranges.pop()
            own.append(last - start - within if is_operation(name) else 0.0)
            if open_ranges:
                open_ranges[-1][2] += last - start
    return last, own


def is_operation(name: str) -> bool:
    """Returns whether a recorded range is an operation, rather than a function that calls some: `aten::mm`."""
    return "::" in name and not name.startswith(("autograd::", "torch::"))


@cache
def operation_cost() -> Cost:
    """Measures what belongs to each operation, in a few milliseconds, once a process."""
    one = torch.zeros(1)

    def operations() -> None:
        for _ in range(_OPERATIONS):
            one.abs()

    plain = min(_seconds(operations) for _ in range(_TRIES))
    recorded, ranges, launches = [], 1, []
    for _ in range(_TRIES):
        Recorder.start()
        try:
            recorded.append(_seconds(operations))
        finally:
            events = Recorder.stop()
        own = _times(events)[1]
        ranges = max(1, len(own))
        launches.append(median(own))
    return Cost(launch=min(launches), recording=max(0.0, min(recorded) - plain) / ranges)


def _seconds(function: Callable[[], None]) -> Seconds:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
