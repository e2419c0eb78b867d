"""The benchmark of reading audio at a tiny size: all read the same crops, and its ratios are consistent."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.data import files, measure, readers
from tests.data.sounds import speech_like


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", speech_like(2.0 + number / 2, 16_000), 16_000)
    return folder


SMALL = ["--files=4", "--shortest=0.6", "--longest=2", "--crop=1", "--batch=2", "--rounds=2"]


def test_readers_of_every_format(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    figures = measure.main([f"--corpus={corpus}", *SMALL, "--formats=wav,flac,opus,mp3", f"--json={file}"])
    assert json.loads(file.read_text()) == figures
    assert list(figures["reading"]) == ["wav", "flac", "opus", "mp3"]
    for kind, found in figures["reading"].items():
        ours, plain = found[measure.OURS], found[measure.PLAIN]
        assert ours["comparison"] == {"crops": 4, "wrong": 0, "largest": pytest.approx(0, abs=2e-6)}
        # The plain reader is right where libsndfile seeks exactly.
        assert plain["comparison"]["wrong"] == 0 or kind in ("opus", "mp3")
        both = (value["seconds"]["processor"] for value in (plain, ours))
        ratios = [theirs / own for theirs, own in zip(*both, strict=True)]
        assert plain["ours_is_times_as_fast"]["processor"] == pytest.approx(statistics.median(ratios))
    assert "| opus | plain |" in capsys.readouterr().out


def test_resamplers(corpus: Path) -> None:
    figures = measure.main(["--resampling", f"--corpus={corpus}", "--rates=44100", "--crop=1", "--rounds=1"])
    found = figures["resampling"]["44100"]
    assert found["w2vlab"]["deviation"] < 2e-6
    for value in found.values():
        assert 0 < value["ripple"] < 1
        assert value["alias"] < -40


def test_shar_is_read_like_lhotse_reads_it(corpus: Path, tmp_path: Path) -> None:
    utterances = list(files.read_utterances(str(corpus), 3, 0.6, 2.0))
    files.write_shar(files.write_files(utterances, "flac", tmp_path / "flac"), tmp_path / "shar")
    plan = readers.make_plan(tmp_path / "shar", tmp_path / "cache", batch=2, crop=1.0)
    ids = [cut.id for group in plan.cuts for cut in group]
    ours = dict(zip(ids, (row for batch in readers.ours(plan)(0) for row in batch), strict=True))
    theirs = dict(
        zip(sorted(ids), (batch[0] for batch in readers.lhotse_shar(plan, tmp_path / "shar")(0)), strict=True)
    )
    assert len(ids) == 3
    for name in ids:
        np.testing.assert_array_equal(ours[name].numpy(), theirs[name].numpy())
    figures = measure.main([f"--corpus={corpus}", *SMALL, "--formats=shar"])
    assert set(figures["reading"]["shar"]) == {measure.OURS, measure.LHOTSE}


def test_more_files_than_audio(corpus: Path) -> None:
    with pytest.raises(ValueError, match="`files` must be at most what"):
        list(files.read_utterances(str(corpus), 100, 5, 35))
