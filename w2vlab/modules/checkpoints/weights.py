"""Loads the weights of a checkpoint into the model that was built from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from w2vlab.modules.checkpoints.plain import printable
from w2vlab.utils.messages import dimensions

_NUM_LISTED = 3
"""Number of tensors that an error lists."""


def load_weights(model: nn.Module, saved: Any, source: object, strict: bool = True) -> None:
    """Loads the weights of a checkpoint.

    Args:
        model: The model; changed in place.
        saved: The `state_dict` of the checkpoint.
        source: Path of the checkpoint, for errors.
        strict: Whether the names must be exactly those of the model, as in `nn.Module.load_state_dict`.

    Raises:
        ValueError: `saved` is not a mapping from names to tensors, or names or shapes differ from those of the model.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise ValueError(f"`state_dict` of {source} must have tensors by name, but does not.")
    own = model.state_dict()
    different = [
        f"{printable(name)} ({_shape(own, name)}; the checkpoint: {_shape(saved, name)})"
        for name in dict.fromkeys([*own, *saved])
        if _shape(own, name) != _shape(saved, name) and (strict or (name in own and name in saved))
    ]
    if different:
        more = f" and {len(different) - _NUM_LISTED} more" if len(different) > _NUM_LISTED else ""
        raise ValueError(
            f"`state_dict` of {source} must have the weights of the {type(model).__name__} that it describes, but "
            f"these differ: {', '.join(different[:_NUM_LISTED])}{more}."
        )
    model.load_state_dict(dict(saved), strict=strict)


def _shape(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "none"
    value = values[name]
    return dimensions(value.shape) if isinstance(value, Tensor) else type(value).__name__
