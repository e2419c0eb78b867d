"""Threads for files that are waited for, and worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from w2vlab.utils.parallel import WorkerDiedError, WorkerProcesses, map_waiting


def square(number: int) -> int:
    print("a library prints")
    return number**2


def end(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


def fail(number: int) -> int:
    raise LookupError(f"no {number}")


def number_of_process(_: object) -> int:
    return os.getpid()


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def sleep_and_tell(seconds: float) -> int:
    time.sleep(seconds)
    return threading.get_ident()


def test_threads_are_used_only_if_most_of_the_time_is_spent_waiting() -> None:
    here = threading.get_ident()
    assert map_waiting(square, range(100)) == [number**2 for number in range(100)]
    assert set(map_waiting(lambda _: threading.get_ident(), range(100))) == {here}
    if sys.platform == "linux":
        found = map_waiting(sleep_and_tell, [0.001] * 64)
        assert found[0] == here
        assert here not in found[-32:]
    assert map_waiting(square, []) == []


def test_results_come_in_order_from_several_processes(capfd: pytest.CaptureFixture[str]) -> None:
    with WorkerProcesses(3) as workers:
        assert list(workers.map(partial(workers.apply, square), range(40))) == [n**2 for n in range(40)]
        processes = set(workers.map(partial(workers.apply, number_of_process), range(40)))
    assert os.getpid() not in processes
    assert 1 <= len(processes) <= 3
    assert "a library prints" in capfd.readouterr().err


def test_only_a_few_items_are_taken_in_advance() -> None:
    taken: list[int] = []
    with WorkerProcesses(2) as workers:
        results = workers.map(partial(workers.apply, square), (taken.append(n) or n for n in range(1000)))
        assert next(results) == 0
        assert len(taken) < 10


def test_a_process_that_ends_is_replaced_and_errors_are_those_of_the_function() -> None:
    with WorkerProcesses(1) as workers:
        for _ in range(2):
            with pytest.raises(WorkerDiedError, match=f"ended with status -{signal.SIGSEGV.value}"):
                workers.apply(end, 7)
            assert workers.apply(end, 8) == 8
        with pytest.raises(RuntimeError, match="LookupError: no 3"):
            workers.apply(fail, 3)
        assert workers.apply(square, 3) == 9


def test_an_interrupt_ends_the_processes_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    workers = WorkerProcesses(2)
    processes = [worker.process for worker in workers._all]

    def interrupted() -> None:
        with workers:
            # In the test's limit nobody waits for these.
            next(workers.map(partial(workers.apply, sleep), [0.0, *[10_000.0] * 9]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(process.poll() is not None for process in processes)
    assert not capfd.readouterr().err


def test_ctrl_c_does_not_reach_a_worker() -> None:
    with WorkerProcesses(1) as workers:
        pid = workers.apply(number_of_process, None)
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        assert workers.apply(number_of_process, None) == pid


def test_workers_end_with_a_process_that_is_killed() -> None:
    script = (
        "import os\n"
        "from tests.utils.test_parallel import WorkerProcesses, number_of_process\n"
        "print(WorkerProcesses(1).apply(number_of_process, None), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    # No guard of the main module is needed: the script is not run again in the worker.
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    worker = int(done.stdout)
    while True:  # the limit of the test ends it otherwise
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{worker}/stat").is_file() and Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            break  # it has ended; nobody has waited for it
        time.sleep(0.01)
