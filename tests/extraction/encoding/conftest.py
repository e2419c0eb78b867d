"""Noise of different lengths, as a corpus, and a tiny model that encodes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from w2vlab.extraction.encoding.encoding import Encoding
from w2vlab.extraction.encoding.settings import EncodingSettings
from w2vlab.extraction.sources import FrameSource

SECONDS = (1.0, 0.5, 1.0, 0.7, 1.3, 0.6, 1.0, 0.9, 0.4, 1.1)


def write_noise(folder: Path, seconds: tuple[float, ...] = SECONDS) -> Path:
    """Writes a file of noise of each length."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number, length in enumerate(seconds):
        soundfile.write(folder / f"u{number:02}.wav", 0.1 * noise.normal(size=round(16_000 * length)), 16_000)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "corpus")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextmanager
def quiet(name: str, total: float) -> Iterator[Callable[[float], None]]:
    """Shows nothing."""
    yield lambda seconds: None


@pytest.fixture
def encode(corpus: Path, cache: Path, tmp_path: Path) -> Callable[..., Mapping[str, Any]]:
    """Encodes the noise by a source, in shards of about three seconds, without other processes."""

    def run(source: FrameSource, out: str = "out", **options: Any) -> Mapping[str, Any]:
        chosen = {"data": str(corpus), "what": "features", "format": "npy", "shard_minutes": 0.05, "num_workers": 0}
        settings = EncodingSettings(**(chosen | {"out": tmp_path / out, "cache_dir": cache} | options))
        return Encoding(source, settings).run(quiet)

    return run


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Returns the content of all files of an encoding but `encoding.json`, which has a date."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.suffix != ".json"}
