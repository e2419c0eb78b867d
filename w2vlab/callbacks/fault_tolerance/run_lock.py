"""Lock of a run folder, so that a run cannot be resumed while it is still running."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

LOCK_NAME = "run.lock"
"""File that is locked, in the folder."""

_log = logging.getLogger(__name__)


class RunLock:
    """Locks the folder of a run until this process ends or releases it.

    The operating system releases the lock when a process dies. If another machine holds the lock on a shared disk, a
    warning is logged instead of an error, because some file systems do not release locks when a machine fails.

    Args:
        rule: What the folder must be, for errors.
        advice: What to do otherwise.
    """

    def __init__(
        self,
        rule: str = "`ckpt_path` must be a checkpoint of a run that has ended",
        advice: str = "End that process, or resume in a new folder with --new_run=true.",
    ) -> None:
        self._rule, self._advice = rule, advice
        self._path: Path | None = None
        self._file: int | None = None

    def acquire(self, folder: Path) -> None:
        """Locks the folder, unless this process has locked it already.

        Raises:
            ValueError: Another process on this machine has locked it.
        """
        path = (folder / LOCK_NAME).absolute()
        if path == self._path:
            return
        self.release()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return  # the disk is full or read-only, which later writes report
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            process, _, host = os.pread(file, 200, 0).decode(errors="replace").partition(" on ")
            os.close(file)
            owner = f"process {process or '?'} on {host or '?'} still writes to {folder}"
            if host != socket.gethostname():
                _log.warning("It seems that %s; files that both write will be corrupted.", owner)
                return
            raise ValueError(f"{self._rule}, but {owner}. {self._advice}") from None
        except OSError:  # a file system without locks
            os.close(file)
            with suppress(OSError):
                path.unlink()
            return
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()} on {socket.gethostname()}".encode(), 0)
        self._path, self._file = path, file

    def release(self) -> None:
        """Unlocks the folder."""
        if self._path is not None and self._file is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._file)
        self._path = self._file = None
