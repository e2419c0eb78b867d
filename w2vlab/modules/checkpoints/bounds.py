"""Bounds of a model that is built from the configuration of an untrusted file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MAX_TENSORS = 20_000
"""Tensors of a model; those of the largest published ones have about a thousand."""

_NEW_TENSOR = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange}


class bounded_model(TorchFunctionMode):
    """Raises `ValueError` while a model is built that does not fit into the memory of this machine.

    A configuration states numbers of layers and widths without the weights that prove them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num_tensors = 0
        self._num_bytes = 0
        self._max_bytes = _memory()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Counts new tensors, whose memory is reserved and not yet written to."""
        result = func(*args, **(kwargs or {}))
        if func in _NEW_TENSOR and isinstance(result, Tensor):
            self._num_tensors += 1
            self._num_bytes += result.nbytes
            if self._num_tensors > _MAX_TENSORS:
                raise ValueError(f"it has more than {_MAX_TENSORS:,} tensors")
            if self._num_bytes > self._max_bytes:
                raise ValueError(f"its weights need more than the memory of this machine ({self._max_bytes >> 30} GiB)")
        return result


def _memory() -> int:
    """Returns the bytes of memory of this machine; 1 TiB if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 40
