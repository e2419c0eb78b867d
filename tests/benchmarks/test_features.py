"""The benchmark of features at a tiny size: both compute the same, and its ratios are consistent."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import features
from tests.processes import forked

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc"),
    pytest.mark.filterwarnings("ignore::w2vlab.utils.messages.W2VLabWarning"),
]


@pytest.fixture(autouse=True)
def _forked_competitors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.side_by_side.subprocess", forked)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number, seconds in enumerate((1.0, 1.5, 0.8, 1.2)):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * random.standard_normal(int(16_000 * seconds)), 16_000)
    return tmp_path


def test_features_compared_with_transformers(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="the peer is not a dependency")
    file = tmp_path / "figures.json"
    options = ["--model=tiny", f"--corpus={corpus}", "--minutes=0.07", "--rounds=2", "--threads=1", f"--json={file}"]
    figures = features.main(options)
    assert json.loads(file.read_text()) == figures
    assert figures["largest_deviation"] < 1e-5
    seconds = figures["seconds"]
    assert {name: len(turns) for name, turns in seconds.items()} == dict.fromkeys(
        (features.OURS, features.PEER, features.PADDED), 2
    )
    best = min(sum(seconds[name]) for name in (features.PEER, features.PADDED))
    assert figures["speed_ratio"] == pytest.approx(best / sum(seconds[features.OURS]))
    assert "times as fast" in capsys.readouterr().out


def test_codes_of_a_long_file(corpus: Path) -> None:
    figures = features.main(["--codes", "--model=tiny", f"--corpus={corpus}", "--minutes=0.07", "--threads=1"])
    assert list(figures["mib_of_codes"]) == ["0.007", "0.07"]


def test_files_and_their_parts(corpus: Path) -> None:
    waveforms = features.read_speech(str(corpus), 3 / 60)
    assert [waveform.shape for waveform in waveforms] == [(1, 16_000), (1, 24_000)]
    with pytest.raises(ValueError, match="`minutes` must be at most the length of"):
        features.read_speech(str(corpus), 1)
    files = [torch.ones(1, length) for length in (3, 1, 2, 2)]
    assert [[part.shape[1] for part in parts] for parts in features.parts_of(files, 2)] == [[3, 1], [2, 2]]
    batch, mask = next(features.padded_batches(files))
    assert batch.sum() == mask.sum() == 8
    assert batch.shape == mask.shape == (4, 3)
