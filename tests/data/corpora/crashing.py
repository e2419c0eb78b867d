"""Imported by worker processes, so it imports little."""

from __future__ import annotations

import os
import signal

from w2vlab.data.corpora.scanning import Block, Entry


def end_on_seven(entries: list[Entry]) -> Block:
    """Is ended by the seventh file, as by a fault in a decoder."""
    block = Block()
    for entry in entries:
        if entry.id == "7":
            os.kill(os.getpid(), signal.SIGSEGV)
        block.lines.append(entry.id.encode())
    return block
