"""Audio files that are damaged while two processes train on them."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.data.conftest import write_ramp
from tests.ddp.processes import in_two_processes
from tests.faults.worker import UPDATES, train


def test_an_unreadable_utterance_on_one_process_is_skipped(tmp_path: Path) -> None:
    """Each utterance occurs once an epoch, so that only one process reads it."""
    for number in range(40):
        write_ramp(tmp_path / "corpus" / f"speaker{number % 2}" / f"u{number:02}.wav", 0.2 + number / 100)
    ranks = in_two_processes(train, tmp_path)
    used = {name for process in ranks for name in process["ids"]}
    assert len(used) > 20
    assert {"speaker1/u33.wav", "speaker0/u04.wav"} & used == set()
    assert "speaker1/u35.wav" in used
    first, second = ranks
    assert first["updates"] == second["updates"] == UPDATES
    assert first["skipped"] == second["skipped"] == 0
    assert first["ids"] != second["ids"]
    for name, value in first["parameters"].items():
        assert value.isfinite().all()
        assert torch.equal(value, second["parameters"][name])
