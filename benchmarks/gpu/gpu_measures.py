"""Measurements of the GPU benchmark: time, matrix rate, synchronizations with the device, and compilations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], None]

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which the host waits for the device; a trace has them by these names."""

COPIES = ("cudaMemcpyAsync", "Memcpy DtoH", "Memcpy HtoD")
"""Copies; one from the device to the host in a training step is a wait by another name."""


def finish(device: torch.device) -> None:
    """Waits for all work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(step: Step, times: int, device: torch.device) -> float:
    """Returns the mean seconds of `times` consecutive calls of `step`.

    On a GPU measured with two events, otherwise with the clock.
    """
    finish(device)
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            step()
        return (time.perf_counter() - start) / times
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(times):
        step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / times


def in_turns(steps: Mapping[str, Step], rounds: int, updates: int, device: torch.device) -> dict[str, list[float]]:
    """Runs all contenders alternately, so that a temporary slowdown of the machine affects all of them.

    Returns:
        For each contender the seconds of an update, one value per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(seconds_each(step, updates, device))
    return seconds


def matrix_rate(size: int, dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """Measures the floating-point operations per second of the device in square matrix products of `size`."""
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    output = torch.empty_like(first)

    def product() -> None:
        torch.mm(first, second, out=output)

    seconds_each(product, 3, device)
    return 2 * size**3 / statistics.median(seconds_each(product, 10, device) for _ in range(rounds))


def copy_bandwidth(size: int, source: torch.device, target: torch.device) -> float:
    """Measures the bytes per second of copies of `size` bytes; within a device those read and those written count."""
    read = torch.empty(size, dtype=torch.uint8, device=source, pin_memory=source != target)
    written = torch.empty(size, dtype=torch.uint8, device=target)

    def copy() -> None:
        written.copy_(read, non_blocking=True)

    seconds_each(copy, 2, target)
    return (2 if source == target else 1) * size / seconds_each(copy, 10, target)


def peak_memory(step: Step, updates: int, resident: int, device: torch.device) -> int:
    """Returns the peak bytes of tensors during `updates`, without those of other models.

    Args:
        step: An update.
        updates: Updates.
        resident: Bytes that it takes before and after an update.
        device: The GPU.
    """
    finish(device)
    others = torch.cuda.memory_allocated(device) - resident
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(updates):
        step()
    finish(device)
    return int(torch.cuda.max_memory_allocated(device)) - others


def waits_in(step: Step, updates: int, device: torch.device) -> dict[str, Any]:
    """Makes PyTorch raise if the host waits for the device; returns the updates done, and the reason if it stopped."""
    finish(device)
    torch.cuda.set_sync_debug_mode("error")
    done, reason = 0, None
    try:
        for _ in range(updates):
            step()
            done += 1
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"updates": updates, "done_without": done, "reason": reason}


def calls_in(step: Step, updates: int, device: torch.device) -> dict[str, float]:
    """Counts waits and copies per update in a trace."""
    finish(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(updates):
            step()
    finish(device)
    return count_calls(trace.events() or (), updates)


def count_calls(events: Iterable[Any], updates: int) -> dict[str, float]:
    """Counts waits and copies per update among the events of a trace."""
    found = dict.fromkeys((*WAITS, *COPIES), 0)
    for event in events:
        for name in found:
            if event.name == name or (name.startswith("Memcpy") and event.name.startswith(name)):
                found[name] += 1
    return {name: count / updates for name, count in found.items()}


def graphs_compiled() -> int:
    """Returns the number of graphs that Dynamo has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
