"""How the GPU benchmark measures: time, the rate of the matrix units, waits for the device, and what was compiled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], None]

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""Calls in which the host waits for the device; a trace has them by these names."""

COPIES = ("cudaMemcpyAsync", "Memcpy DtoH", "Memcpy HtoD")
"""Copies; one from the device to the host in a training step is a wait by another name."""


def finish(device: torch.device) -> None:
    """Waits for everything that was given to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_each(step: Step, times: int, device: torch.device) -> float:
    """Returns the seconds that a call of `step` takes, in the mean over `times` of them in a row.

    On a GPU between two events in its queue, else by the clock.
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
    """Has all run in turns, so that what slows the machine down for a while does so for all.

    Returns:
        For each the seconds of an update, one value a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(seconds_each(step, updates, device))
    return seconds


def matrix_rate(size: int, dtype: torch.dtype, device: torch.device, rounds: int = 5) -> float:
    """Measures how many floating-point operations a second the device does in square products of `size`."""
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    output = torch.empty_like(first)

    def product() -> None:
        torch.mm(first, second, out=output)

    seconds_each(product, 3, device)
    return 2 * size**3 / statistics.median(seconds_each(product, 10, device) for _ in range(rounds))


def peak_memory(step: Step, updates: int, others: int, device: torch.device) -> int:
    """Returns the most bytes that tensors took at a time during `updates`, less those of `others`, who only wait."""
    finish(device)
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(updates):
        step()
    finish(device)
    return int(torch.cuda.max_memory_allocated(device)) - others


def waits_in(step: Step, updates: int, device: torch.device) -> dict[str, Any]:
    """Has PyTorch raise where the host would wait for the device; returns how far it came, and why no further."""
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
    """Counts waits and copies in a trace, an update each."""
    finish(device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(updates):
            step()
    finish(device)
    found = dict.fromkeys((*WAITS, *COPIES), 0)
    for event in trace.events() or ():
        for name in found:
            if event.name == name or (name.startswith("Memcpy") and event.name.startswith(name)):
                found[name] += 1
    return {name: count / updates for name, count in found.items()}


def graphs_compiled() -> int:
    """Returns how many graphs Dynamo has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
