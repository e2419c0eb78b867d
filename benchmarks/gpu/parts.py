"""The parts of the GPU check, each in a process of its own.

python -m benchmarks.gpu.parts base --result base.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from w2vlab.utils.files import write_atomically

ROOT = Path(__file__).parents[2]

VERSIONS = ("torch", "torchaudio", "lightning", "torchmetrics", "transformers", "triton", "lhotse", "jsonargparse")

SECONDS_AT_ONCE = 312
"""Audio of a large micro-batch: as much as a GPU of 80 GB was measured with."""


@dataclass(frozen=True)
class Task:
    """What a part is given.

    Attributes:
        rehearse: Whether shapes are tiny and the device is a CPU.
        seconds: Its limit.
        save: Gets all results so far, after each measurement.
    """

    rehearse: bool
    seconds: float
    save: Callable[[dict[str, Any]], None]


def machine(task: Task) -> None:
    """The device and its driver, versions, the measured matrix rate, and the bandwidth of copies."""
    import torch

    from benchmarks.gpu.gpu_measures import copy_bandwidth, matrix_rate

    if not task.rehearse and not torch.cuda.is_available():
        raise SystemExit("There must be a CUDA device, but PyTorch sees none; `--rehearse` runs without one.")
    device = torch.device("cpu" if task.rehearse else "cuda")
    result: dict[str, Any] = {
        "device": platform.processor() or "CPU" if task.rehearse else torch.cuda.get_device_name(),
        "driver": None if task.rehearse else _driver(),
        "memory_bytes": None if task.rehearse else torch.cuda.get_device_properties(0).total_memory,
        "cores": os.cpu_count(),
        "versions": {name: _version(name) for name in VERSIONS}
        | {"python": platform.python_version(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
    }
    task.save(result)
    result["matrix_size"] = 256 if task.rehearse else 8192
    result["matrix_flops_per_second"] = matrix_rate(result["matrix_size"], torch.bfloat16, device)
    task.save(result)
    result["copy_bytes_per_second"] = copy_bandwidth(1 << (20 if task.rehearse else 32), device, device)
    if not task.rehearse:
        result["host_to_device_bytes_per_second"] = copy_bandwidth(1 << 30, torch.device("cpu"), device)
    task.save(result)


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def base(task: Task) -> None:
    """The step of BASE, as shipped and with 312 s at once."""
    _steps("base", task)


def large(task: Task) -> None:
    """The step of LARGE, as shipped and with 312 s at once."""
    _steps("large", task)


def _steps(config: str, task: Task) -> None:
    """A step of ours, eager and compiled, and of transformers; the models are built once for both sizes."""
    from benchmarks.gpu import gpu_step

    _, seconds, shipped = gpu_step.CONFIGS[config]
    result: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    sizes = {"as shipped": shipped, f"{SECONDS_AT_ONCE} s": int(SECONDS_AT_ONCE // seconds)}
    fast = {"rounds": 3, "updates": 10 if config == "base" else 5, "warm-up": 4}
    if task.rehearse:
        sizes = {name: number + 2 for number, name in enumerate(sizes)}
        fast = {"rounds": 1, "updates": 1, "warm-up": 1}
    for name, batch in sizes.items():
        arguments = [f"--config={config}", f"--batch={batch}", "--peer=transformers"]
        if config == "base" or not task.rehearse:  # what LARGE has in common with BASE is rehearsed once
            arguments += ["--compile", "--profile"]
        arguments += [f"--{option}={value}" for option, value in fast.items()]
        # Batches of other lengths are compiled for once; a recipe crops them, so that none has padding.
        arguments += ["--cropped", "--lengths=4" if not result else "--lengths=0"]
        arguments += ["--tiny", "--device=cpu", "--seconds=0.5"] if task.rehearse else ["--device=cuda"]

        def save(found: dict[str, Any], name: str = name) -> None:
            result[name] = found
            task.save(result)

        gpu_step.measure(gpu_step.parse(arguments), save, kept)


def shipped(task: Task) -> None:
    """`w2vlab fit` with BASE's recipe as it is shipped, from files."""
    from benchmarks.gpu import sustained

    sustained.run([], task.rehearse, task.seconds, task.save)


def fused(task: Task) -> None:
    """The same with micro-batches that are computed together."""
    from benchmarks.gpu import sustained

    if not sustained.can_fuse():
        task.save({"skipped": "this version has no `data.fuse_seconds`"})
        return
    at_once = sustained.TINY_FUSE_SECONDS if task.rehearse else SECONDS_AT_ONCE
    sustained.run([f"--data.fuse_seconds={at_once}"], task.rehearse, task.seconds, task.save)


def strategies(task: Task) -> None:
    """DDP and sharding on one device, against training without either."""
    from benchmarks.gpu import distributed

    distributed.run(task.rehearse, task.save)


def kernels(task: Task) -> None:
    """Attention by each of PyTorch's kernels."""
    from benchmarks.gpu import gpu_kernels

    gpu_kernels.run(task.rehearse, task.save)


def tests(task: Task) -> None:
    """The tests that need a GPU, in the files that have some."""
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n0", "-q", "-p", "no:cacheprovider"]
        command += [f"--rootdir={ROOT}", f"--junitxml={report}", *(str(path) for path in sorted(marked))]
        ended = subprocess.run(command, cwd=ROOT, check=False)
        task.save(count_tests(report.read_text(encoding="utf-8")) | {"status": ended.returncode})
    if ended.returncode:
        raise SystemExit(f"pytest ended with status {ended.returncode}.")


def count_tests(xml: str) -> dict[str, Any]:
    """Returns the counts of a report of pytest in JUnit's format, and the names of what failed."""
    cases = list(ElementTree.fromstring(xml).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(bad) - skipped,
        "failed": len(bad),
        "skipped": skipped,
        "names_of_failed": [re.sub(r"\s+", " ", case.get("name", "")) for case in bad],
    }


PARTS: dict[str, Callable[[Task], None]] = {
    part.__name__: part for part in (machine, base, shipped, fused, large, strategies, kernels, tests)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--result", type=Path, required=True, help="file of the results, as they come")
    parser.add_argument("--seconds", type=float, default=60.0, help="the limit of the part")
    parser.add_argument("--rehearse", action="store_true", help="with tiny shapes on a CPU")
    options = parser.parse_args(arguments)

    def save(result: dict[str, Any]) -> None:
        write_atomically(options.result, json.dumps(result, indent=1))

    PARTS[options.part](Task(options.rehearse, options.seconds, save))


if __name__ == "__main__":
    main()
