"""The benchmark of the data layer's memory at a tiny size: both corpora are read, and the curves have all points."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.corpus import loading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")


def test_a_curve_for_files_and_for_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    options = ["--utterances=900", "--shards=30", "--of=30", "--workers=0", f"--json={file}"]
    figures = loading.main(options)
    assert json.loads(file.read_text()) == figures
    for name in ("files", "shards"):
        assert len(figures[name]["pss_mib"]) == loading.POINTS
        assert 800 < figures[name]["utterances"] < 900  # some are for validation
    assert "| shards | 8" in capsys.readouterr().out
