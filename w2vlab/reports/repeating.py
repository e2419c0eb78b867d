"""The command that repeats a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from w2vlab.files import RUN_RECORD
from w2vlab.options import without_checkpoint


def command_of(folder: Path) -> str:
    """Returns lines for a shell that repeat a run from its beginning, in the folder where it was started.

    Of a run that went on from a checkpoint it is the last of its commands: options never come from a checkpoint.

    Args:
        folder: The run's.

    Raises:
        ValueError: What the run says of itself is damaged.
    """
    path = folder / RUN_RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        last = content["continued"][-1] if content["continued"] else content
        words = without_checkpoint(last["command"])
        line = f"cd {shlex.quote(last['folder'])} && {shlex.join(words)}"
        git, versions = last.get("git"), last.get("versions") or {}
    except (OSError, ValueError, LookupError, TypeError) as problem:
        raise ValueError(f"{path} is damaged ({type(problem).__name__}: {problem}).") from None
    code = "the code was in no git repository"
    if git:
        code = f"git commit {git['commit']}" + (", with changes that are not in it" if git["changed"] else "")
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return "\n".join([f"# {code}".replace("\n", " "), f"# {known}".replace("\n", " "), line, ""])
