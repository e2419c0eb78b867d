"""Runs something in two processes that know of each other, and brings back what both returned."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_two_processes(function: Callable[[Path], Any], folder: Path) -> list[Any]:
    """Calls `function(folder)` in both; it must stand in a module that a spawned process can import."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_run, (function, port, folder), nprocs=2)
    return [torch.load(folder / f"{process}.pt") for process in range(2)]


def _run(process: int, function: Callable[[Path], Any], port: int, folder: Path) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "NODE_RANK": "0",
        "LOCAL_RANK": str(process),
    }
    torch.set_num_threads(1)
    # A process that waits for one that is not coming fails in the end, and the test with it.
    dist.init_process_group("gloo", rank=process, world_size=2, timeout=timedelta(minutes=3))
    torch.save(function(folder), folder / f"{process}.pt")
    dist.destroy_process_group()
