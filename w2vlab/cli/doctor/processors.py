"""Processors and memory, as far as this process may use them."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from w2vlab.cli.doctor.finding import Finding, note, ok
from w2vlab.utils.limits import cpu_quota, memory_limit, read_text, visible_cores

_INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
}
"""CPU features that PyTorch's kernels use, by their Linux names: x86 above, Arm below."""

_MIN_MEMORY = 3 << 30
"""The quickstart takes about half of it."""


def check_processors(kernels: str | None = None, root: Path = Path("/")) -> Finding:
    """Checks the processors and their instructions.

    Args:
        kernels: The instruction set of the kernels that PyTorch has chosen; None if it cannot be loaded.
        root: Where `proc` and `sys` are.
    """
    model, flags = _cpu(root / "proc" / "cpuinfo")
    visible, quota = visible_cores(), cpu_quota(root)
    known = [label for flag, label in _INSTRUCTIONS.items() if flag in flags]
    text = f"{model}, {visible} of {os.cpu_count()} cores; {', '.join(known) or 'no vector instructions known of'}"
    if kernels is not None:
        text += f"; PyTorch's kernels: {kernels}"
    if quota is not None and quota < visible:
        advice = f"Let PyTorch start no more threads than that: export OMP_NUM_THREADS={max(1, math.floor(quota))}"
        return note("processors", f"{text}; a limit of {quota:g} of them at a time", advice)
    if flags and not flags & {"avx2", "asimd"}:
        return note("processors", text, "Without AVX2 a run takes several times as long; choose another machine.")
    return ok("processors", text)


def check_memory(root: Path = Path("/")) -> Finding:
    """Checks the free memory and the memory limit of this process."""
    memory = _memory(root / "proc" / "meminfo")
    if memory is None:
        return ok("memory", "not known on this system")
    free, total = memory
    limit, text = memory_limit(root), f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB"
    free = available_memory(root) or free
    if limit is not None and limit.bytes < total:
        text += f"; a limit of {limit.bytes / 2**30:.1f} GiB for this group of processes"
    if free < _MIN_MEMORY:
        return note("memory", text, "A small run needs about 2 GiB: end other programs, or lower data.batch_seconds.")
    return ok("memory", text)


def available_memory(root: Path = Path("/")) -> int | None:
    """Returns the bytes that this process may still use, by the system and its container; None if they are unknown."""
    memory, limit = _memory(root / "proc" / "meminfo"), memory_limit(root)
    if memory is None:
        return None
    free, total = memory
    return free if limit is None or limit.bytes >= total else min(free, limit.bytes - limit.used)


def _cpu(file: Path) -> tuple[str, frozenset[str]]:
    """Returns the processor's name and the flags of its instructions."""
    model, flags = "", ""
    for line in read_text(file).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = value
            break
    return model or platform.processor() or platform.machine(), frozenset(flags.split())


def _memory(file: Path) -> tuple[int, int] | None:
    """Returns the bytes that are free and those that there are."""
    sizes = {}
    for line in read_text(file).splitlines():
        key, _, value = line.partition(":")
        amount = value.split()
        if amount and amount[0].isdigit():
            sizes[key] = int(amount[0]) * 1024
    if not {"MemAvailable", "MemTotal"} <= set(sizes):
        return None
    return sizes["MemAvailable"], sizes["MemTotal"]
