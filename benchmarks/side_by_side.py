"""Competitors in separate processes that run alternately."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch


@dataclass
class Measurement:
    """The result of one competitor.

    Attributes:
        seconds: Seconds of each measured turn.
        peak_gib: The peak memory of its process, libraries included, or another memory value that it reports.
    """

    seconds: list[float] = field(default_factory=list)
    peak_gib: float = 0.0

    @property
    def median(self) -> float:
        """The median of the turns, in seconds."""
        return statistics.median(self.seconds)


def take_turns(
    commands: dict[str, Sequence[str]],
    environments: dict[str, dict[str, str]],
    warmup: int,
    rounds: int,
    interpreters: dict[str, str] | None = None,
) -> dict[str, Measurement]:
    """Starts each command as a process that runs `answer`, and lets them step one after the other, round by round.

    Other load affects all of them equally, so that ratios are reliable even if seconds are not.

    Args:
        commands: The arguments of `python` for each competitor.
        environments: Additional environment variables of a competitor.
        warmup: Turns of each competitor that are not measured.
        rounds: Turns of each competitor that are measured.
        interpreters: The Python of a competitor, if it is another one than this.
    """
    root = Path(__file__).parents[1]
    processes = {}
    for name, command in commands.items():
        environment = {**os.environ, "PYTHONPATH": str(root), **environments.get(name, {})}
        python = (interpreters or {}).get(name, sys.executable)
        processes[name] = subprocess.Popen(
            [python, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
    results = {name: Measurement() for name in commands}
    try:
        for number in range(warmup + rounds):
            for name, process in processes.items():
                answer_of = _ask(process, "step")
                if number >= warmup:
                    results[name].seconds.append(answer_of)
        for name, process in processes.items():
            results[name].peak_gib = _ask(process, "end")
            process.wait()
    finally:
        for process in processes.values():
            process.kill()
    return results


def _ask(process: subprocess.Popen[str], question: str) -> float:
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "so is this"
    process.stdin.write(question + "\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("answer "):
            return float(line.removeprefix("answer "))
    raise RuntimeError(f"{process.args} ended with status {process.wait()}.")


def answer(
    step: Callable[[], None],
    memory: Callable[[], float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Serves `take_turns` in a competitor's process: runs a step on request and reports its time.

    Args:
        step: The step.
        memory: The value that is reported at the end, in GiB; by default the peak of the process.
        clock: The clock that times a step.
    """
    for line in sys.stdin:
        if line.strip() == "end":
            print(f"answer {(memory or peak_gib)()}", flush=True)
            return
        start = clock()
        step()
        print(f"answer {clock() - start}", flush=True)


def peak_gib() -> float:
    """Returns the peak memory of this process."""
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def matrix_rate(size: int = 1536, repeats: int = 10) -> float:
    """Returns the best rate of a product of square float32 matrices, in floating-point operations per second."""
    left, out = torch.randn(size, size), torch.empty(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, left, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def machine() -> dict[str, str]:
    """Returns the hardware and versions of the measurement."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "date": date.today().isoformat(),
        "processor": f"{model}, {capability}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning")},
    }


def write_json(path: Path | None, content: object) -> None:
    """Writes the results to a file, if one is given."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
