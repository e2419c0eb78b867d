"""Checks that options of several layers have in common."""

from __future__ import annotations

import os


def check_at_least(least: int, **options: int | None) -> None:
    """Checks that options are at least `least`, or None.

    Args:
        least: The lower bound.
        options: The values by their names.

    Raises:
        ValueError: One of them is less.
    """
    for name, value in options.items():
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be at least {least}, but is {value}.")


def positive_from_environment(variable: str, default: float, kind: str) -> float:
    """Returns the value of an environment variable, a finite number above 0.

    Args:
        variable: Its name.
        default: The value if it is not set, or empty.
        kind: What it is, for the message: "a number", "a number of seconds".

    Raises:
        ValueError: It is no such number.
    """
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"`{variable}` must be {kind} above 0, but is {text!r}.")
    return value


def is_valid_utf8(name: str) -> bool:
    """Returns whether a name can be encoded; that of a file may have bytes that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
