"""What is read without a decoder equals what the decoder reports."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.sounds import speech_like, with_tags, without_index, write_mp3
from w2vlab.data.audio import vorbis
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
        ("flac", {}),
        ("ogg", {"subtype": "OPUS"}),
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


def damages(content: bytes, random: np.random.Generator) -> list[bytes]:
    """Returns a file with everything that happens to files: cut, overwritten, with missing and additional bytes."""
    size = len(content)
    found = [content[: int(random.integers(size))], content[: -int(random.integers(1, 40))], content + b"\0" * 20]
    found.append(content + content)
    for reach in (70, 400, 5000, size, size):
        place, length = int(random.integers(min(reach, size))), int(random.integers(1, 300))
        other = random.bytes(length)
        found += [
            content[:place] + other[:1] + content[place + 1 :],
            content[:place] + other + content[place + length :],
            content[:place] + content[place + length :],
            content[:place] + other + content[place:],
        ]
    place = max(0, size - int(random.integers(1, 2000)))
    found.append(content[:place] + random.bytes(20) + content[place + 20 :])
    return found


@pytest.mark.parametrize("kind", ["ogg", "mp3"])
def test_damaged_files_never_give_another_answer(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"a.{kind}"
    random = np.random.default_rng(0)
    plain = 0
    for rate, channels, seconds in ((16_000, 1, 3.0), (8000, 2, 1.7), (44_100, 1, 0.5), (16_000, 1, 0.1)):
        soundfile.write(path, speech_like(seconds, rate, channels), rate)
        content = path.read_bytes()
        probe(path)
        assert check(path)
        for damaged in damages(content, random):
            path.write_bytes(damaged)
            plain += check(path)
    assert plain < 70
    capfd.readouterr()  # messages of the decoder


@pytest.mark.parametrize("constant", [True, False])
def test_mp3_with_and_without_tags(tmp_path: Path, constant: bool) -> None:
    path = write_mp3(tmp_path / "a.mp3", speech_like(2.0, 24_000), 24_000, constant)
    content = path.read_bytes()
    tagged = with_tags(content)
    for number, other in enumerate((content, tagged[:3010] + content, tagged, without_index(content), content[:-200])):
        path.write_bytes(other)
        assert check(path) == (number < 2)


def test_vorbis_is_left_to_the_decoder_until_its_kind_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vorbis, "_known", {})
    for number, quality in enumerate((0.3, 0.3, 0.8)):
        soundfile.write(tmp_path / f"{number}.ogg", speech_like(1 + number, 16_000), 16_000, compression_level=quality)
    assert not check(tmp_path / "0.ogg")
    assert probe(tmp_path / "0.ogg").num_samples == 16_000
    assert check(tmp_path / "0.ogg")
    assert check(tmp_path / "1.ogg")
    assert not check(tmp_path / "2.ogg")


def test_a_vorbis_that_was_cut_out_of_another_is_left_to_the_decoder(tmp_path: Path) -> None:
    """Its first page has the position in the other one."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, speech_like(4.0, 16_000), 16_000)
    probe(path)
    content = path.read_bytes()
    pages = [match.start() for match in re.finditer(b"OggS", content)]
    assert len(pages) > 4
    path.write_bytes(content[: pages[2]] + content[pages[3] :])
    assert not check(path)
    assert probe(path).num_samples < 64_000
