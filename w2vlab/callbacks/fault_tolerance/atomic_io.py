"""Atomic checkpoint writing: a file is either complete or absent."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from w2vlab.modules.checkpoints.loading import LAST, previous_of
from w2vlab.utils.files import UNFINISHED

_log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in the same folder, syncs it to disk, and renames it to its final name.

    If writing fails, because the disk is full or unmounted, the run continues: a warning is logged, and the existing
    checkpoint is unchanged.

    When `last.ckpt` is replaced, the older one is kept as `last-previous.ckpt`.

    Attributes:
        failure: The error of the last attempt to write; None if it succeeded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes `checkpoint`; an `OSError` is logged as a warning and stored in `failure`."""
        if "://" in str(path):  # object stores write whole objects, so a rename is not needed
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_and_sync(checkpoint, unfinished)
            if path.name == LAST and path.exists():
                _keep_as_previous(path)
            os.replace(unfinished, path)
            _sync_folder(path.parent)
        except OSError as failure:
            self.failure = failure
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            _log.warning("%s could not be written (%s). Training continues; the next save tries again.", path, failure)
        else:
            self.failure = None

    def _write_and_sync(self, checkpoint: dict[str, Any], path: Path) -> None:
        write_and_sync(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads a checkpoint, by default to the CPU and with `weights_only=True`."""
        checkpoint: dict[str, Any] = super().load_checkpoint(
            path, map_location or (lambda storage, _: storage), weights_only is not False
        )
        return checkpoint


def write_and_sync(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint and syncs it to disk.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("wb") as opened:
        file: Any = _ErrorRecordingFile(opened)
        try:
            torch.save(checkpoint, file)
        except Exception:  # PyTorch raises a RuntimeError that hides the OSError
            if file.failure is not None:
                raise file.failure from None
            raise
        opened.flush()
        os.fsync(opened.fileno())


class _ErrorRecordingFile:
    """A file that stores the `OSError` of a failed write, because `torch.save` replaces it by a `RuntimeError`."""

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


def _keep_as_previous(path: Path) -> None:
    """Hard-links a checkpoint to its `-previous` name, so that `path` exists at every moment."""
    previous = previous_of(path)
    link = path.with_name(previous.name + UNFINISHED)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def _sync_folder(folder: Path) -> None:
    """Syncs the entries of a folder to disk; file systems that do not support it are ignored."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
