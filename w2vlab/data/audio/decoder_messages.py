"""Captures the messages of libmpg123."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PREFIXES = (b"[src/libmpg123", b"[../src/libmpg123", b"Note: ", b"Warning: ", b"Giving up")
_STDERR_LOCK = threading.Lock()


@contextmanager
def capture_messages() -> Iterator[list[str]]:
    """Captures the messages that libmpg123 writes to standard error, because it reports damage nowhere else.

    They are not shown: they name no file, and most are about frames after a seek, which are not used. What other
    threads write is shown.
    """
    messages: list[str] = []
    with _STDERR_LOCK, tempfile.TemporaryFile(buffering=0) as collected:
        stream = os.dup(2)
        os.dup2(collected.fileno(), 2)
        try:
            yield messages
        finally:
            os.dup2(stream, 2)
            os.close(stream)
            collected.seek(0)
            for line in collected.read().splitlines(keepends=True):
                if line.strip() and not line.startswith(_PREFIXES):
                    os.write(2, line)
                else:
                    messages.append(line.decode(errors="replace"))
