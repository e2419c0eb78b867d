"""Restricts checkpoints to values that `torch.load(…, weights_only=True)` accepts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ATOMS = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)

_NOT_COPIED = ("state_dict",)  # an `OrderedDict` with attributes that a copy would lose


class _NotPlainError(Exception):
    """A value can only be restored by running code."""


def remove_non_plain_values(checkpoint: dict[str, Any]) -> list[str]:
    """Converts paths, NumPy scalars and NumPy arrays to plain values, and removes entries with other objects.

    An entry, such as the state of a callback, is removed as a whole, because a partial state could be inconsistent.

    Args:
        checkpoint: The checkpoint; changed in place.

    Returns:
        The names of the entries that were removed.
    """
    removed = []
    for entries, prefix in _entries(checkpoint):
        for name, value in list(entries.items()):
            if not prefix and name in _NOT_COPIED:
                continue
            try:
                entries[name] = _plain(value)
            except _NotPlainError:
                del entries[name]
                removed.append(f"{prefix}{name}")
    return removed


def _entries(checkpoint: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    yield checkpoint.get("callbacks", {}), "callbacks."
    yield checkpoint, ""


def _plain(value: Any) -> Any:
    if type(value) in _ATOMS or isinstance(value, Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return {_plain(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        kind = tuple if isinstance(value, tuple) else set if isinstance(value, set | frozenset) else list
        return kind(_plain(inner) for inner in value)
    for basic in (bool, int, float, str):  # such as a member of an `IntEnum`
        if isinstance(value, basic):
            return basic(value)
    raise _NotPlainError
