"""The locked versions are whole, exact, and inside the ranges that pyproject.toml says were tested."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
LINES = [line for line in LOCK.splitlines() if line and not line.startswith((" ", "#"))]
LOCKED = [Requirement(line) for line in LINES]
ASKED = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
PYTHONS = ("3.11", "3.12", "3.13")


def environment(python: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
        "extra": "",
    }


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment(python))


def versions(python: str) -> dict[str, Version]:
    chosen: dict[str, Version] = {}
    for requirement in LOCKED:
        if applies(requirement, python):
            name = canonicalize_name(requirement.name)
            assert name not in chosen, f"{name} is locked twice for Python {python}"
            (pin,) = requirement.specifier
            chosen[name] = Version(pin.version)
    return chosen


def test_every_version_is_exact_and_no_index_is_named() -> None:
    assert len(LOCKED) > 100
    assert [line for line in LINES if not re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line)] == []
    assert "://" not in LOCK


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_asked_for_is_locked_within_its_range(python: str) -> None:
    chosen = versions(python)
    checked = 0
    for requirement in map(Requirement, ASKED):
        if requirement.name == "w2vlab" or not applies(requirement, python):
            continue
        assert chosen[canonicalize_name(requirement.name)] in requirement.specifier, requirement
        checked += 1
    assert checked >= len(PROJECT["dependencies"])


def test_every_range_ends() -> None:
    # A range without an upper bound would claim tests with unreleased versions. furo counts by the calendar.
    open_ended = [
        text
        for text in ASKED
        if not text.startswith(("w2vlab[", "furo")) and not re.search(r"<\d|==", text.partition(";")[0])
    ]
    assert open_ended == []


def test_the_set_up_commands_install_by_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\n(.*?)\n```", readme, re.DOTALL)
    assert len(commands) == 2
    assert all("pip install -c requirements.lock -e " in command for command in commands)
