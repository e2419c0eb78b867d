"""The device of an evaluation."""

from __future__ import annotations

import torch


def device_named(name: str) -> torch.device:
    """Returns the device that `auto`, `cpu` or `cuda` means on this machine.

    Raises:
        ValueError: The device does not exist.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("`device` must be cpu or auto on this machine, but is cuda, and PyTorch sees no such device.")
    return torch.device("cuda" if name != "cpu" and there else "cpu")
