"""Runs something in two processes that know of each other, and brings back what both returned."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.processes import forked

MAIN = "import sys; from tests.ddp.processes import run_rank; run_rank(*sys.argv[1:])"


def in_two_processes(function: Callable[[Path], Any], folder: Path) -> list[Any]:
    """Calls `function(folder)` in both; it must be in a module that another process can import.

    Raises:
        AssertionError: One of them failed, which ends the other; with what it printed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", MAIN, function.__module__, function.__qualname__, str(folder)]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment |= {"NODE_RANK": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile("w+") as log:
        ranks = [
            forked.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}, stderr=log, start_new_session=True)
            for rank in range(2)
        ]
        try:
            while (statuses := [rank.poll() for rank in ranks]) != [0, 0]:
                if any(statuses):  # it has failed, and the other one would wait for it
                    log.seek(0)
                    raise AssertionError(f"The processes ended with {statuses}:\n{log.read()}")
                time.sleep(0.01)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def run_rank(module: str, name: str, folder: str) -> None:
    """What one of the processes does; its number is in the environment, as a launcher has it."""
    function = getattr(importlib.import_module(module), name)
    rank = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(1)
    # A process that waits for one that is not coming fails in the end, and the test with it.
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(minutes=3))
    torch.save(function(Path(folder)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
