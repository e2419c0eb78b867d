"""A run of two processes is measured by the first one, and the other waits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ddp.final_probe_worker import UPDATES, measured
from tests.ddp.processes import in_two_processes
from tests.evaluation.conftest import write_labelled


def test_the_first_process_measures_and_the_run_is_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_labelled(tmp_path, 8)
    first, second = in_two_processes(measured, tmp_path)
    assert 0 < first["accuracy"] <= 1
    assert second["accuracy"] is None
    for process in (first, second):
        with_probe, without = process["weights"]
        assert all(torch.equal(with_probe[name], without[name]) for name in without)
    assert (tmp_path / "final_probe.json").is_file()
    assert capfd.readouterr().out.count(f"update {UPDATES}") == 1
