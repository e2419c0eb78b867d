"""Checking options that are one of a few words."""

from __future__ import annotations

from typing import Any, get_args


def check_choice(name: str, value: str, choices: Any) -> None:
    """Refuses a word that is none of a `Literal` type's: from Python, nothing else would look at it.

    Args:
        name: The option, as the user typed it.
        value: Its value.
        choices: The `Literal` type of the option.

    Raises:
        ValueError: The value is none of them.
    """
    words = get_args(choices)
    if value not in words:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, words))}, but is {value}.")
