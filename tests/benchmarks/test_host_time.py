"""The benchmark of the host's time at a tiny size: this checkout beside itself."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest

from benchmarks.host_time import __main__ as host_time
from benchmarks.host_time.picture import KINDS
from tests.processes import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


def test_two_checkouts_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.side_by_side.subprocess", forked)
    file, picture = tmp_path / "figures.json", tmp_path / "line.png"
    options = [f"--before={host_time.ROOT}", "--micro-batches", "2", "--utterances=300", "--rounds=2", "--warmup=1"]
    figures = host_time.main([*options, f"--json={file}", f"--picture={picture}"])
    assert json.loads(file.read_text()) == figures
    assert "| 2 | ratio | " in capsys.readouterr().out
    assert picture.stat().st_size > 5_000
    found = figures["2"]
    medians = {name: statistics.median(seconds) for name, seconds in found["seconds"].items()}
    assert found["ratio"] == pytest.approx(medians["now"] / medians["before"])
    for name, seconds in found["seconds"].items():
        spans = found["spans"][name]
        assert {kind for kind, _, _ in spans} == set(KINDS)
        assert sum(end - start for _, start, end in spans) == pytest.approx(seconds[-1], rel=0.05)
        assert all(end >= start for _, start, end in spans)
