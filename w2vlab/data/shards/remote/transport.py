"""What the readers of servers have in common: facts on a file, its bytes as a stream, and two kinds of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from w2vlab.types import Seconds

CHUNK = 1 << 20
"""Most bytes of a piece of a stream."""


class FetchError(ValueError):
    """A file that a server does not deliver, and will not if it is asked again; one line with URL and reason."""


class NotThereError(FetchError):
    """A file that does not exist."""


class OutageError(Exception):
    """A failure that may pass: a server that does not answer, stalls, breaks off or reports an error of its own."""


@dataclass(frozen=True)
class FileFacts:
    """What a server says of a file.

    Attributes:
        url: Its URL.
        size: Its bytes; None if the server does not say.
        tag: Its version (ETag); None if the server does not say.
    """

    url: str
    size: int | None
    tag: str | None


@dataclass(frozen=True)
class Stream:
    """The bytes of a file from `start` on.

    Attributes:
        facts: What the server says of the whole file.
        start: First byte; 0 if the server does not deliver parts.
        chunks: Yields the bytes.

    Raises:
        OutageError: By `chunks`, if the connection fails.
    """

    facts: FileFacts
    start: int
    chunks: Iterator[bytes]


class Transport(Protocol):
    """Reads files of one kind of server."""

    def facts(self, url: str, timeout: Seconds) -> FileFacts:
        """Asks for size and version of a file.

        Raises:
            FetchError: It is not there or not allowed.
            OutageError: The server cannot be reached.
        """
        ...

    def open(self, url: str, start: int, tag: str | None, timeout: Seconds) -> AbstractContextManager[Stream]:
        """Opens a file.

        Args:
            url: Its URL.
            start: First byte that is wanted.
            tag: Its version; from another one all bytes are delivered. None if that is not known.
            timeout: Seconds without a byte after which the connection is given up.

        Raises:
            FetchError: It is not there, not allowed, or of another version and the server does not deliver that.
            OutageError: The server cannot be reached.
        """
        ...

    def list_files(self, url: str, timeout: Seconds) -> list[FileFacts]:
        """Lists the files of a folder.

        Raises:
            FetchError: The server has no lists, or it is not allowed.
            OutageError: The server cannot be reached.
        """
        ...
