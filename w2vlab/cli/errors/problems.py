"""How messages and errors that a user can act on are shown: in a line, with a traceback only on request."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from w2vlab.cli.errors.packages import load_error, load_failure, repair


def user_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """Returns the exceptions that constructors, options and data raise if the user can change something, and `others`.

    It is a function, because some of them come with Lightning and PyTorch, which take seconds to import.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from w2vlab.types import RunError

    return ValueError, RuntimeError, FileNotFoundError, MisconfigurationException, RunError, *others


@contextmanager
def messages_shown(level: int = logging.INFO) -> Iterator[None]:
    """Shows messages of the package's loggers from `level` on, on the standard error stream, within this context."""
    messages, handler = logging.getLogger("w2vlab"), logging.StreamHandler()
    messages.setLevel(logging.INFO)
    handler.setLevel(level)
    messages.addHandler(handler)
    try:
        yield
    finally:
        messages.removeHandler(handler)


def report_problem(problem: BaseException) -> int:
    """Writes an error without a traceback, unless `W2VLAB_TRACEBACK=1` asks for it; returns the exit status."""
    if os.environ.get("W2VLAB_TRACEBACK") == "1":
        raise problem
    sys.stderr.write(f"error: {message_of(problem)}\n(W2VLAB_TRACEBACK=1 shows where)\n")
    return 1


def message_of(problem: BaseException) -> str:
    """Returns the message of an error: a package that cannot be loaded, or that of a constructor about its options."""
    if failure := load_failure(problem):
        message = load_error(failure.package, failure.why)
        return f"{message} {repair(failure.package)} (`w2vlab doctor` checks the rest)."
    problems = [problem]
    while str(problem).startswith("Does not validate") and problem.__cause__ is not None:
        problem = problem.__cause__  # out of jsonargparse's list of the types that it tried for the slot
        problems.append(problem)
    if "lightning.pytorch.cli" not in sys.modules:  # nothing was parsed that builds parts
        return str(problem)
    from w2vlab.cli.errors.typed_names import typed_message

    return typed_message(problems)
