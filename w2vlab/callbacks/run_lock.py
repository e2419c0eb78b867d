"""Keeps a second process from continuing a run that still runs."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

_NAME = "run.lock"

_log = logging.getLogger(__name__)


class RunLock:
    """Holds the folder of a run as long as this process runs, or until it is released.

    The operating system releases it when a process dies. One that another machine holds on a shared disk is only warned
    of: not every file system notices when a machine is gone.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: int | None = None

    def take(self, folder: Path) -> None:
        """Takes the folder, unless this process has it.

        Raises:
            ValueError: Another process of this machine has it.
        """
        path = (folder / _NAME).absolute()
        if path == self._path:
            return
        self.release()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:
            return  # a disk that is full or read-only: others say so
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            process, _, host = os.pread(file, 200, 0).decode(errors="replace").partition(" on ")
            os.close(file)
            who = f"process {process or '?'} on {host or '?'} still writes to {folder}"
            if host != socket.gethostname():
                _log.warning("It seems that %s: what both write is lost.", who)
                return
            raise ValueError(
                f"`ckpt_path` must be a checkpoint of a run that has ended, but {who}. End it, or give this one a "
                "folder of its own with --new_run=true."
            ) from None
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
        """Lets other processes have the folder."""
        if self._path is not None and self._file is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._file)
        self._path = self._file = None
