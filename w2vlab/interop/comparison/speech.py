"""Speech to compare two programs on: given files, the run's own data, an installed sample corpus, or a synthesis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lhotse.utils import compute_num_samples
from torch import Tensor

from w2vlab.data.audio.audio_files import AudioFile, UnusableAudioError
from w2vlab.data.audio.resampling import get_resampler
from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_window
from w2vlab.data.corpora.listing import list_entries
from w2vlab.data.corpora.sample_corpora import NAMES, SAMPLE, locate, resolve_name
from w2vlab.data.corpora.scanning import Entry
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.mixtures.sources import paths_of
from w2vlab.data.shards.sources import is_sharded
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.messages import count, duration

_NUM_UTTERANCES = 3
_MAX_SECONDS = 10
_MIN_SECONDS = 1
_MAX_TRIED = 100
"""Utterances of a corpus that are tried, because some may be too short or damaged."""


@dataclass(frozen=True)
class Speech:
    """Waveforms to compare on.

    Attributes:
        source: Where they are from.
        waveforms: Each at 16 kHz in [-1, 1], shape `(1, S)`.
        shortest: A waveform of a single frame; None to leave it out.
    """

    source: str
    waveforms: tuple[Tensor, ...]
    shortest: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All waveforms."""
        return self.waveforms if self.shortest is None else (*self.waveforms, self.shortest)

    def __str__(self) -> str:
        seconds = sum(waveform.shape[1] for waveform in self.waveforms) / SAMPLE_RATE
        more = "" if self.shortest is None else ", and a single frame of them"
        return f"{count(len(self.waveforms), 'utterance')} of {self.source} ({duration(seconds)}{more})"


def find_speech(files: Sequence[str | Path], run_config: Mapping[str, Any] | None, cache: Path) -> Speech:
    """Finds speech to compare on; nothing is downloaded.

    Args:
        files: Audio files; if there are some, they are used.
        run_config: Configuration of the run that trained the model; its corpus is used if it is on this machine.
        cache: The cache folder, with sample corpora that were fetched before.

    Returns:
        The first 10 s of each of the files, or of the first utterances of a corpus; without any corpus a synthetic
        voice.

    Raises:
        ValueError: One of `files` cannot be read.
    """
    if files:
        return Speech("the given files", tuple(_read_given(Path(file)) for file in files))
    data = (run_config or {}).get("data")
    own = paths_of(data.get("corpus")) if isinstance(data, dict) else []
    installed = [name for name in NAMES if name != SAMPLE]
    for corpus in dict.fromkeys([*own, *installed]):
        waveforms = _of_corpus(corpus, cache)
        if waveforms:
            name = resolve_name(corpus, cache)
            name = name if name in NAMES else Path(name).name
            return Speech(f"the run's corpus {name}" if corpus in own else name, waveforms)
    return Speech("a synthetic voice, because there is no corpus on this machine", (synthetic_voice(),))


def _of_corpus(corpus: str, cache: Path) -> tuple[Tensor, ...]:
    """Returns the first utterances of a corpus; none if it is not on this machine, or cannot be read."""
    try:
        source = locate(corpus, cache)
        if not isinstance(source, Path) or not source.exists() or is_sharded(source):
            return ()
        entries = list_entries(source, Tally())
    except (ValueError, OSError):
        return ()
    waveforms: list[Tensor] = []
    for entry in entries[:_MAX_TRIED]:
        try:
            waveform = _read(entry)
        except (UnusableAudioError, OSError):
            continue
        if waveform.shape[1] >= _MIN_SECONDS * SAMPLE_RATE:
            waveforms.append(waveform)
        if len(waveforms) == _NUM_UTTERANCES:
            break
    return tuple(waveforms)


def _read_given(path: Path) -> Tensor:
    try:
        return _read_file(path)
    except (UnusableAudioError, OSError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise ValueError(f"`audio` must be files of speech, but {path} cannot be used: {reason}.") from None


def _read(entry: Entry) -> Tensor:
    if entry.reason is not None:
        raise UnusableAudioError(entry.reason)
    if entry.cut is None:
        return _read_file(entry.paths[0])
    length = min(compute_num_samples(entry.cut.duration, SAMPLE_RATE), _MAX_SECONDS * SAMPLE_RATE)
    return _as_batch(read_window(entry.cut, Window(0, length)))


def _read_file(path: Path) -> Tensor:
    with AudioFile(path) as file:
        available = file.count_samples() if file.num_samples is None else file.num_samples
        available = min(available, _MAX_SECONDS * file.sampling_rate)
        audio = file.read(0, available).mean(axis=1)
        resample = get_resampler(file.sampling_rate)
        length = math.ceil(available * SAMPLE_RATE / file.sampling_rate)
    first, stop = resample.input_range(0, length, available)
    return _as_batch(resample(audio[first:stop], first, 0, length))


def _as_batch(audio: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))[None]


def loudest(waveform: Tensor, length: int) -> Tensor:
    """Returns the loudest of consecutive segments of `length` samples of a waveform `(1, S)`."""
    segments = waveform[:, : waveform.shape[1] // length * length].view(-1, length)
    return segments[segments.square().sum(dim=1).argmax()][None]


def synthetic_voice(seconds: float = 4.0) -> Tensor:
    """Returns a voice-like signal at 16 kHz, `(1, S)`: harmonics of a gliding pitch below three moving formants, noise.

    It is the same in every call. Unlike noise it has the tilt, the pauses and the level changes of speech.
    """
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    formants = [
        (500 + 200 * np.sin(2 * np.pi * 1.3 * time), 90),
        (1500 + 500 * np.sin(2 * np.pi * 0.9 * time + 1), 120),
        (2600 + 200 * np.sin(2 * np.pi * 1.1 * time + 2), 200),
    ]
    voice = np.zeros_like(time)
    for number in range(1, 40):
        frequency = number * pitch
        gain = sum(1 / (1 + ((frequency - center) / width) ** 2) for center, width in formants)
        voice += (gain + 0.01) * np.sin(number * phase) / number**0.5
    syllables = np.clip(np.sin(2 * np.pi * 3.5 * time) + 0.4, 0, None) * (np.sin(2 * np.pi * 0.4 * time) > -0.8)
    noise = np.random.default_rng(0).normal(size=len(time))
    signal = syllables * voice / np.abs(voice).max() + 0.002 * noise
    return _as_batch(0.3 * signal / np.abs(signal).max())
