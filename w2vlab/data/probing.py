"""A look at an audio file: what it holds, and whether all of it is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import soundfile

from w2vlab.data.audio_files import AudioFile, UnusableAudioError
from w2vlab.types import Hertz

EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})

_OTHERS = (
    "3gp aac ac3 aif aiff alac amr ape au caf g722 gsm m4a m4b mka mkv mov "  # codespell:ignore caf
    "mp2 mp4 mpc oga ra sph spx w64 webm wma wv"
)
OTHER_EXTENSIONS = frozenset(f".{ending}" for ending in _OTHERS.split())
"""Of audio that is not read."""

RATES = (4_000, 384_000)
"""The lowest and the highest sampling rate in Hz that a file may have; those beyond are mistakes in a header."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds.

    Attributes:
        sampling_rate: Of the file, not of the models.
        num_samples: Samples of each channel.
        num_channels: 1 for mono.
    """

    sampling_rate: Hertz
    num_samples: int
    num_channels: int


def is_not_read(path: Path) -> str | None:
    """Returns why a file of audio is not read, and what to do, where its name tells; None for others."""
    ending = path.suffix.lower()
    if ending not in OTHER_EXTENSIONS:
        return None
    return f"{ending}, not read: convert with `ffmpeg -i X{ending} -vn X.flac`"


def probe(path: Path) -> AudioInfo:
    """Reads the header of `path`, and checks that the audio it announces is there.

    Only where the header does not tell a length is the audio decoded.

    Raises:
        UnusableAudioError: The file is missing, empty, unreadable, truncated or without a sample.
    """
    try:
        file = AudioFile(path)
    except UnusableAudioError as error:
        named = is_not_read(path) if str(error) == "unreadable" else None
        raise UnusableAudioError(named or str(error)) from error
    try:
        with file:
            return _look(file)
    except (soundfile.SoundFileError, OSError) as error:  # of a disk or a network, too
        raise UnusableAudioError("unreadable") from error


def _look(file: AudioFile) -> AudioInfo:
    if not RATES[0] <= file.sampling_rate <= RATES[1]:
        raise UnusableAudioError(f"with a sampling rate outside {RATES[0]} to {RATES[1]} Hz")
    if fault := file.fault():
        raise UnusableAudioError(fault)
    num_samples = file.count() if file.num_samples is None else file.num_samples
    if num_samples <= 0:
        raise UnusableAudioError("without samples")
    return AudioInfo(file.sampling_rate, num_samples, file.num_channels)
