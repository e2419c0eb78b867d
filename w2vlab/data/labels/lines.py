"""Reads lines of text files."""

from __future__ import annotations

from pathlib import Path


def read_lines(path: Path) -> list[str]:
    r"""Reads the lines of a UTF-8 text file, with or without a byte order mark.

    Only `\n` and `\r\n` end a line. `str.splitlines` would also split at form feeds and at U+0085, U+2028 and U+2029,
    which file names and transcripts may contain.

    Raises:
        ValueError: The file is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, but is not: {error}.") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
