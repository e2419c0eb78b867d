"""The switch between the kernels and the plain PyTorch operations that they equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_plain = False


def uses_plain_kernels() -> bool:
    """Returns whether the modules of this package compute by plain PyTorch operations."""
    return _plain


def set_plain_kernels(enabled: bool) -> None:
    """Sets whether the modules of this package compute by plain PyTorch operations, in all threads of the process.

    Args:
        enabled: True for the plain operations; False, the default of a process, for the kernels.
    """
    global _plain
    _plain = enabled


@contextmanager
def plain_kernels(enabled: bool = True) -> Iterator[None]:
    """Computes by plain PyTorch operations inside: for export, for debugging, and as the reference of tests.

    Outputs and gradients are the same up to rounding, but dropout draws other random numbers. The state dict does not
    depend on it. A backward pass with activation checkpointing must run inside as well, because it calls the layers
    again.

    Args:
        enabled: False for the kernels, inside of another `plain_kernels()`.

    Example:
        >>> with plain_kernels(), torch.no_grad():
        ...     program = torch.export.export(model, (waveform,))
    """
    before = _plain
    set_plain_kernels(enabled)
    try:
        yield
    finally:
        set_plain_kernels(before)
