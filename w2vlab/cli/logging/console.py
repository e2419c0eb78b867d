"""Where tables are printed."""

from __future__ import annotations

import sys

from rich.console import Console


def output_console(plain_width: int, highlight: bool = True) -> Console:
    """Returns a console on the standard output.

    Args:
        plain_width: Width in characters if the output is not a terminal but a file or a pipe, where nothing is cut off.
        highlight: Whether numbers and names are colored.
    """
    return Console(width=None if sys.stdout.isatty() else plain_width, highlight=highlight)
