"""Reads segments of audio files with sample accuracy: a segment has the samples of the fully decoded file.

libsndfile decodes. Three of its limits are handled here: after a seek some decoders are in a wrong state, so decoding
begins earlier (`PRE_ROLL`); headers without a length are replaced by one with a length; and damage that libsndfile only
writes to its log raises an error.
"""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from w2vlab.data.audio import containers, opus
from w2vlab.data.audio.decoder_messages import capture_messages

if TYPE_CHECKING:
    from w2vlab.types import Seconds

PRE_ROLL: dict[str, Seconds] = {"MPEG_LAYER_II": 1.0, "MPEG_LAYER_III": 1.0, "VORBIS": 10.0, "OPUS": 20.0}
"""How much earlier than the segment decoding begins, by codec, because seeking is not exact; other codecs need none.

An mp3 frame uses bits of earlier frames (bit reservoir, `_MPEG_1`). In the last page of a Vorbis stream libsndfile
seeks too far without an error; the longest page of libvorbis, of silence, has 8 s. An Opus decoder has memory
(`opus.PRE_ROLL`).
"""

_MPEG_1 = 0.4
"""Part of the pre-roll that an mp3 of 32 kHz or more needs.

The main data of a frame begin at most 511 bytes earlier. A frame has at least 66 bytes of them, at the lowest bit rate
of 32 kbit/s, so that is 8 frames. With two for the overlap of transform and filter bank, 0.36 s at 32 kHz. At lower
sampling rates it is 255 bytes, and 8 kbit/s leave 9 bytes: 0.74 s at 24 kHz.
"""

FLAC_IN_OGG = "FLAC in Ogg, not read: unpack with `ffmpeg -i X.ogg -c:a copy X.flac`"

_BLOCK = 1 << 18
_WAV = ("WAV", "WAVEX", "RF64")
_INT16_SCALE = np.float32(2.0**-15)


class UnusableAudioError(Exception):
    """Raised for an utterance that cannot be used; the message is a short reason by which utterances are counted."""


