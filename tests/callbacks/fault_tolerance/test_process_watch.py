"""Ending a process when another one has died."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from w2vlab.callbacks import ProcessWatch
from w2vlab.callbacks.fault_tolerance import process_watch
from w2vlab.callbacks.fault_tolerance.process_links import DIED, DONE, FAILED


class Links(list):
    """Keeps the announced statuses."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    announce = list.append

    def close(self) -> None:
        self.append("closed")


class Exit(BaseException):
    """Raised instead of ending the test process."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> ProcessWatch:
    """The callback on process 1 of 3."""

    def leave(status: int) -> None:
        process_watch._end_started.release()
        raise Exit(status)

    monkeypatch.setattr(process_watch, "ProcessLinks", Links)
    monkeypatch.setattr(process_watch, "GRACE", 0.01)
    monkeypatch.setattr(process_watch, "_STATUS_TIMEOUT", 0.01)
    monkeypatch.setattr(os, "_exit", leave)
    strategy = SimpleNamespace(cluster_environment=SimpleNamespace(main_address="here"), broadcast=None)
    started = ProcessWatch(lambda: "Resume with: w2vlab fit")
    started.setup(SimpleNamespace(world_size=3, global_rank=1, strategy=strategy), None, "fit")
    return started


@pytest.mark.parametrize(("process", "prints"), [(0, True), (2, False)])
def test_a_death_ends_the_other_processes(watch: ProcessWatch, capfd: Any, process: int, prints: bool) -> None:
    """Process 0 prints the error for all, if it is alive."""
    with pytest.raises(Exit, match="1"):
        watch._on_status(process, DIED)
    error = capfd.readouterr().err
    assert (f"error: Process {process} of the run died" in error) is prints
    assert ("Resume with: w2vlab fit\n" in error) is prints


def test_an_error_of_another_process_ends_this_one_after_a_while(watch: ProcessWatch, capfd: Any) -> None:
    with pytest.raises(Exit, match="1"):
        watch._on_status(0, FAILED)
    assert "error: Process 0 of the run ended with an error" in capfd.readouterr().err


def test_an_error_on_both_processes_is_raised_by_both(watch: ProcessWatch) -> None:
    watch.on_exception(None, None, ValueError("wrong"))
    assert watch._links == [FAILED]
    watch._on_status(0, FAILED)


def test_a_broken_collective_is_reported_as_a_death(watch: ProcessWatch, capfd: Any, monkeypatch: Any) -> None:
    with pytest.raises(Exit):
        watch._on_status(0, DIED)
    capfd.readouterr()
    with pytest.raises(Exit):
        watch.on_exception(None, None, RuntimeError("Connection closed by peer"))
    assert "error: Process 0 of the run died" in capfd.readouterr().err
    assert watch._links == []


def test_an_error_is_announced_to_the_other_processes(watch: ProcessWatch) -> None:
    watch.on_exception(None, None, RuntimeError("no memory"))
    assert watch._links == [FAILED]


def test_a_process_killed_while_all_end_is_not_waited_for(watch: ProcessWatch) -> None:
    watch.on_exception(None, None, KeyboardInterrupt())
    with pytest.raises(Exit):
        watch._on_status(2, DIED)


def test_after_teardown_a_status_has_no_effect(watch: ProcessWatch) -> None:
    links = watch._links
    watch._on_status(0, DONE)
    watch.teardown(None, None, "fit")
    assert links == [DONE, "closed"]
    for status in (DIED, FAILED):
        watch._on_status(0, status)
    watch.on_exception(None, None, RuntimeError())


def test_a_single_process_is_not_watched() -> None:
    watch = ProcessWatch()
    watch.setup(SimpleNamespace(world_size=1), None, "fit")
    watch.on_exception(None, None, RuntimeError())
    watch.teardown(None, None, "fit")
