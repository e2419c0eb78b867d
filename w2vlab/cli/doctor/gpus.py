"""GPUs: whether there are any, and whether this PyTorch can use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from w2vlab.cli.doctor.finding import Finding, note, ok, problem

_OTHER_BUILD = "https://pytorch.org/get-started/locally lists the build of PyTorch for each driver."


@dataclass(frozen=True)
class Driver:
    """The GPUs according to the driver, without PyTorch.

    Attributes:
        version: Of the driver.
        cuda: The newest CUDA that it supports.
        gpus: Their names.
    """

    version: str
    cuda: str
    gpus: tuple[str, ...]


def find_driver() -> Driver | None:
    """Calls `nvidia-smi`; None if it is not installed, or finds no GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    listing = _output([program])
    names = _output([program, "--query-gpu=name", "--format=csv,noheader"])
    gpus = tuple(line.strip() for line in names.splitlines() if line.strip())
    version = re.search(r"Driver Version:\s*([\d.]+)", listing)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", listing)
    if not gpus or version is None:
        return None
    return Driver(version[1], cuda[1] if cuda else "", gpus)


def check_gpus(facts: Mapping[str, Any], driver: Driver | None) -> list[Finding]:
    """Checks all GPUs.

    Args:
        facts: The GPUs according to PyTorch; empty if it cannot be loaded.
        driver: The GPUs according to the driver.
    """
    if driver is None and not facts.get("gpus"):
        return [ok("GPUs", "none; runs use the processors")]
    system = f"driver {driver.version} for CUDA up to {driver.cuda or '(unknown)'}" if driver else "driver unknown"
    if "gpus" not in facts:
        why = facts.get("failed", "PyTorch cannot be loaded")
        return [note("GPUs", f"{len(driver.gpus) if driver else 0}; {system}; more is not known: {why}", "")]
    built = f"PyTorch is built for CUDA {facts['cuda']}" if facts.get("cuda") else "PyTorch is built without CUDA"
    if facts.get("hip"):
        built = f"PyTorch is built for ROCm {facts['hip']}"
    if not facts.get("gpus"):
        return [_unusable(facts, driver, f"{built}; {system}")]
    return [
        *(_check_gpu(number, gpu) for number, gpu in enumerate(facts["gpus"])),
        ok("GPU driver", f"{built}; {system}"),
    ]


def check_nccl(facts: Mapping[str, Any]) -> Finding:
    """Checks the connection between several GPUs."""
    number = len(facts.get("gpus", ()))
    if facts.get("nccl"):
        return ok("NCCL", facts["nccl"])
    if number > 1:
        advice = "Take a build of PyTorch with NCCL, or one GPU: --trainer.devices=1"
        return problem("NCCL", f"not in this PyTorch, and {number} GPUs need it to train together", advice)
    return ok("NCCL", "not needed: fewer than two GPUs")


def _unusable(facts: Mapping[str, Any], driver: Driver | None, text: str) -> Finding:
    number = len(driver.gpus) if driver else 0
    if "CUDA_VISIBLE_DEVICES" in os.environ and facts.get("cuda"):
        hidden = f"{number}, of which CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} leaves none; {text}"
        return note("GPUs", hidden, "To train on a GPU: unset CUDA_VISIBLE_DEVICES")
    reason = f" ({facts['gpu_error']})" if facts.get("gpu_error") else ""
    if not facts.get("cuda"):
        return problem("GPUs", f"{number} that this PyTorch cannot use; {text}", _OTHER_BUILD)
    supported = _number(driver.cuda) if driver else None
    if supported is not None and supported < (_number(facts["cuda"]) or (0, 0)):
        advice = f"Update the driver to one that supports CUDA {facts['cuda']}, or take another build. {_OTHER_BUILD}"
        return problem("GPUs", f"{number} with a driver that is too old for this PyTorch; {text}", advice)
    return problem("GPUs", f"{number} that PyTorch does not find{reason}; {text}", "`nvidia-smi` should list them.")


def _check_gpu(number: int, gpu: Mapping[str, Any]) -> Finding:
    free = f", {gpu['free'] / 2**30:.0f} GiB free" if "free" in gpu else ""
    major, minor = gpu["capability"]
    text = f"{gpu['name']}, {gpu['total'] / 2**30:.0f} GiB{free}, compute capability {major}.{minor}"
    name = f"GPU {number}"
    if gpu.get("works"):
        return ok(name, text)
    if "error" not in gpu:
        return problem(name, f"{text}; it computes wrong sums", "Take another GPU; this one or its driver is broken.")
    advice = f"PyTorch is built for {', '.join(gpu['built_for'])}. {_OTHER_BUILD}"
    return problem(name, f"{text}; a computation failed: {gpu['error']}", advice)


def _number(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
