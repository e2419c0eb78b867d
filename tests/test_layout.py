"""The layout of the repository: files in a folder, lines in a file, and tests that mirror the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILES = 14
MAX_LINES = 300
LEFT_OUT = {"__pycache__", "_build", "jupyter_execute"}

OF_THE_WHOLE = {"benchmarks", "configs", "docs", "examples", "notebooks", "scripts"}
"""Folders with tests of files outside the package."""

ACROSS_PACKAGES = {
    "contracts",  # what every part of every family promises
    "ddp",  # two processes against one
    "faults",  # killed processes, full disks and broken files, in whole runs
    "golden",  # fairseq's numbers
    "plugin",  # a part of another distribution
    "processes",  # how tests start processes
    "suite",  # how tests are scheduled
}


def folders(top: str) -> Iterator[tuple[str, list[str]]]:
    """Yields every folder with its files."""
    for folder, inner, files in os.walk(ROOT / top):
        inner[:] = [name for name in inner if name not in LEFT_OUT and not name.endswith(".egg-info")]
        yield Path(folder).relative_to(ROOT).as_posix(), [name for name in files if not name.startswith(".")]


@pytest.mark.parametrize("top", ["w2vlab", "tests", "benchmarks", "docs", "examples", "notebooks", "scripts"])
def test_no_folder_has_too_many_files(top: str) -> None:
    assert {folder: len(files) for folder, files in folders(top) if len(files) > MAX_FILES} == {}


def test_no_file_of_the_package_is_too_long() -> None:
    lines = {
        f"{folder}/{name}": len((ROOT / folder / name).read_text(encoding="utf-8").splitlines())
        for folder, files in folders("w2vlab")
        for name in files
        if name.endswith(".py")
    }
    assert {name: number for name, number in lines.items() if number > MAX_LINES} == {}


def test_every_folder_of_the_package_is_a_package() -> None:
    missing = [folder for folder, files in folders("w2vlab") if "__init__.py" not in files and any(files)]
    assert missing == []


def test_tests_mirror_the_package() -> None:
    places = {
        folder.partition("/")[2]
        for folder, files in folders("tests")
        if any(name.startswith("test_") and name.endswith(".py") for name in files)
    }
    others = {place for place in places if place.partition("/")[0] not in OF_THE_WHOLE | ACROSS_PACKAGES}
    packages = {place: ROOT / "w2vlab" / place.removeprefix("parts/") for place in others}
    assert sorted(place for place, package in packages.items() if not (package / "__init__.py").is_file()) == []
    found = {place.partition("/")[0] for place in places}
    assert (OF_THE_WHOLE | ACROSS_PACKAGES) - found == set()
