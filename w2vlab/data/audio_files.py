"""Reads audio files: the samples of a stretch are those that the whole file has there, whatever the format.

libsndfile decodes. Where a decoder is not in the right state after a seek, reading begins earlier; where a header does
not tell the length, one is put in front; and what libsndfile only notes in its log is an error here.
"""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from w2vlab.data import containers
from w2vlab.types import Seconds

PRE_ROLL: dict[str, Seconds] = {"MPEG_LAYER_II": 1.0, "MPEG_LAYER_III": 1.0, "VORBIS": 10.0, "OPUS": 20.0}
"""How much earlier decoding begins than what is asked for, by coding; the others are exact.

The frames of an mp3 borrow bits from those before. In the last page of a Vorbis stream libsndfile's seek lands late and
does not know it; the longest page of libvorbis, of silence, has 8 s. An Opus decoder predicts: on speech, what it was
before a seek is heard for up to 8 s, 40 dB below.
"""

FLAC_IN_OGG = "FLAC in Ogg, not read: unpack with `ffmpeg -i X.ogg -c:a copy X.flac`"

_BLOCK = 1 << 18


class UnusableAudioError(Exception):
    """An utterance that cannot be used; the message is the reason, in a few words that can be counted."""


class AudioFile:
    """An audio file that is open; to be used in a `with` statement.

    Args:
        source: Its path, or the open file.
        num_samples: What `count` found for a file whose header does not tell, which makes seeking in it faster.

    Attributes:
        sampling_rate: Of the file, not of the models.
        num_channels: 1 for mono.
        num_samples: Samples of each channel; None where the header does not tell.
        format: What libsndfile calls it, such as `FLAC`.

    Raises:
        UnusableAudioError: It is missing, empty, no file, or of no format that is read.
    """

    def __init__(self, source: Path | BinaryIO, num_samples: int | None = None) -> None:
        self._owned = isinstance(source, Path)
        self._file: BinaryIO = _open_regular(source) if isinstance(source, Path) else source
        self._shift = 0  # samples that lie in front of the file's own
        try:
            self.size = self._file.seek(0, os.SEEK_END)
            if not self.size:
                raise UnusableAudioError("empty")
            self._mp3: containers.Mp3 | None = None
            if containers.read_at(self._file, 0, 2) in _MP3_STARTS:
                self._mp3 = containers.find_mp3(self._file, self.size)
            with self._messages():
                self._decoder = self._open(num_samples)
        except (soundfile.SoundFileError, OSError) as problem:
            is_flac = isinstance(problem, soundfile.SoundFileError) and containers.is_flac_in_ogg(self._file)
            self._close()
            raise UnusableAudioError(FLAC_IN_OGG if is_flac else "unreadable") from problem
        except BaseException:
            self._close()
            raise
        self.sampling_rate: int = self._decoder.samplerate
        self.num_channels: int = self._decoder.channels
        self.format: str = self._decoder.format

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()
        self._close()

    def _close(self) -> None:
        if self._owned:
            self._file.close()

    def _open(self, num_samples: int | None) -> soundfile.SoundFile:
        self.num_samples: int | None = None
        flac = containers.flac_without_length(self._file, num_samples, self.size)
        if flac is not None:
            return _decoder_of(flac)
        wav = containers.wav_without_length(self._file, self.size)
        if wav is not None:
            decoder = _decoder_of(wav)
            self.num_samples = decoder.frames
            return decoder
        self._file.seek(0)
        # By its number, a file is read without Python; the name would be opened a second time.
        decoder = soundfile.SoundFile(self._file.fileno() if self._owned else self._file, closefd=False)
        if not decoder.seekable():
            decoder.close()
            raise UnusableAudioError(f"{decoder.subtype}, not read: convert with `ffmpeg -i X -c:a pcm_s16le Y.wav`")
        mp3 = self._mp3
        if mp3 is None or decoder.format != "MP3" or mp3.has_length:
            self.num_samples = decoder.frames
        elif decoder.subtype == "MPEG_LAYER_III":
            frame = containers.mp3_frame_samples(decoder.samplerate)
            decoder = _decoder_of(mp3.with_index(self._file, decoder.samplerate, decoder.channels))
            # libmpg123 plays an indexed file from behind the delay of its decoder on, so the silence is cut by that.
            self._shift = frame - (containers.NUM_FRAMES * frame - decoder.frames)
        return decoder

    def fault(self) -> str | None:
        """Returns why not all of the audio is there, as far as that can be seen without decoding it; else None."""
        if self.format == "OGG":
            return containers.ogg_fault(self._file, self.size)
        if self._mp3 is not None and self.format == "MP3":
            if self._mp3.is_cut_off:
                return "truncated"
            seconds = (self.num_samples or 0) / self.sampling_rate
            return "damaged" if self._mp3.has_length and not self._mp3.may_last(seconds) else None
        if self.format in ("WAV", "WAVEX", "RF64") and not containers.wav_is_whole(self._file, self.size):
            return "truncated"
        # A decoder cannot seek to a last sample that is missing; plain samples libsndfile has counted.
        return None if not self.num_samples or self._has_last_sample() else "truncated"

    def _has_last_sample(self) -> bool:
        try:
            self._decoder.seek(self._decoder.frames - 1)
            return len(self._decoder.read(frames=1)) == 1
        except soundfile.SoundFileError:
            return False

    def count(self) -> int:
        """Returns how many samples it has, where the header does not tell: an mp3 is decoded, a FLAC searched.

        Raises:
            UnusableAudioError: It cannot be decoded.
        """
        if self.format != "MP3":
            return self._search_end()
        total = 0
        for place in range(0, self.size, _BLOCK):  # from the disk, before others have to wait
            containers.read_at(self._file, place, _BLOCK)
        try:
            with self._messages():
                while found := len(self._decoder.read(frames=_BLOCK, dtype="int16", always_2d=True)):
                    total += found
        except soundfile.SoundFileError as problem:
            raise UnusableAudioError("damaged") from problem
        return total - self._shift

    def _search_end(self) -> int:
        # Each frame has its number, so what can be sought is there. Reading to the end is an error of libsndfile's.
        found, missing = 0, containers.UNKNOWN
        while missing - found > 1:
            middle = min((found + missing) // 2, 2 * found + _BLOCK)
            if self._can_seek(middle, missing):
                found = middle
            else:
                missing = middle
        if any(self._can_seek(missing + (1 << power), containers.UNKNOWN) for power in range(13, 30, 2)):
            raise UnusableAudioError("damaged")
        return missing

    def _can_seek(self, place: int, announced: int) -> bool:
        self._decoder.close()
        self._decoder = self._open(announced)  # after an error it is in no state to go on from
        try:
            self._decoder.seek(place)
        except soundfile.SoundFileError:
            return False
        return True

    def read(self, start: int, length: int) -> npt.NDArray[np.float32]:
        """Reads a stretch of samples.

        Args:
            start: The first.
            length: How many.

        Returns:
            Samples in [-1, 1], shape `(length, channels)`.

        Raises:
            UnusableAudioError: They are not there, or the file is damaged there or in front of it.
        """
        stop = start + self._shift + length
        first = max(0, stop - length - round(PRE_ROLL.get(self._decoder.subtype, 0.0) * self.sampling_rate))
        try:
            audio = self._decode(first, stop)
        except UnusableAudioError:
            # libsndfile's seek cannot cope with some sound files, such as Opus of 8 channels with pages that are full.
            if not first or self.format != "OGG":
                raise
            self._decoder.close()
            self._decoder = self._open(None)
            audio = self._decode(0, stop)
        return audio[len(audio) - length :]

    def _decode(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        if self._decoder.frames < stop:
            raise UnusableAudioError("shorter than when it was scanned")
        try:
            with self._messages() as messages:
                if first:
                    self._decoder.seek(first)
                audio: Any = self._decoder.read(frames=stop - first, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, ValueError) as problem:  # the latter where it has lost its place
            raise UnusableAudioError("damaged") from problem
        # Both decoders leave out what they cannot make sense of, and what follows is early by that.
        log = self._decoder.extra_info if self.format == "OGG" else ""
        if "hole" in log or "Corrupted" in log or any("resync" in message for message in messages):
            raise UnusableAudioError("damaged")
        if len(audio) < stop - first:
            raise UnusableAudioError("shorter than when it was scanned")
        decoded: npt.NDArray[np.float32] = audio
        return decoded

    @contextmanager
    def _messages(self) -> Iterator[list[str]]:
        """Collects what libmpg123 writes to the standard error stream, which has no name of a file in it.

        Much of it is about the frames that a seek lands on, which are not used.
        """
        messages: list[str] = []
        if self._mp3 is None:
            yield messages
            return
        with _STANDARD_ERROR, tempfile.TemporaryFile() as collected:
            stream = os.dup(2)
            os.dup2(collected.fileno(), 2)
            try:
                yield messages
            finally:
                os.dup2(stream, 2)
                os.close(stream)
                collected.seek(0)
                for line in collected.read().splitlines(keepends=True):
                    if line.strip() and not line.startswith(_LIBMPG123):
                        os.write(2, line)  # another thread's
                    else:
                        messages.append(line.decode(errors="replace"))


_MP3_STARTS = {b"ID", *(bytes((0xFF, second)) for second in range(0xE0, 0x100))}
_LIBMPG123 = (b"[src/libmpg123", b"[../src/libmpg123", b"Note: ", b"Warning: ", b"Giving up")
_STANDARD_ERROR = threading.Lock()


def _decoder_of(file: Any) -> soundfile.SoundFile:
    """Opens what has the methods of a file that libsndfile needs."""
    return soundfile.SoundFile(file)


def _open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; what else has a name, such as a pipe, would be waited for without end.

    Raises:
        UnusableAudioError: There is none.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnusableAudioError("missing") from None
    except (OSError, ValueError):  # the latter for a name with a zero byte
        raise UnusableAudioError("unreadable") from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UnusableAudioError("no regular file")
    return open(number, "rb", buffering=0)
