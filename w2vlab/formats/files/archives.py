"""Checks of PyTorch's files that run no code: checksums, and the callables that a pickle names."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path

REFUSED = "refused"
"""First word of the description of a file whose loading would run code."""

_MAX_INSPECTED_BYTES, _MAX_PICKLES = 1 << 20, 5
"""Limits of the inspection of a file that is not a zip archive: bytes, and pickles in them."""

_ENCRYPTED = 1
"""Flag of an encrypted zip entry."""

_FOLDER = 0x10
"""Attribute bit of a zip entry that is a folder."""


def find_damage(path: str | Path) -> str | None:
    """Verifies the checksums of a checkpoint, which `torch.load` does not.

    PyTorch stores entries uncompressed. An entry that is declared as compressed, encrypted or longer than the file also
    counts as damaged and is not read, so that the time is bounded by the size of the file.

    Returns:
        A description of the damage; None if there is no damage.
    """
    path = Path(path)
    if not path.is_file():  # opening a pipe would block until a process writes to it
        return "it is not a regular file" if path.exists() else "it is missing"
    try:
        size = path.stat().st_size
        with zipfile.ZipFile(path) as file:
            for entry in file.infolist():
                if not _is_stored(entry) or entry.header_offset + entry.file_size > size:
                    return f"the entry of {entry.filename} in its table of contents is invalid"
            bad = file.testzip()
    except zipfile.BadZipFile as error:
        if not starts_as_zip(path):
            return _describe_non_zip(path)
        if "not a zip" in str(error):
            return "its table of contents, at the end, is missing or damaged: it may be truncated"
        return first_line(error)
    except Exception as error:  # a damaged table raises zlib.error, RuntimeError, struct.error, …
        return first_line(error)
    return None if bad is None else f"the checksum of {bad} does not match"


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    """Returns whether an entry is a file that is neither compressed nor encrypted, as PyTorch writes.

    For a folder, PyTorch would return uninitialized memory.
    """
    folder = entry.external_attr & _FOLDER or entry.is_dir()
    whole = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
    return whole and not folder and not entry.flag_bits & _ENCRYPTED


def _describe_non_zip(path: Path) -> str:
    """Describes a file that is not a zip archive; the operations of a pickle are listed and not executed."""
    callables: list[str] = []
    strings: list[str] = []
    try:
        with path.open("rb") as file:
            start = io.BytesIO(file.read(_MAX_INSPECTED_BYTES))
        for _ in range(_MAX_PICKLES):
            for operation, argument, _ in pickletools.genops(start):
                if operation.name in ("GLOBAL", "INST"):
                    callables.append(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    callables.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # truncated, or not a pickle
        pass
    unsafe = [name for name in callables if not name.startswith(("torch.", "collections."))]
    return refusal(unsafe) if unsafe else "it is not in the zip format of PyTorch"


def refusal(names: Iterable[str]) -> str:
    """Describes a file that names callables which are not allowed."""
    return f"{REFUSED}: loading it would run {', '.join(sorted(names)[:3])}"


def starts_as_zip(path: Path) -> bool:
    """Returns whether a file begins like a zip archive."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def first_line(error: Exception) -> str:
    """Returns the type and the first line of an error, without the advice of PyTorch that follows."""
    first = (str(error).splitlines() or [""])[0][:120].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