class AudioFile:
    """An open audio file; used in a `with` statement.

    Args:
        source: Path, or an open binary file.
        num_samples: Result of `count_samples`, for a file whose header has no length; makes seeking faster.

    Attributes:
        size: Size of the file in bytes.
        sampling_rate: Sampling rate of the file in Hz.
        num_channels: 1 for mono.
        num_samples: Samples of each channel; None if the header has no length.
        format: libsndfile's name of the container, such as `FLAC`.

    Raises:
        UnusableAudioError: The file is missing, empty, not a regular file, or in a format that is not supported.
    """

    def __init__(self, source: Path | BinaryIO, num_samples: int | None = None) -> None:
        self._owned = isinstance(source, Path)
        self._file: BinaryIO = _open_regular_file(source) if isinstance(source, Path) else source
        self._num_prepended = 0  # samples of silence that are decoded before those of the file
        try:
            self.size = self._file.seek(0, os.SEEK_END)
            if not self.size:
                raise UnusableAudioError("empty")
            self._mp3: containers.Mp3 | None = None
            self._head = containers.read_at(self._file, 0, 4)
            if self._head[:2] in _MP3_STARTS:
                self._mp3 = containers.parse_mp3(self._file, self.size)
            with self._messages():
                self._decoder = self._open(num_samples)
        except (soundfile.SoundFileError, OSError) as problem:
            is_flac = isinstance(problem, soundfile.SoundFileError) and containers.is_ogg_flac(self._file)
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
        if self._head == b"fLaC" and (flac := containers.repair_flac_length(self._file, num_samples, self.size)):
            return _open_decoder(flac)
        if self._head in (b"RIFF", b"RF64") and (wav := containers.repair_wav_length(self._file, self.size)):
            decoder = _open_decoder(wav)
            self.num_samples = decoder.frames
            return decoder
        self._file.seek(0)
        # With a file descriptor libsndfile reads by itself, without calls into Python and without a second open().
        decoder = soundfile.SoundFile(self._file.fileno() if self._owned else self._file, closefd=False)
        if not decoder.seekable():
            decoder.close()
            raise UnusableAudioError(f"{decoder.subtype}, not read: convert with `ffmpeg -i X -c:a pcm_s16le Y.wav`")
        mp3 = self._mp3
        if mp3 is None or decoder.format != "MP3" or mp3.has_length:
            self.num_samples = decoder.frames
        elif decoder.subtype == "MPEG_LAYER_III":
            frame = containers.mp3_samples_per_frame(decoder.samplerate)
            decoder = _open_decoder(mp3.with_info_header(self._file, decoder.samplerate, decoder.channels))
            # libmpg123 drops the decoder's delay from a file with an Info header, and with it part of the silence.
            self._num_prepended = frame - (containers.MAX_MP3_FRAMES * frame - decoder.frames)
        return decoder

    def find_defect(self) -> str | None:
        """Returns why audio is missing or damaged; None if no defect is visible without decoding."""
        if self.format == "OGG":
            return containers.find_ogg_defect(self._file, self.size)
        if self._mp3 is not None and self.format == "MP3":
            if self._mp3.is_truncated:
                return "truncated"
            seconds = (self.num_samples or 0) / self.sampling_rate
            return "damaged" if self._mp3.has_length and not self._mp3.is_plausible_duration(seconds) else None
        if self.format in _WAV and not containers.is_wav_complete(self._file, self.size):
            return "truncated"
        # A decoder cannot seek to a missing last sample; of uncompressed audio libsndfile has counted the samples.
        return None if not self.num_samples or self._can_read_last_sample() else "truncated"

    def _can_read_last_sample(self) -> bool:
        try:
            self._decoder.seek(self._decoder.frames - 1)
            return len(self._decoder.read(frames=1)) == 1
        except soundfile.SoundFileError:
            return False

    def count_samples(self) -> int:
        """Counts the samples of a file whose header has no length: decodes an mp3, bisects a FLAC by seeking.

        Raises:
            UnusableAudioError: The file cannot be decoded.
        """
        if self.format != "MP3":
            return self._find_flac_end()
        total = 0
        # Fill the page cache first: `capture_messages` holds a lock, and other threads must not wait for the disk.
        for offset in range(0, self.size, _BLOCK):
            containers.read_at(self._file, offset, _BLOCK)
        try:
            with self._messages():
                while found := len(self._decoder.read(frames=_BLOCK, dtype="int16", always_2d=True)):
                    total += found
        except soundfile.SoundFileError as problem:
            raise UnusableAudioError("damaged") from problem
        return total - self._num_prepended

    def _find_flac_end(self) -> int:
        # FLAC frames are numbered, so a sample exists if a seek to it succeeds. Reading to the end is not possible:
        # libsndfile then reports an error.
        found, missing = 0, containers.MAX_FLAC_SAMPLES
        while missing - found > 1:
            middle = min((found + missing) // 2, 2 * found + _BLOCK)
            if self._can_seek(middle, missing):
                found = middle
            else:
                missing = middle
        if any(self._can_seek(missing + (1 << power), containers.MAX_FLAC_SAMPLES) for power in range(13, 30, 2)):
            raise UnusableAudioError("damaged")
        return missing

    def _can_seek(self, sample: int, num_samples: int) -> bool:
        self._decoder.close()
        self._decoder = self._open(num_samples)  # after a failed seek a decoder cannot be used any more
        try:
            self._decoder.seek(sample)
        except soundfile.SoundFileError:
            return False
        return True

    def read(self, start: int, length: int) -> npt.NDArray[np.float32]:
        """Reads a segment.

        Args:
            start: First sample.
            length: Number of samples.

        Returns:
            Samples in [-1, 1], shape `(length, channels)`.

        Raises:
            UnusableAudioError: The file is shorter than that, or is damaged in the segment or shortly before it.
        """
        stop = start + self._num_prepended + length
        if self._decoder.frames < stop:
            raise UnusableAudioError("shorter than when it was scanned")
        pre_roll = PRE_ROLL.get(self._decoder.subtype, 0.0) * self.sampling_rate
        if self._decoder.subtype == "MPEG_LAYER_III" and self.sampling_rate >= 32_000:
            pre_roll *= _MPEG_1
        first = max(0, stop - length - round(pre_roll))
        if self._decoder.subtype == "OPUS" and self.sampling_rate == opus.RATE:
            segment = opus.find_segment(self._file, self.size, start, stop)
            if segment is not None:
                decoded = opus.decode(segment)
                if decoded is not None:
                    return decoded[start - segment.start :][:length]
                first = max(0, segment.start)
        try:
            audio = self._decode(first, stop)
        except UnusableAudioError:
            # libsndfile cannot seek in some valid files, such as Opus of 8 channels with full pages: decode all.
            if not first or self.format != "OGG":
                raise
            self._decoder.close()
            self._decoder = self._open(None)
            audio = self._decode(0, stop)
        return audio[len(audio) - length :]

    def _decode(self, first: int, stop: int) -> npt.NDArray[np.float32]:
        try:
            with self._messages() as messages:
                if first:
                    self._decoder.seek(first)
                audio = self._read_samples(stop - first)
        except (soundfile.SoundFileError, ValueError) as problem:  # ValueError: the decoder has lost its position
            raise UnusableAudioError("damaged") from problem
        # Both decoders skip damaged data, so that all samples after it would be too early.
        log = self._decoder.extra_info if self.format == "OGG" else ""
        if "hole" in log or "Corrupted" in log or any("resync" in message for message in messages):
            raise UnusableAudioError("damaged")
        if len(audio) < stop - first:
            raise UnusableAudioError("shorter than when it was scanned")
        return audio

    def _messages(self) -> AbstractContextManager[list[str]]:
        return nullcontext([]) if self._mp3 is None else capture_messages()

    def _read_samples(self, length: int) -> npt.NDArray[np.float32]:
        # libsndfile converts 16 bits to float32 one by one, and so it takes four times as long as NumPy.
        is_plain = self._decoder.subtype == "PCM_16" and self.format in _WAV
        audio: Any = self._decoder.read(frames=length, dtype="int16" if is_plain else "float32", always_2d=True)
        samples: npt.NDArray[np.float32] = np.multiply(audio, _INT16_SCALE, dtype=np.float32) if is_plain else audio
        return samples


_MP3_STARTS = {b"ID", *(bytes((0xFF, second)) for second in range(0xE0, 0x100))}


def _open_decoder(file: Any) -> soundfile.SoundFile:
    """Opens an object with the methods `seek`, `tell` and `read`."""
    return soundfile.SoundFile(file)


def _open_regular_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading; opening a pipe would block until somebody writes to it.

    Raises:
        UnusableAudioError: The file is missing, cannot be opened, or is not a regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnusableAudioError("missing") from None
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        raise UnusableAudioError("unreadable") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnusableAudioError("no regular file")
    return open(descriptor, "rb", buffering=0)
