"""The configuration in a checkpoint, checked to be plain data of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIG = "w2vlab_config"
"""Key of the configuration of the run in a checkpoint."""

_MAX_DEPTH, _MAX_VALUES = 40, 1_000_000
"""Limits of a configuration: a file from an untrusted source may be nested deeply, large or self-referential."""

_ATOMS = (str, int, float, bool, type(None))


def saved_config(checkpoint: Mapping[str, Any], source: object, key: str = CONFIG) -> dict[str, Any] | None:
    """Copies the configuration in a checkpoint.

    Args:
        checkpoint: The checkpoint.
        source: Path of the checkpoint, for errors.
        key: Key of the configuration.

    Returns:
        The copy; None if the checkpoint has no configuration.

    Raises:
        ValueError: It is not plain data (mappings with string keys, lists, strings and numbers), or too large.
    """
    config = checkpoint.get(key)
    if config is None:
        return None
    found = _Copier(source, key).copy(config, 0)
    if not isinstance(found, dict):
        raise ValueError(f"`{key}` of {source} must be a mapping of options, but is of type {type(found).__name__}.")
    return found


class _Copier:
    def __init__(self, source: object, key: str) -> None:
        self._name = f"`{key}` of {source}"
        self._num_values = 0

    def copy(self, value: Any, depth: int) -> Any:
        self._num_values += 1
        if depth > _MAX_DEPTH or self._num_values > _MAX_VALUES:
            raise ValueError(f"{self._name} must have at most {_MAX_DEPTH} levels and {_MAX_VALUES:,} values.")
        if type(value) in _ATOMS:
            return value
        if isinstance(value, dict) and all(type(name) is str for name in value):
            return {name: self.copy(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(inner, depth + 1) for inner in value]
        raise ValueError(
            f"{self._name} must be plain data, but has a value of type {type(value).__name__}: it was not "
            "written by w2vlab."
        )


def printable(value: Any, max_length: int = 100) -> str:
    """Formats a value of a checkpoint for one line of a terminal: without control characters, truncated."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= max_length else f"{text[:max_length]}…"
