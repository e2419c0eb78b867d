"""Plain data out of files that nobody vouches for: bounded in size, depth and number of values.

A report reads whatever stands in the folders of runs. A file may be cut off, be somebody else's, or be made to take all
memory: JSON nested so deep that reading it exhausts the stack, YAML whose aliases stand for a billion values, a file
without an end. Everything here either returns or raises a `ValueError` of one line, in bounded time and memory.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

MEBIBYTE = 2**20

MOST_BYTES = 16 * MEBIBYTE
"""Of a file with options or a record; what a run writes takes a hundredth."""

MOST_LEVELS = 64
"""Of lists and mappings in each other; the options of a run have about ten."""

MOST_VALUES = 200_000
"""In a YAML file, each alias counted as all that it stands for; the options of a run are a few hundred."""

LONGEST_NUMBER = 400
"""Characters; arithmetic with numbers of millions of digits takes hours."""

_LARGEST = 1e300

_SHORT = 100_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Returns the text of a file.

    Args:
        path: The file.
        most_bytes: Larger ones are refused, unread.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no file (a pipe would be waited for without end), is too large, or is not text in UTF-8.
    """
    kind = path.stat()
    if not stat.S_ISREG(kind.st_mode):
        raise ValueError("it is no regular file")
    if kind.st_size > most_bytes:
        raise ValueError(
            f"it has {kind.st_size / MEBIBYTE:,.0f} MiB, and more than {most_bytes // MEBIBYTE} are not read"
        )
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)  # it may have grown
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes // MEBIBYTE} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Returns what a file of JSON holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON, or beyond the bounds.
    """
    return parse_json(read_text(path, most_bytes))


def parse_json(text: str) -> Any:
    """Returns what a text of JSON says.

    Raises:
        ValueError: It is not JSON, or nested deeper than `MOST_LEVELS`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check(value, None)
    return value


def read_yaml(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Returns what a file of YAML holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not YAML, or beyond the bounds.
    """
    try:
        return parse_yaml(read_text(path, most_bytes))
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"{getattr(problem, 'problem', None) or 'it is not YAML'}{where}") from None


def parse_yaml(text: str) -> Any:
    """Returns what a text of YAML says.

    Raises:
        yaml.YAMLError: It is not YAML.
        ValueError: It is nested deeper than `MOST_LEVELS`, or has more than `MOST_VALUES` values.
    """
    try:
        check_yaml(text)
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        if len(text) < _SHORT:  # the slow reader says more of what it expected
            for _ in yaml.parse(text, yaml.SafeLoader):
                pass
        raise
    _check(value, MOST_VALUES)
    return value


_TOO_DEEP = f"it is nested deeper than {MOST_LEVELS} levels"


def check_yaml(text: str) -> None:
    """Counts what the aliases of a text stand for, before anything is made of them.

    Merging (`<<: *a`) copies already while a text is read, so what came of it cannot be looked at.

    Raises:
        yaml.YAMLError: It is not YAML.
        ValueError: It is nested deeper than `MOST_LEVELS`, or has more than `MOST_VALUES` values.
    """
    sizes: dict[str, int] = {}
    total = 0
    open_: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise ValueError(f"its alias *{event.anchor} stands inside of itself")
            total += sizes.get(event.anchor, 0)  # an unknown one is an error of the reader's
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            is_text = not event.implicit[0] and event.tag is None
            if len(event.value) > LONGEST_NUMBER and not is_text and event.value[:1] in "+-.0123456789":
                raise ValueError(f"it has a number of {len(event.value):,} characters")
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            total += 1
            if len(open_) > MOST_LEVELS:
                raise ValueError(_TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if total > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, aliases counted as what they stand for")


def _check(value: Any, most_values: int | None) -> None:
    """Refuses what would break those who print it, compare it or go through it.

    Raises:
        ValueError: It is too deep, has too many values, or a number too large for a float.
    """
    level, number = [value], 0
    for _ in range(MOST_LEVELS + 1):
        below: list[Any] = []
        number += len(level)
        if most_values is not None and number > most_values:
            raise ValueError(f"it has more than {most_values:,} values")
        for entry in level:
            if isinstance(entry, dict):
                below += entry.values()
            elif isinstance(entry, list):
                below += entry
            elif isinstance(entry, int) and abs(entry) > _LARGEST:
                raise ValueError("it has a number of more than 300 digits")
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)
