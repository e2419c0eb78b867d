"""The lock of a folder that a command and its child processes write to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from w2vlab.utils.folder_lock import folder_lock

IN_USE = "`out` must not be in use, but process {process} writes to it."


def test_a_locked_folder_names_the_process_that_locked_it(tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path / "a", "lock", IN_USE),
        pytest.raises(ValueError, match=f"process {os.getpid()} writes to it"),
        folder_lock(tmp_path / "a", "lock", IN_USE),
    ):
        pass
    with folder_lock(tmp_path / "a", "lock", IN_USE):
        pass


def test_a_child_process_that_outlives_the_command_holds_the_lock(tmp_path: Path) -> None:
    with folder_lock(tmp_path, "lock", IN_USE) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )
    with pytest.raises(ValueError, match="must not be in use"), folder_lock(tmp_path, "lock", IN_USE):
        pass
    child.communicate()
    with folder_lock(tmp_path, "lock", IN_USE):
        pass
