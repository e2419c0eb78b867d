"""Audio signals in which errors of decoding are visible, and encoded files of other programs."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile


def speech_like(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """Harmonics of a varying pitch and volume: unlike with noise, a decoder in a wrong state has large errors.

    Returns:
        Samples within [-0.7, 0.7], shape `(samples, channels)`; other channels say the same later and more softly.
    """
    voice = _voice(seconds, rate)
    return np.stack([(1 - channel / 10) * np.roll(voice, 999 * channel) for channel in range(channels)], axis=1)


@lru_cache(maxsize=32)
def _voice(seconds: float, rate: int) -> np.ndarray:
    random = np.random.default_rng(0)
    times = np.arange(round(seconds * rate)) / rate
    knots = np.arange(0, seconds + 1, 0.2)

    def moving(low: float, high: float) -> np.ndarray:
        return np.interp(times, knots, random.uniform(low, high, len(knots)))

    pitch, formant, loudness = moving(90, 220), moving(300, 2000), moving(0, 1) ** 2
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = np.zeros(len(times))
    for n in range(1, 25):
        strength = np.exp(-(((n * pitch - formant) / 300) ** 2)) + 0.03
        voice += np.where(n * pitch < 0.45 * rate, strength, 0) * np.sin(n * phase)
    return 0.7 * loudness * voice / np.abs(voice).max()


def write_mp3(path: Path, sound: np.ndarray, rate: int, constant: bool) -> Path:
    """Writes an mp3 with a Xing/Info header, of constant or variable bit rate."""
    mode = "CONSTANT" if constant else "VARIABLE"
    soundfile.write(path, sound, rate, compression_level=0.6, bitrate_mode=mode)
    return path


def without_index(mp3: bytes) -> bytes:
    """Removes the first frame, which has only the Xing/Info header."""
    assert b"Xing" in mp3[:64] or b"Info" in mp3[:64]
    return mp3[frame_size(mp3) :]


def frame_size(mp3: bytes) -> int:
    """Returns the bytes of the first MPEG Layer III frame of `mp3`."""
    newest = mp3[1] >> 3 & 3 == 3
    rates = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
    kbits = {
        True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
        False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    }[newest][(mp3[2] >> 4) - 1]
    rate = rates[mp3[1] >> 3 & 3][mp3[2] >> 2 & 3]
    return (144 if newest else 72) * kbits * 1000 // rate + (mp3[2] >> 1 & 1)


def with_tags(mp3: bytes) -> bytes:
    """Adds an ID3v2 tag at the beginning, and APEv2 and ID3v1 tags at the end."""
    size = bytes(3000 >> 7 * (3 - place) & 127 for place in range(4))
    ape = struct.pack("<8sIIII8x", b"APETAGEX", 2000, 2000, 1, 0)
    return b"ID3\4\0\0" + size + b"\0" * 3000 + mp3 + b"x" * 1968 + ape + b"TAG".ljust(128, b"\0")


def flac_of_a_pipe(flac: bytes) -> bytes:
    """Removes the number of samples from the header, as in files that were written to a pipe."""
    fields = int.from_bytes(flac[18:26]) >> 36 << 36
    return flac[:18] + fields.to_bytes(8) + flac[26:]


def wav_of_a_pipe(wav: bytes, length: int) -> bytes:
    """Changes the declared length of the data chunk of a simple wav."""
    assert wav[36:40] == b"data"
    return wav[:4] + struct.pack("<I", min(length + 36, 0xFFFFFFFF)) + wav[8:40] + struct.pack("<I", length) + wav[44:]
