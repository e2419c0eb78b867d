"""Small corpora, and preparations of them within this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.sounds import speech_like
from w2vlab.preparation.preparing import Prepared, prepare
from w2vlab.preparation.settings import Settings


@contextmanager
def silent(name: str, total: float) -> Iterator[Callable[[float], None]]:
    yield lambda amount: None


def write_corpus(root: Path, number: int = 12) -> Path:
    """Writes utterances of 0.3 to 0.9 s of several kinds: 16 bits, floats above 1, stereo at 44.1 kHz; with texts."""
    (root / "reader").mkdir(parents=True)
    lines = []
    for index in range(number):
        rate, channels = ((16_000, 1), (16_000, 1), (44_100, 2), (16_000, 1))[index % 4]
        sound = np.roll(speech_like(0.3 + 0.05 * index, rate, channels), 17 * index, axis=0)
        loud = index % 4 == 1
        subtype = "FLOAT" if loud else "PCM_16"
        soundfile.write(root / "reader" / f"u{index:02}.wav", sound * (5 if loud else 1), rate, subtype=subtype)
        lines.append(f"u{index:02} text number {index}\n")
    (root / "reader" / "reader.trans.txt").write_text("".join(lines))
    return root


def contents(folder: Path) -> dict[str, str]:
    """Returns the checksum of each file but the record, which has the date."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "prepare.json"
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepares into `out`, in this process; a corpus of one part."""

    def run(source: Path | str, out: str | Path = "out", **options: object) -> Prepared:
        defaults = {"processes": 1, "cache_dir": tmp_path / "cache", "out": tmp_path / out}
        (one,) = prepare(Settings(source=str(source), **{**defaults, **options}), silent)  # type: ignore[arg-type]
        return one

    return run
