"""The benchmark of the scan at a tiny size: its corpus has all files, and its table is consistent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.corpus import scan
from tests.processes import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes from /proc")


def test_two_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scan, "subprocess", forked)
    before = Path(__file__).parents[3]
    figures = scan.main(["--files=30", "--rounds=1", f"--before={before}", f"--folder={tmp_path}"])
    assert list(tmp_path.iterdir()) == []
    assert figures["equal_manifests"]
    for turn in scan.TURNS:
        medians = figures["medians"][turn]
        assert {medians[name]["utterances"] for name in ("w2vlab", "before")} == {30}
        ratio = medians["before"]["seconds"] / medians["w2vlab"]["seconds"]
        assert figures["ratios"][turn]["seconds"] == pytest.approx(ratio)
    assert "| unchanged, before |" in capsys.readouterr().out
