"""Weights of a checkpoint into the model that was built from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from w2vlab.modules.checkpoints.plain import shown

_NAMED = 3
"""Tensors that an error names."""


def load_weights(model: nn.Module, saved: Any, source: object, strict: bool = True) -> None:
    """Loads weights.

    Args:
        model: Gets them.
        saved: The `state_dict` of a checkpoint.
        source: Where it was read, for errors.
        strict: Whether there must be all of the model's and no others.

    Raises:
        ValueError: They are not those of the model.
    """
    if not isinstance(saved, Mapping) or not all(isinstance(name, str) for name in saved):
        raise ValueError(f"`state_dict` of {source} must have a tensor for each name, but has not.")
    own = model.state_dict()
    different = [
        f"{shown(name)} ({_shape(own, name)}; the checkpoint: {_shape(saved, name)})"
        for name in dict.fromkeys([*own, *saved])
        if _shape(own, name) != _shape(saved, name) and (strict or (name in own and name in saved))
    ]
    if different:
        more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
        raise ValueError(
            f"`state_dict` of {source} must have the weights of the {type(model).__name__} that it describes, but "
            f"these differ: {', '.join(different[:_NAMED])}{more}."
        )
    model.load_state_dict(dict(saved), strict=strict)


def _shape(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "none"
    value = values[name]
    return " x ".join(map(str, value.shape)) or "a number" if isinstance(value, Tensor) else type(value).__name__
