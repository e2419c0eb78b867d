"""The rate at which workers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from w2vlab.data import SpeechDataModule
from w2vlab.data.corpora import sample_corpora
from w2vlab.explain.speed.reading import Reading, measure_reading


def module(folder: Path, **options: Any) -> SpeechDataModule:
    sounds = folder / "sounds"
    sounds.mkdir(exist_ok=True)
    noise = np.random.default_rng(0)
    for number in range(20):
        soundfile.write(sounds / f"{number:02}.wav", 0.1 * noise.normal(size=16_000).astype(np.float32), 16_000)
    corpus = {"corpus": str(sounds), "cache_dir": folder / "cache", **options}
    data = SpeechDataModule(batch_seconds=2, max_seconds=1, min_seconds=0.5, validation_fraction=0.2, **corpus)
    data.require(1000)
    return data


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_read_until_the_corpus_ends(num_workers: int, tmp_path: Path) -> None:
    passed: list[float] = []
    reading = measure_reading(module(tmp_path, num_workers=num_workers), 60.0, passed.append)
    assert reading.workers == num_workers
    assert 4 <= reading.batches <= 9
    assert len(passed) >= reading.batches
    assert reading.rate > 0.9 * 2 * reading.batches / sum(passed)


def test_it_ends_in_time(tmp_path: Path) -> None:
    reading = measure_reading(module(tmp_path, num_workers=0), 0.0, lambda seconds: None)
    assert reading.batches == 1
    assert reading.rate > 0


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_corpora, "download_librispeech", None, raising=False)
    data = module(tmp_path, corpus="mini_librispeech")
    with pytest.raises(ValueError, match="mini_librispeech has not been downloaded"):
        measure_reading(data, 1.0, lambda seconds: None)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("corpus", "found"), [("mini_librispeech", False), ("festvox-ru", False), ("/a/path", True)])
def test_what_is_downloaded(corpus: str, found: bool, tmp_path: Path) -> None:
    assert sample_corpora.is_downloaded(corpus, tmp_path) is found


def test_waiting() -> None:
    assert Reading(rate=10.0, workers=1, batches=3).waiting(audio=20.0, step=1.5) == pytest.approx(0.5)
    assert Reading(rate=10.0, workers=1, batches=3).waiting(audio=20.0, step=2.5) == 0
    assert Reading(rate=10.0, workers=0, batches=3).waiting(audio=20.0, step=2.5) == pytest.approx(2)
