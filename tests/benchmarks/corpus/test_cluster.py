"""The benchmark of k-means at a tiny size: all competitors see the same frames, and its table is consistent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.corpus import cluster
from tests.processes import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")


def test_frames_of_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, because libraries would be imported anew in each."""
    monkeypatch.setattr(
        cluster, "in_a_process", lambda words, threads: cluster.measure(words[-1].removeprefix("--serve="), 3200, 5)
    )
    file = tmp_path / "figures.json"
    figures = cluster.main(["--frames=3200", "--k=5", "--all", f"--json={file}"])
    assert json.loads(file.read_text()) == figures
    for name in (cluster.OURS, cluster.MINI, cluster.FAIRSEQ, cluster.STREAM, cluster.LLOYD):
        found = figures[name]
        assert found["seconds"] > 0
        # All frames fit into the sample, so that ours is Lloyd's of all frames.
        assert figures[cluster.LLOYD]["inertia"] * 0.98 < found["inertia"] < 1.2 * figures[cluster.OURS]["inertia"]
    assert f"| {cluster.FAIRSEQ} |" in capsys.readouterr().out


def test_the_inertia_is_that_of_all_frames() -> None:
    stream = cluster.Stream(1700)
    frames = stream.collected()
    assert frames.shape == (1700, cluster.DIM)
    centers = frames[:5].copy()
    expected = np.square(frames[:, None] - centers[None]).sum(axis=2).min(axis=1).mean()
    assert cluster.inertia(stream, centers) == pytest.approx(float(expected), rel=1e-4)


def test_from_audio_to_centers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.corpus.cluster.subprocess", forked)
    monkeypatch.setenv("W2VLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus").mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / "corpus" / f"{number}.wav", 0.1 * random.standard_normal(16_000), 16_000)
    figures = cluster.main([f"--corpus={tmp_path / 'corpus'}", "--k=4"])
    assert set(figures[cluster.OURS]) == {"seconds", "processor_seconds", "mib"}
    assert figures[cluster.FAIRSEQ]["seconds"] > 0
