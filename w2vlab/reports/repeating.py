"""The command that repeats a run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from w2vlab.files import RUN_RECORD
from w2vlab.options import without_checkpoint


def command_of(folder: Path) -> str:
    """Returns lines for a shell that repeat a run from its beginning, in the folder where it was started.

    They are what the folder says: whoever made it has chosen the options, which may name any code. Read them before
    they are run.

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
        words = without_checkpoint(_checked(last["command"], last["folder"]))
        line = f"cd {shlex.quote(last['folder'])} && {shlex.join(words)}"
        git, versions = last.get("git"), last.get("versions") or {}
    except (OSError, ValueError, LookupError, TypeError) as problem:
        raise ValueError(f"{path} is damaged ({type(problem).__name__}: {problem}).") from None
    code = "the code was in no git repository"
    if git:
        code = f"git commit {git['commit']}" + (", with changes that are not in it" if git["changed"] else "")
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return "\n".join([_comment(code), _comment(known), line, ""])


def _comment(text: str) -> str:
    return "# " + "".join(letter if letter.isprintable() else " " for letter in text)


def _checked(words: list[Any], folder: Any) -> list[str]:
    """Returns the words of a command that is one of w2vlab and shows what it is."""
    if words[0] != "w2vlab" or not all(isinstance(text, str) and text.isprintable() for text in (*words, folder)):
        raise ValueError(f"the command must be one of w2vlab in printable characters, but is {[*words]!r}")
    return words
