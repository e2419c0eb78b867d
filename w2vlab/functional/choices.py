"""Checks options of a `Literal` type."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(name: str, value: str, choices: Any) -> None:
    """Checks that a value is one of a `Literal` type's; Python does not check annotations itself.

    Args:
        name: Name of the option, as users type it.
        value: Its value.
        choices: The `Literal` type of the option.

    Raises:
        ValueError: The value is not one of the choices.
    """
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, but is {value}.")
