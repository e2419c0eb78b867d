"""The benchmark of `w2vlab encode` at a tiny size: both compute the same, and its ratios are consistent."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.corpus import encode
from tests.processes import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux counts it")


def test_encode_compared_with_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="the peer is not a dependency")
    monkeypatch.setattr(encode, "subprocess", forked)
    random = np.random.default_rng(0)
    for number, seconds in enumerate((1.0, 1.5, 0.8)):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * random.standard_normal(int(16_000 * seconds)), 16_000)
    options = ["--model=tiny", f"--corpus={tmp_path}", "--minutes=0.03", "--rounds=1", "--threads=1", "--layer=1"]
    figures = encode.main([*options, "--workers=0", f"--cache={tmp_path / 'cache'}"])
    assert figures["minutes"] == pytest.approx(2.5 / 60)  # until they are long enough
    assert figures["largest_deviation"] < 1e-5
    seconds = figures["seconds"]
    assert figures["equal_codes"] == 1
    (loop,) = seconds[encode.LOOP]
    assert figures["speed_ratio"][encode.LAST] == pytest.approx(loop / seconds[encode.LAST][0])
    (loop,) = seconds[encode.LOOP_OF_CODES]
    assert figures["speed_ratio"][encode.CODES] == pytest.approx(loop / seconds[encode.CODES][0])
    assert "| codes |" in capsys.readouterr().out


def test_memory_over_many_utterances(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="the peer is not a dependency")
    monkeypatch.setattr(encode, "peak_mib", lambda command: forked.run([sys.executable, *command], check=True) and 1.0)
    figures = encode.main(["--memory", "--utterances", "3", "5"])
    assert figures["peak_mib"] == {
        "3": {"scanned": 1.0, "scanned_before": 1.0},
        "5": {"scanned": 1.0, "scanned_before": 1.0},
    }
