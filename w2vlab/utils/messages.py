"""Counts and durations in words, and warnings that are shown without a source line."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO


class W2VLabWarning(UserWarning):
    """A warning about a setting that the user can change; it is shown without a source line."""


def count(number: int, noun: str) -> str:
    """Returns a number of things in words: `1 update`, `2 updates`, `3 micro-batches`, `10,000 utterances`."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number:,} {noun}{ending}"


def duration(seconds: float) -> str:
    """Returns a duration in hours, minutes or seconds, whichever gives a number of at least 1."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:,.2f} {name}"
    return f"{seconds:.3g} s"


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Shows each `W2VLabWarning` once, as a line; other warnings as before.

    Python shows a warning once for each line of code that raises it, so that one that is raised in the sanity check
    and in training would be shown twice. The format is set while a warning is shown, because Lightning replaces
    `warnings.formatwarning` when it is imported, and takes any file below a folder named `lightning` for its own.
    """
    before, shown = warnings.showwarning, set[str]()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, W2VLabWarning):
            before(message, category, filename, lineno, file, line)
            return
        text = str(message)
        if text in shown:
            return
        shown.add(text)
        formatted, warnings.formatwarning = warnings.formatwarning, _format_line
        try:
            before(message, category, filename, lineno, file, line)
        finally:
            warnings.formatwarning = formatted

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _format_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {message}\n"


def dimensions(shape: Iterable[int]) -> str:
    """Formats a shape, such as `2 x 3`; that of a scalar is `a number`."""
    return " x ".join(map(str, shape)) or "a number"


def one_line(text: str, most: int | None = None) -> str:
    r"""Returns a text that is safe to print in one line: characters that are not printable are escaped.

    The name of a run or a line of a log may hold newlines, which break a table, escape codes, which move the cursor
    or hide text, or marks that turn the direction of writing.

    Args:
        text: Text from any source.
        most: Characters to keep; None for all of them.
    """
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"
