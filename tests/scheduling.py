"""Which process runs which tests: whole files, the longest first, and what a process that dies has left."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling
from xdist.scheduler.protocol import Scheduling
from xdist.workermanage import WorkerController

LONGEST = (
    "tests/notebooks/test_notebooks.py",
    "tests/callbacks/test_compile.py",
    "tests/callbacks/test_throughput.py",
    "tests/ddp/test_compiled.py",
    "tests/docs/test_docs.py",
    "tests/contracts/test_compile.py",
    "tests/explain/test_explain.py",
    "tests/cli/test_fit.py",
    "tests/cli/test_sweep.py",
    "tests/cli/lightning/test_compile.py",
    "tests/callbacks/diagnosis/test_codebook_health.py",
    "tests/faults/test_killed_process.py",
    "tests/cli/resuming/test_resume_processes.py",
    "tests/cli/test_finetuning.py",
    "tests/suite/test_scheduling.py",
    "tests/configs/test_configs.py",
    "tests/benchmarks/test_gpu_check.py",
    "tests/benchmarks/test_gpu_step.py",
    "tests/benchmarks/test_side_by_side.py",
    "tests/cli/test_evaluate.py",
    "tests/evaluation/test_evaluate.py",
)
"""Files that take longest, by `pytest --durations=0`: started last, one of them would leave a core idle."""


class WholeFiles(LoadFileScheduling):
    """Hands out files, and survives the death of a process that runs tests.

    That of pytest-xdist 3.8 restarts the file with the test that crashed a process, which then crashes the next one,
    too. It also hands out completed files, and the process that receives one waits for its tests for ever.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Takes a process off the list; returns the test that it was running if it died, which is not run again."""
        files = self.assigned_work.pop(node)
        pending = [(file, test) for file, tests in files.items() for test, done in tests.items() if not done]
        if not pending:
            return None
        file, killer = pending[0]
        files[file][killer] = True
        left = {file: tests for file, tests in files.items() if not all(tests.values())}
        self.workqueue.update(left)
        for file in reversed(left):
            self.workqueue.move_to_end(file, last=False)
        for other in self.nodes:
            self._reschedule(other)
        return killer

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Notes which tests a process has found; one in a dead one's place that has found others is of no use."""
        super().add_node_collection(node, collection)
        if node not in self.registered_collections:
            node.shutdown()

    def _reschedule(self, node: WorkerController) -> None:
        """Hands out files until a process has three tests: it begins one only when it knows the next."""
        if node not in self.registered_collections:  # it is still looking for tests
            return
        super()._reschedule(node)
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:
            super()._reschedule(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Puts `WholeFiles` in the place of `--dist=loadfile`."""
    return WholeFiles(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Brings the longest files to the front where several processes take them from there."""
    if hasattr(config, "workerinput"):
        ranks = {file: rank for rank, file in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))
