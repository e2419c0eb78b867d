"""A test in a separate process fails if that process fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.processes.isolated import in_a_process_of_its_own


@in_a_process_of_its_own
def leaves_a_note(tmp_path: Path) -> None:
    (tmp_path / "note").write_text(str(os.getpid()))


@in_a_process_of_its_own
def aborts() -> None:
    os.abort()


@in_a_process_of_its_own
def asserts() -> None:
    assert os.getpid() == 0, "this is not the first process"


def test_it_runs_in_another_process_with_its_fixtures(tmp_path: Path) -> None:
    leaves_a_note(tmp_path=tmp_path)
    assert int((tmp_path / "note").read_text()) != os.getpid()


def test_an_abort_is_a_named_failure() -> None:
    with pytest.raises(AssertionError, match=r"^aborts ended with status -6:"):
        aborts()


def test_its_assertion_is_shown() -> None:
    with pytest.raises(
        AssertionError, match=r"asserts ended with status 1:\n(.*\n)*AssertionError: this is not the first"
    ):
        asserts()
