"""A test process that dies fails one test, and never blocks the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import conftest, scheduling

ROOT = Path(__file__).parents[2]
DIES, PASSES = "os.abort()", "pass"

FILES = {
    # Finished before the death, by any process: pytest-xdist passes these on, and waits for them.
    "test_a": [PASSES],
    "test_b": [PASSES, PASSES],
    "test_c": [PASSES, DIES, PASSES, PASSES],
    "test_d": [DIES],
    "test_e": [DIES, PASSES],
    "test_f": [PASSES, PASSES, DIES],
}


def run_tests(folder: Path, processes: int) -> tuple[int, dict[str, list[str]]]:
    """Runs the files with the options of this suite; returns the exit status, and the outcome of each test."""
    (folder / "conftest.py").write_text("from tests.scheduling import *\n")
    for name, bodies in FILES.items():
        tests = "".join(f"def test_{number}():\n    {body}\n" for number, body in enumerate(bodies))
        (folder / f"{name}.py").write_text(f"import os\n{tests}")
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    command = [sys.executable, "-m", "pytest", "--rootdir=.", f"--override-ini=addopts={options}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    done = subprocess.run(
        [*command, f"--numprocesses={processes}", "-v", "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    results: dict[str, list[str]] = {}
    for result, name in re.findall(r"^\[gw\d+\].* (PASSED|FAILED) (\S+)", done.stdout, re.MULTILINE):
        results.setdefault(name, []).append(result)
    return done.returncode, results


@pytest.mark.parametrize("processes", [1, 2])
def test_every_other_test_runs_once_and_the_killing_one_fails(processes: int, tmp_path: Path) -> None:
    status, results = run_tests(tmp_path, processes)
    expected = {
        f"{name}.py::test_{number}": ["PASSED" if body is PASSES else "FAILED"]
        for name, bodies in FILES.items()
        for number, body in enumerate(bodies)
    }
    assert results == expected
    assert status == pytest.ExitCode.TESTS_FAILED


def test_this_suite_uses_the_same_options() -> None:
    assert conftest.pytest_xdist_make_scheduler is scheduling.pytest_xdist_make_scheduler
    assert all((ROOT / file).is_file() for file in scheduling.LONGEST)
