"""The configuration in a checkpoint, as plain data and no more than a configuration has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIG = "w2vlab_config"
"""Where a checkpoint holds the configuration of its run."""

_MAX_DEPTH, _MAX_VALUES = 40, 1_000_000
"""Of a configuration: whoever made the file may have made it deep, wide, or a part of itself."""

_ATOMS = (str, int, float, bool, type(None))


def saved_config(checkpoint: Mapping[str, Any], source: object, key: str = CONFIG) -> dict[str, Any] | None:
    """Returns a copy of the configuration in a checkpoint; None if it holds none.

    Args:
        checkpoint: What was read.
        source: Where it was read, for errors.
        key: Where in it the configuration is.

    Raises:
        ValueError: It is more than plain data: mappings of names, lists, texts and numbers.
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
        self._where = f"`{key}` of {source}"
        self._num_values = 0

    def copy(self, value: Any, depth: int) -> Any:
        self._num_values += 1
        if depth > _MAX_DEPTH or self._num_values > _MAX_VALUES:
            raise ValueError(f"{self._where} must be at most {_MAX_DEPTH} levels deep and of {_MAX_VALUES:,} values.")
        if type(value) in _ATOMS:
            return value
        if isinstance(value, dict) and all(type(name) is str for name in value):
            return {name: self.copy(inner, depth + 1) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(inner, depth + 1) for inner in value]
        raise ValueError(
            f"{self._where} must be plain data, but holds a value of type {type(value).__name__}: w2vlab has not "
            "written it."
        )


def shown(value: Any, longest: int = 100) -> str:
    """Returns a text of a checkpoint for one line on a terminal, without control characters and cut to length."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
