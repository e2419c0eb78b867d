"""The benchmark of fused micro-batches at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.host_time import fused


def test_each_number_of_micro_batches_at_once_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--micro-batches=2", "--layers=1", "--rounds=1", f"--json={tmp_path / 'times.json'}"]
    medians = fused.main(words)
    assert list(medians) == ["1", "2"]
    assert min(medians.values()) > 0
    assert "  2 at once:" in capsys.readouterr().out
    assert json.loads((tmp_path / "times.json").read_text())["milliseconds"]["2"] == [medians["2"]]
