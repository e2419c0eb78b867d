"""Limits of the system: shared memory and open files."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

from w2vlab.cli.doctor.finding import Finding, note, ok

_MIN_SHARED = 256 << 20
"""Batches wait there between the processes that read audio and the one that trains; containers often have 64 MiB."""

_MIN_FILES = 1024
"""Default limit of Linux; each prefetched batch is a few open files."""


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Checks the shared memory through which worker processes pass batches."""
    name = str(folder)
    advice = "In a container: docker run --shm-size=1g. Or read in the training process: --data.num_workers=0"
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return note(name, f"cannot be used: {error.strerror}", advice)
    text = f"{usage.free / 2**20:,.0f} MiB free of {usage.total / 2**20:,.0f} MiB"
    if usage.free < _MIN_SHARED:
        return note(name, f"{text}, which is little for batches on their way to training", advice)
    return ok(name, text)


def check_open_files() -> Finding:
    """Checks the limit of open files of a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    most = "without a limit" if hard == resource.RLIM_INFINITY else f"up to {hard}"
    if soft < _MIN_FILES:
        advice = f"ulimit -n {_MIN_FILES}"
        if hard != resource.RLIM_INFINITY and hard < _MIN_FILES:
            advice = f"Ask for a hard limit of {_MIN_FILES}, or read in the training process: --data.num_workers=0"
        return note("open files", f"at most {soft} ({most} can be asked for)", advice)
    return ok("open files", f"at most {soft}")
