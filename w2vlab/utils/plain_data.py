"""Reader of plain data from untrusted files, with limits for size, depth and number of values.

A report reads any file in run folders. A file may be truncated, of another program, or malicious: JSON nested so deep
that parsing exhausts the stack, YAML whose aliases expand to a billion values, or an endless file. All functions here
either return or raise a `ValueError` of one line, in bounded time and memory.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

MEBIBYTE = 2**20

MAX_BYTES = 16 * MEBIBYTE
"""Maximum size of a configuration or record; the files of a run have about a hundredth of it."""

MAX_LEVELS = 64
"""Maximum nesting depth of lists and mappings; the options of a run have about ten levels."""

MAX_VALUES = 200_000
"""Maximum number of values in a YAML file after expanding aliases; the options of a run have a few hundred."""

MAX_NUMBER_LENGTH = 400
"""Maximum characters of a number, because arithmetic with millions of digits takes hours."""

_LARGEST = 1e300

_SHORT = 100_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Returns the text of a file.

    Args:
        path: The file.
        max_bytes: Maximum size; larger files are not read.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file (reading a pipe may block forever), is too large, or is not UTF-8 text.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ValueError("it is not a regular file")
    if info.st_size > max_bytes:
        raise ValueError(
            f"it has {info.st_size / MEBIBYTE:,.0f} MiB, and more than {max_bytes // MEBIBYTE} are not read"
        )
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)  # limited, because the file may have grown
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes // MEBIBYTE} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Returns the content of a JSON file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not valid JSON, or exceeds a limit.
    """
    return parse_json(read_text(path, max_bytes))


def parse_json(text: str) -> Any:
    """Parses JSON.

    Raises:
        ValueError: The text is not valid JSON, or exceeds a limit.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check(value, None)
    return value


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Returns the content of a YAML file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not valid YAML, or exceeds a limit.
    """
    try:
        return parse_yaml(read_text(path, max_bytes))
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"{getattr(problem, 'problem', None) or 'it is not YAML'}{where}") from None


def parse_yaml(text: str) -> Any:
    """Parses YAML.

    Raises:
        yaml.YAMLError: The text is not valid YAML.
        ValueError: It exceeds a limit.
    """
    try:
        check_yaml(text)
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        if len(text) < _SHORT:  # the slow parser in Python has better error messages
            for _ in yaml.parse(text, yaml.SafeLoader):
                pass
        raise
    _check(value, MAX_VALUES)
    return value


_TOO_DEEP = f"it is nested deeper than {MAX_LEVELS} levels"


def check_yaml(text: str) -> None:
    """Checks the limits of a YAML text, with aliases expanded, before it is loaded.

    It works on parser events, because merging (`<<: *a`) copies values while loading, which is too late for a check.

    Raises:
        yaml.YAMLError: The text is not valid YAML.
        ValueError: It exceeds a limit.
    """
    sizes: dict[str, int] = {}
    total = 0
    open_: list[tuple[str | None, int]] = []  # anchor and start of each open collection
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise ValueError(f"its alias *{event.anchor} refers to a collection that contains it")
            total += sizes.get(event.anchor, 0)  # the loader raises an error for an unknown one
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            is_text = not event.implicit[0] and event.tag is None
            if len(event.value) > MAX_NUMBER_LENGTH and not is_text and event.value[:1] in "+-.0123456789":
                raise ValueError(f"it has a number of {len(event.value):,} characters")
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, total))
            total += 1
            if len(open_) > MAX_LEVELS:
                raise ValueError(_TOO_DEEP)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        if total > MAX_VALUES:
            raise ValueError(f"it has more than {MAX_VALUES:,} values with aliases expanded")


def _check(value: Any, most_values: int | None) -> None:
    """Checks the limits of parsed data.

    Raises:
        ValueError: It is nested too deep, has too many values, or a number too large for a float.
    """
    level, number = [value], 0
    for _ in range(MAX_LEVELS + 1):
        children: list[Any] = []
        number += len(level)
        if most_values is not None and number > most_values:
            raise ValueError(f"it has more than {most_values:,} values")
        for entry in level:
            if isinstance(entry, dict):
                children += entry.values()
            elif isinstance(entry, list):
                children += entry
            elif isinstance(entry, int) and abs(entry) > _LARGEST:
                raise ValueError("it has a number of more than 300 digits")
        if not children:
            return
        level = children
    raise ValueError(_TOO_DEEP)
