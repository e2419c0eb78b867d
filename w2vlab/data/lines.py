"""Lines of text files, as their authors mean them."""

from __future__ import annotations

from pathlib import Path


def read_lines(path: Path) -> list[str]:
    r"""Returns the lines of a UTF-8 text, with or without a byte order mark.

    Lines end with `\n` or `\r\n` and with nothing else: `str.splitlines` also ends them at form feeds and at U+0085,
    U+2028 and U+2029, which names and texts may have.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text, but is not: {error}.") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
