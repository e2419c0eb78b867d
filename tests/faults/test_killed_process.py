"""A run of two processes of which one is killed, by the command."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.runs import Run, furthest, losses, write_config
from tests.processes import forked


class Subprocess:
    """Forks process 0 of a run, which starts process 1 in a new interpreter."""

    STDOUT = forked.STDOUT

    @staticmethod
    def Popen(*arguments: Any, preexec_fn: Any, **options: Any) -> forked.Popen:
        return forked.Popen(*arguments, **options)  # with the signal handlers of a new interpreter


def test_a_killed_process_ends_the_run_which_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates that are repeated after the last checkpoint give the same losses."""
    monkeypatch.setattr("benchmarks.runs.subprocess", Subprocess)
    config, folder = write_config(tmp_path, num_workers=0), tmp_path / "run"
    options = (
        "--trainer.max_steps=60",
        # One checkpoint before the kill, at 30: while one is written, the table may not have its last row yet. Many
        # updates are left after it, so that a fast processor does not end the run before it is killed.
        "--checkpoint.every=100",
        "--trainer.val_check_interval=30",
        "--throughput.mfu=false",
    )
    with Run(folder, config, *options, processes=2) as run:
        while furthest(folder) < 32:
            assert run.process.poll() is None, run.output()
            time.sleep(0.02)
        victim = run.rank(1)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        assert run.ends() is not None, run.output()
        assert run.process.returncode == 1
        assert "Process 1 of the run died" in run.message()
        assert f"Resume with: w2vlab fit --config={config}" in run.message()
        assert run.message().endswith(" --ckpt_path=runs/log/version_0/checkpoints/last.ckpt")
    with Run(folder, config, *options, processes=2) as run:
        assert run.ends(600) is not None, run.output()
        assert run.process.returncode == 0, run.output()
    seen = losses(folder)
    assert {update for update, _ in seen} == set(range(60))
    assert len(seen) > 60  # some were computed twice
    assert len(set(seen)) == 60
