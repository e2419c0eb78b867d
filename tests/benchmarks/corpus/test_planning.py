"""The benchmark of the plan of an epoch at a tiny size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.corpus import planning

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process")


def test_the_plan_beside_the_sampler_of_lhotse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, because libraries would be imported anew in each."""
    monkeypatch.setattr(planning, "in_a_process", planning.measure)
    file = tmp_path / "figures.json"
    figures = planning.main(["--utterances", "3000", "--shards=40", f"--json={file}"])
    assert json.loads(file.read_text()) == figures
    for case in (planning.OURS, planning.OF_SHARDS, planning.PEER):
        assert f"| {case} | 3,000 |" in capsys.readouterr().out or figures[f"{case}, 3000"]["middle"] > 0
    whole, half = figures[f"{planning.OURS}, 3000"]["batches"], figures[f"{planning.PEER}, 3000"]["batches"]
    assert 0.3 * whole < half < 0.8 * whole
