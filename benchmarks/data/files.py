"""Writes the same utterances in every format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import torchaudio
from lhotse import CutSet, Recording
from lhotse.shar import SharWriter

from w2vlab.data.corpora.listing import list_entries
from w2vlab.data.corpora.sample_corpora import fetch
from w2vlab.data.corpora.tally import Tally
from w2vlab.types import SAMPLE_RATE, Hertz, Seconds
from w2vlab.utils.files import cache_root

Audio = npt.NDArray[np.float32]

RATES: dict[str, Hertz] = {"wav": 16_000, "flac": 16_000, "opus": 48_000, "mp3": 44_100}
"""Sampling rate of the files of each format."""

SHAR = "shar"


def read_utterances(corpus: str, number: int, shortest: Seconds, longest: Seconds) -> Iterator[Audio]:
    """Yields utterances of 16 kHz, the files of a corpus joined and cut to lengths from `shortest` to `longest`.

    Args:
        corpus: A sample corpus, or a folder of files of 16 kHz.
        number: Number of utterances.
        shortest: Length of the shortest.
        longest: Length of the longest.

    Raises:
        ValueError: The corpus has less audio.
    """
    lengths = np.random.default_rng(0).permutation(np.linspace(shortest, longest, number))
    entries = iter(list_entries(fetch(corpus, cache_root(None)), Tally()))
    buffer = np.zeros(0, np.float32)
    for length in (round(seconds * SAMPLE_RATE) for seconds in lengths):
        while len(buffer) < length:
            entry = next(entries, None)
            if entry is None:
                raise ValueError(f"`files` must be at most what {corpus} has audio for, but is {number}.")
            audio, rate = soundfile.read(entry.paths[0], dtype="float32", always_2d=True)
            assert rate == SAMPLE_RATE, "the corpus has 16 kHz"
            buffer = np.concatenate((buffer, audio[:, 0]))
        yield buffer[:length]
        buffer = buffer[length:]


def write_files(utterances: list[Audio], kind: str, folder: Path) -> list[Path]:
    """Writes a file each, named by its number; wav and flac of 16 bits, the others as libsndfile encodes by default."""
    folder.mkdir(parents=True)
    rate = RATES[kind]
    options = {"opus": {"format": "OGG", "subtype": "OPUS"}, "wav": {"subtype": "PCM_16"}}.get(kind, {})
    paths = [folder / f"{number:04}.{kind}" for number in range(len(utterances))]
    for audio, path in zip(utterances, paths, strict=True):
        if rate != SAMPLE_RATE:
            tensor = torchaudio.functional.resample(torch.from_numpy(audio), SAMPLE_RATE, rate, lowpass_filter_width=64)
            audio = tensor.numpy()
        soundfile.write(path, audio, rate, **options)
    return paths


def write_shar(paths: list[Path], folder: Path) -> None:
    """Writes lhotse Shar with flac of 16 bits, 32 utterances a shard."""
    folder.mkdir(parents=True)
    cuts = CutSet.from_cuts(Recording.from_file(path).to_cut() for path in paths)
    with SharWriter(folder, fields={"recording": "flac"}, shard_size=32) as writer:
        for cut in cuts:
            writer.write(cut)
