"""A cheap look at an audio file: what it holds, and whether all of it is there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import soundfile

from w2vlab.types import Hertz

EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})


class UnusableAudioError(Exception):
    """An utterance that cannot be used; the message is the reason, in a few words that can be counted."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        sampling_rate: Of the file, not of the models.
        num_samples: Samples of each channel.
        num_channels: 1 for mono.
    """

    sampling_rate: Hertz
    num_samples: int
    num_channels: int


def probe(path: Path) -> AudioInfo:
    """Reads the header of `path` and checks that the audio it announces is there, without decoding it.

    Raises:
        UnusableAudioError: The file is missing, empty, unreadable, truncated or without a sample.
    """
    try:
        size = path.stat().st_size
    except OSError:
        raise UnusableAudioError("missing") from None
    if size == 0:
        raise UnusableAudioError("empty")
    try:
        with soundfile.SoundFile(path) as file:
            info = AudioInfo(file.samplerate, file.frames, file.channels)
            form = file.format
            whole = info.num_samples == 0 or form == "WAV" or _has_last_sample(file)
    except (soundfile.SoundFileError, OSError):
        raise UnusableAudioError("unreadable") from None
    # libsndfile takes the samples that are there for the samples that were announced, so wav needs a look of our own.
    if not whole or (form == "WAV" and not _is_whole_wav(path, size)):
        raise UnusableAudioError("truncated")
    if info.num_samples == 0:
        raise UnusableAudioError("without samples")
    return info


def _has_last_sample(file: soundfile.SoundFile) -> bool:
    try:
        file.seek(file.frames - 1)
        return len(file.read(1)) == 1
    except soundfile.SoundFileError:
        return False


def _is_whole_wav(path: Path, size: int) -> bool:
    """Tells whether the data chunk of a RIFF file ends inside the file."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return True
        file.seek(12)
        while (header := _chunk_header(file)) is not None:
            name, length = header
            if name == b"data":
                # Writers to a pipe do not know the length and leave all ones or zero.
                return length in (0, 0xFFFFFFFF) or file.tell() + length <= size
            file.seek(length + length % 2, 1)
    return True


def _chunk_header(file: BinaryIO) -> tuple[bytes, int] | None:
    header = file.read(8)
    if len(header) < 8:
        return None
    name, length = struct.unpack("<4sI", header)
    return name, length
