"""Writing checkpoints that are there as a whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from w2vlab.files import UNFINISHED
from w2vlab.modules.loading import LAST, previous_of

_log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until it is on the disk, and then puts it there.

    Where that fails, for want of space or because a disk is gone, the run must not: there is a warning, and what was
    there before stays as it was.

    A `last.ckpt` stays as `last-previous.ckpt` when there is a newer one.

    Attributes:
        failure: What went wrong in the last attempt to write; None if nothing did.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `checkpoint`; a failure is a warning, and in `failure`."""
        if "://" in str(path):  # stores that are no file systems put whole objects
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(checkpoint, unfinished)
            if path.name == LAST and path.exists():
                _keep(path)
            os.replace(unfinished, path)
            _wait_for(path.parent)
        except OSError as failure:
            self.failure = failure
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            _log.warning("%s could not be written (%s). Going on; it is tried again at the next save.", path, failure)
        else:
            self.failure = None

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        with path.open("wb") as opened:
            file: Any = _Remembering(opened)
            try:
                torch.save(checkpoint, file)
            except Exception:  # PyTorch makes a RuntimeError of it, which says nothing of the disk
                if file.failure is not None:
                    raise file.failure from None
                raise
            opened.flush()
            os.fsync(opened.fileno())

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint, by default to the host and without running code."""
        checkpoint: dict[str, Any] = super().load_checkpoint(
            path, map_location or (lambda storage, _: storage), weights_only is not False
        )
        return checkpoint


class _Remembering:
    """A file that knows which of its operations failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as failure:
            self.failure = failure
            raise

    def flush(self) -> None:
        self._file.flush()


def _keep(path: Path) -> None:
    """Gives a file a second name, so that there is one of that name at every moment."""
    previous = previous_of(path)
    second = path.with_name(previous.name + UNFINISHED)
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:  # a file system without links
        os.replace(path, previous)
    else:
        os.replace(second, previous)


def _wait_for(folder: Path) -> None:
    """Waits until the names in a folder are on the disk; some file systems cannot tell."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
