"""The switch between the kernels and the plain PyTorch operations that they equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_plain = False
"""The last of `_values`, alone: a compiled model checks it at every call."""

_values: list[tuple[object, bool]] = [(None, False)]
"""The default of the process, then the value of each `plain_kernels()` that is open, with a token of its own."""

_lock = Lock()


def uses_plain_kernels() -> bool:
    """Returns whether the modules of this package compute by plain PyTorch operations."""
    return _plain


def set_plain_kernels(enabled: bool) -> None:
    """Sets whether the modules of this package compute by plain PyTorch operations, in all threads of the process.

    Inside of `plain_kernels()` it lasts until the innermost one ends.

    Args:
        enabled: True for the plain operations; False, the default of a process, for the kernels.
    """
    with _lock:
        token, _ = _values.pop()
        _values.append((token, enabled))
        _use_last()


@contextmanager
def plain_kernels(enabled: bool = True) -> Iterator[None]:
    """Computes by plain PyTorch operations inside: for export, for debugging, and as the reference of tests.

    Outputs and gradients are the same up to rounding, but dropout draws other random numbers. The state dict does not
    depend on it. A backward pass with activation checkpointing must run inside as well, because it calls the layers
    again. It holds for all threads of the process, as long as one of them is inside.

    Args:
        enabled: False for the kernels, inside of another `plain_kernels()`.

    Example:
        >>> with plain_kernels(), torch.no_grad():
        ...     program = torch.export.export(model, (waveform,))
    """
    token = object()
    with _lock:
        _values.append((token, enabled))
        _use_last()
    try:
        yield
    finally:
        # Threads may leave in another order than they entered, so the value of before is not that of now.
        with _lock:
            _values[:] = [entry for entry in _values if entry[0] is not token]
            _use_last()


def _use_last() -> None:
    global _plain
    _, _plain = _values[-1]
