"""Keeping checkpoints to what can be read without running code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ATOMS = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)

_CHECKED_ELSEWHERE = ("state_dict",)  # PyTorch's own, with attributes that a copy would lose


class _NotPlain(Exception):
    """Holds something that would have to be rebuilt by running code."""


def leave_out_what_is_not_plain(checkpoint: dict[str, Any]) -> list[str]:
    """Turns paths and NumPy's numbers and arrays into plain ones, and removes what cannot be turned.

    A callback's state, and any other entry, goes as a whole: half of it could not be relied on.

    Args:
        checkpoint: Changed in place.

    Returns:
        The names of the entries that were removed.
    """
    removed = []
    for entries, prefix in _entries(checkpoint):
        for name, value in list(entries.items()):
            if not prefix and name in _CHECKED_ELSEWHERE:
                continue
            try:
                entries[name] = _plain(value)
            except _NotPlain:
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
    raise _NotPlain
