"""Tiny corpora for the data tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2vlab.data import SpeechDataModule
from w2vlab.data.corpora.manifests import Manifest, prepare_manifest

RATE = 16_000


def write_ramp(path: Path, seconds: float, rate: int = RATE, channels: int = 1) -> Path:
    """Writes audio whose sample i is `(i % 30_000) / 2**15`, so that a window's start can be read from its samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = (np.arange(round(seconds * rate)) % 30_000).astype(np.int16)
    soundfile.write(path, np.stack([ramp] * channels, axis=1), rate)
    return path


def start_of(window: np.ndarray) -> int:
    """Returns the start of a window of a ramp."""
    return round(float(window[0]) * 2**15)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """40 utterances of 0.20 to 0.59 s in two folders."""
    root = tmp_path / "corpus"
    for number in range(40):
        write_ramp(root / f"speaker{number % 2}" / f"u{number:02}.wav", 0.2 + number / 100)
    return root


@pytest.fixture
def manifest(corpus: Path, cache: Path) -> Manifest:
    return prepare_manifest(corpus, cache)


@pytest.fixture
def make_module(cache: Path):
    def make(corpus: Path | str, **arguments) -> SpeechDataModule:
        defaults = dict(batch_seconds=1.5, max_seconds=0.4, min_seconds=0.1, num_buckets=3, num_workers=0)
        return SpeechDataModule(str(corpus), cache_dir=cache, **{**defaults, **arguments})

    return make


@pytest.fixture
def ready_module(make_module):
    def make(corpus: Path | str, **arguments) -> SpeechDataModule:
        module = make_module(corpus, **arguments)
        module.prepare_data()
        module.setup()
        return module

    return make
