"""Checks that options of several layers have in common."""

from __future__ import annotations


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
