"""Reads the properties of an audio file, and checks that it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import soundfile

from w2vlab.data.audio.audio_files import AudioFile, UnusableAudioError
from w2vlab.data.audio.headers import SAMPLING_RATE_RANGE, AudioInfo, learn, read_plain

__all__ = [
    "EXTENSIONS",
    "SAMPLING_RATE_RANGE",
    "UNSUPPORTED_EXTENSIONS",
    "AudioInfo",
    "UnusableAudioError",
    "measure",
    "probe",
    "unsupported_reason",
]

EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})

_UNSUPPORTED = (
    "3gp aac ac3 aif aiff alac amr ape au caf g722 gsm m4a m4b mka mkv mov "  # codespell:ignore caf
    "mp2 mp4 mpc oga ra sph spx w64 webm wma wv"
)
UNSUPPORTED_EXTENSIONS = frozenset(f".{ending}" for ending in _UNSUPPORTED.split())
"""Suffixes of audio files that are not supported."""


def unsupported_reason(path: Path) -> str | None:
    """Returns why the format of an audio file, known from its suffix, is not supported, and how to convert it.

    Returns:
        None if the suffix is not that of an unsupported audio format.
    """
    ending = path.suffix.lower()
    if ending not in UNSUPPORTED_EXTENSIONS:
        return None
    return f"{ending}, not read: convert with `ffmpeg -i X{ending} -vn X.flac`"


def probe(path: Path | BinaryIO) -> AudioInfo:
    """Reads the header of `path`, and checks that the file has all the audio that its header declares.

    The audio is decoded only if the header has no length.

    Args:
        path: Path, or an open binary file.

    Raises:
        UnusableAudioError: The file is missing, empty, unreadable, truncated or has no samples.
    """
    plain = read_plain(path) if isinstance(path, Path) else None
    return _probe_with_decoder(path) if plain is None else plain[0]


def measure(path: str) -> tuple[AudioInfo, int]:
    """Returns what `probe` returns, and the size of the file in bytes.

    Raises:
        UnusableAudioError: As `probe`.
    """
    plain = read_plain(path)
    if plain is not None:
        return plain
    info = _probe_with_decoder(Path(path))
    try:
        return info, Path(path).stat().st_size
    except OSError:  # removed after it was probed
        raise UnusableAudioError("missing") from None


def _probe_with_decoder(path: Path | BinaryIO) -> AudioInfo:
    try:
        file = AudioFile(path)
    except UnusableAudioError as error:
        reason = unsupported_reason(path) if isinstance(path, Path) and str(error) == "unreadable" else None
        raise UnusableAudioError(reason or str(error)) from error
    try:
        with file:
            info = _inspect(file)
    except (soundfile.SoundFileError, OSError) as error:  # OSError: also of a failing disk or network
        raise UnusableAudioError("unreadable") from error
    if isinstance(path, Path):
        learn(path, info)
    return info


def _inspect(file: AudioFile) -> AudioInfo:
    if not SAMPLING_RATE_RANGE[0] <= file.sampling_rate <= SAMPLING_RATE_RANGE[1]:
        raise UnusableAudioError(
            f"with a sampling rate outside {SAMPLING_RATE_RANGE[0]} to {SAMPLING_RATE_RANGE[1]} Hz"
        )
    if defect := file.find_defect():
        raise UnusableAudioError(defect)
    num_samples = file.count_samples() if file.num_samples is None else file.num_samples
    if num_samples <= 0:
        raise UnusableAudioError("without samples")
    return AudioInfo(file.sampling_rate, num_samples, file.num_channels)
