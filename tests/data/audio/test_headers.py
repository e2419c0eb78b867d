"""What is read without a decoder equals what the decoder reports."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.sounds import speech_like
from w2vlab.data.audio.headers import read_plain
from w2vlab.data.audio.probing import AudioInfo, UnusableAudioError, _probe_with_decoder, measure, probe


def decoded(path: Path) -> AudioInfo | str:
    try:
        return _probe_with_decoder(path)
    except UnusableAudioError as error:
        return str(error)


def check(path: Path) -> bool:
    """Compares with the decoder, and returns whether the file was read without it."""
    plain = read_plain(path)
    if plain is not None:
        assert decoded(path) == plain[0]
        assert plain[1] == path.stat().st_size
    return plain is not None


WAV_SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]


@pytest.mark.parametrize("subtype", WAV_SUBTYPES)
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 2), (44_100, 1), (192_000, 8)])
def test_plain_wav_needs_no_decoder(tmp_path: Path, subtype: str, rate: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", speech_like(0.2, rate, channels)[:-1], rate, subtype)
    assert check(tmp_path / "a.wav")
    assert measure(str(tmp_path / "a.wav")) == (probe(tmp_path / "a.wav"), (tmp_path / "a.wav").stat().st_size)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("wav", {"subtype": "ULAW"}),
        ("wav", {"subtype": "IMA_ADPCM"}),
        ("wav", {"format": "WAVEX"}),
        ("wav", {"format": "RF64"}),
        ("aiff", {}),
        ("ogg", {}),
        ("mp3", {}),
    ],
)
def test_others_are_left_to_the_decoder(tmp_path: Path, kind: str, written: dict[str, str]) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, speech_like(0.5, 16_000), 16_000, **written)
    assert not check(path)
    assert measure(str(path)) == (decoded(path), path.stat().st_size)


def test_what_is_no_plain_file_is_left_to_the_decoder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "empty.wav").touch()
    for name in ("pipe.wav", "empty.wav", "absent.wav", "zero\0byte.wav", "."):
        assert read_plain(str(tmp_path / name)) is None
    with pytest.raises(UnusableAudioError, match=r"^no regular file$"):
        measure(str(tmp_path / "pipe.wav"))


def other_chunks(wav: bytes) -> list[bytes]:
    """Returns wavs with more chunks, or other lengths, than a simple one."""
    note = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"
    odd = b"JUNK" + struct.pack("<I", 3) + b"abc\0"
    changed = [
        wav[:36] + note + wav[36:],
        wav[:12] + odd + wav[12:],
        wav[:36] + b"abcd" + struct.pack("<I", 4) + b"1234" + wav[36:],
        wav + note,
        wav + b"\0",
        wav[:-1],
        wav[:36] + wav[12:],  # a second format chunk
        wav[:36] + b"JUNK" + struct.pack("<I", 5000) + bytes(5000) + wav[36:],
    ]
    fixed = [data[:4] + struct.pack("<I", len(data) - 8) + data[8:] for data in changed]
    lengths = [wav[:40] + struct.pack("<I", n) + wav[44:] for n in (0, 7, 0x7FFFF000, 0x80000000, 0xFFFFFFFF)]
    return [wav, *changed, *fixed, *lengths]


def test_wav_with_other_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, speech_like(0.1, 16_000), 16_000)
    plain = []
    for number, content in enumerate(other_chunks(path.read_bytes())):
        path.write_bytes(content)
        if check(path):
            plain.append(number)
    assert {0, 9, 10} <= set(plain)  # simple, and with valid chunks that are passed over


def test_changed_bytes_of_a_wav_header_never_give_another_answer(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    random = np.random.default_rng(0)
    plain = 0
    for subtype in ("PCM_16", "FLOAT"):
        soundfile.write(path, speech_like(0.05, 16_000, 2), 16_000, subtype)
        content = path.read_bytes()
        header = content.index(b"data") + 8
        for _ in range(300):
            changed = bytearray(content)
            for place in random.integers(header, size=random.integers(1, 3)):
                changed[place] = random.choice([0, 1, 2, 8, 16, 255, random.integers(256)])
            path.write_bytes(changed)
            plain += check(path)
    assert 0 < plain < 300
