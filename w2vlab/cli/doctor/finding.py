"""The result of a check, as a line of text and as JSON."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import w2vlab

State = Literal["ok", "note", "problem"]

_COLOURS: dict[State, str] = {"ok": "32", "note": "33", "problem": "1;31"}


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: What was checked.
        state: `ok`; `note`, which limits or slows something; or `problem`, which is broken.
        text: What was found.
        advice: The remedy; empty if none is needed.
        blocks: Whether no run can start with it.
    """

    name: str
    state: State
    text: str
    advice: str = ""
    blocks: bool = False


def ok(name: str, text: str) -> Finding:
    """Returns a finding with which nothing is wrong."""
    return Finding(name, "ok", text)


def note(name: str, text: str, advice: str) -> Finding:
    """Returns a finding that limits something."""
    return Finding(name, "note", text, advice)


def problem(name: str, text: str, advice: str, blocks: bool = False) -> Finding:
    """Returns a finding of something that is broken."""
    return Finding(name, "problem", text, advice, blocks)


def without_names(findings: Iterable[Finding]) -> list[Finding]:
    """Returns findings fit for strangers: the home folder as `~`, and names of the user and the host left out."""
    secrets = _personal_names()
    return [
        replace(found, text=_impersonal(found.text, secrets), advice=_impersonal(found.advice, secrets))
        for found in findings
    ]


def as_lines(findings: Sequence[Finding], coloured: bool) -> str:
    """Returns a line for each finding, its advice below it, and whether a run can start."""
    width = max(len(found.name) for found in findings)
    lines = []
    for found in findings:
        mark = f"{found.state:<8}"
        if coloured:
            mark = f"\x1b[{_COLOURS[found.state]}m{mark}\x1b[0m"
        lines.append(f"{mark} {found.name:<{width}}  {found.text}")
        if found.advice:
            lines.append(f"{'':8} {'':{width}}  {found.advice}")
    blocking = [found.name for found in findings if found.blocks]
    lines.append(f"\nA run cannot start: {', '.join(blocking)}." if blocking else "\nA run can start.")
    return "\n".join(lines) + "\n"


def as_json(findings: Sequence[Finding]) -> str:
    """Returns all findings as JSON."""
    content = {
        "w2vlab": w2vlab.__version__,
        "can_start": not any(found.blocks for found in findings),
        "findings": [asdict(found) for found in findings],
    }
    return json.dumps(content, indent=1) + "\n"


def _personal_names() -> list[str]:
    found = []
    with suppress(OSError, KeyError):  # a user without a name, as in some containers
        found.append(getpass.getuser())
    found += [socket.gethostname(), socket.gethostname().partition(".")[0]]
    return [name for name in found if name]


def _impersonal(text: str, secrets: Sequence[str]) -> str:
    homes = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}
    for home in homes:
        if home not in ("", "~", os.sep):
            text = re.sub(rf"{re.escape(home)}(?=[/\s:;,.)]|$)", "~", text)
    for name in secrets:
        text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", "…", text)
    return text


def short(folder: Path) -> str:
    """Returns a path as people read it."""
    with suppress(ValueError):
        return str(Path("~") / folder.relative_to(Path.home()))
    return str(folder)
