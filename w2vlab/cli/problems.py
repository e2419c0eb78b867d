"""How what a user can change is told: in a line, without a traceback unless it is asked for."""

from __future__ import annotations

import os
import sys

from w2vlab.cli.packages import load_error, load_failure, repair


def report_problem(problem: BaseException) -> int:
    """Writes what is wrong without a traceback, unless `W2VLAB_TRACEBACK=1` asks for it; returns the exit status."""
    if os.environ.get("W2VLAB_TRACEBACK") == "1":
        raise problem
    sys.stderr.write(f"error: {message_of(problem)}\n(W2VLAB_TRACEBACK=1 shows where)\n")
    return 1


def message_of(problem: BaseException) -> str:
    """Returns what is wrong: which package cannot be loaded, or what a constructor said of its options."""
    if failure := load_failure(problem):
        told = load_error(failure.package, failure.why)
        return f"{told} {repair(failure.package)} (`w2vlab doctor` looks at the rest)."
    problems = [problem]
    while str(problem).startswith("Does not validate") and problem.__cause__ is not None:
        problem = problem.__cause__  # out of jsonargparse's list of the types that it tried for the slot
        problems.append(problem)
    if "lightning.pytorch.cli" not in sys.modules:  # nothing was parsed that builds parts
        return str(problem)
    from w2vlab.cli.typed_names import typed_message

    return typed_message(problems)
