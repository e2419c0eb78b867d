"""Runs a test in a separate process, because it may crash the process."""

from __future__ import annotations

import base64
import functools
import importlib
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from tests.processes import forked

MAIN = "import sys; from tests.processes.isolated import call; call(*sys.argv[1:])"


def in_a_process_of_its_own(test: Callable[..., None]) -> Callable[..., None]:
    """Decorates a test function of a module, so that an abort, such as one of a compiler, fails one test only.

    The values of fixtures are passed to the process; their side effects on the test process are not.
    """

    @functools.wraps(test)
    def start(**fixtures: Any) -> None:
        content = base64.b64encode(pickle.dumps(fixtures)).decode()
        done = forked.run(
            [sys.executable, "-c", MAIN, test.__module__, test.__qualname__, content],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=forked.PIPE,
            stderr=forked.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert done.returncode == 0, f"{test.__qualname__} ended with status {done.returncode}:\n{done.stdout}"

    return start


def call(module: str, name: str, fixtures: str) -> None:
    """Runs in the separate process."""
    getattr(importlib.import_module(module), name).__wrapped__(**pickle.loads(base64.b64decode(fixtures)))
