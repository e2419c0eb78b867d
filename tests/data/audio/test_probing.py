from __future__ import annotations

import struct
from pathlib import Path

import pytest
import soundfile

from tests.data.conftest import write_ramp
from tests.data.sounds import speech_like
from w2vlab.data.audio.probing import AudioInfo, UnusableAudioError, probe


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_reads_the_header_of_every_format(tmp_path, extension):
    info = probe(write_ramp(tmp_path / f"a.{extension}", 0.5, rate=8000, channels=2))
    assert (info.sampling_rate, info.num_channels) == (8000, 2)
    assert info.num_samples == pytest.approx(4000, abs=1200)  # mp3 pads


def test_opus(tmp_path):
    path = write_ramp(tmp_path / "a.wav", 0.5)
    audio, rate = soundfile.read(path)
    soundfile.write(tmp_path / "a.opus", audio, rate, format="OGG", subtype="OPUS")
    assert probe(tmp_path / "a.opus").num_channels == 1


def reason(path: Path) -> str:
    with pytest.raises(UnusableAudioError) as error:
        probe(path)
    return str(error.value)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated(tmp_path, extension, share):
    path = write_ramp(tmp_path / f"a.{extension}", 3.0)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert reason(path) == "truncated"


def test_missing_empty_garbage_and_no_samples(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "garbage.flac").write_bytes(b"not audio at all" * 20)
    assert reason(tmp_path / "absent.wav") == "missing"
    assert reason(tmp_path / "empty.wav") == "empty"
    assert reason(tmp_path / "garbage.flac") == "unreadable"
    assert reason(write_ramp(tmp_path / "none.wav", 0.0)) == "without samples"


def test_wav_with_other_chunks_or_unknown_length_is_complete(tmp_path):
    plain = write_ramp(tmp_path / "a.wav", 0.5).read_bytes()
    odd_chunk = b"note" + struct.pack("<I", 3) + b"abc\0"
    (tmp_path / "chunk.wav").write_bytes(plain[:36] + odd_chunk + plain[36:])
    (tmp_path / "pipe.wav").write_bytes(plain[:40] + b"\xff\xff\xff\xff" + plain[44:])
    whole = AudioInfo(16_000, 8000, 1)
    assert probe(tmp_path / "chunk.wav") == whole
    assert probe(tmp_path / "pipe.wav") == whole
    (tmp_path / "short.wav").write_bytes((tmp_path / "chunk.wav").read_bytes()[:-100])
    assert reason(tmp_path / "short.wav") == "truncated"


@pytest.mark.parametrize("rate", [1, 3999, 384_001, 2_000_000_000])
def test_invalid_sampling_rates(tmp_path, rate):
    content = bytearray(write_ramp(tmp_path / "a.wav", 0.5).read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    assert reason(tmp_path / "a.wav") == "with a sampling rate outside 4000 to 384000 Hz"


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_ogg(tmp_path, share):
    path = write_ramp(tmp_path / "a.ogg", 9.0)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert reason(path) == "truncated"
    path.write_bytes(content[: content.rfind(b"OggS")])  # between two pages
    assert reason(path) == "truncated"


def test_concatenated_ogg_files(tmp_path):
    content = write_ramp(tmp_path / "a.ogg", 1.0).read_bytes()
    (tmp_path / "two.ogg").write_bytes(content + write_ramp(tmp_path / "b.ogg", 1.0).read_bytes())
    assert reason(tmp_path / "two.ogg") == "several streams in one Ogg file, not read: write one each"


def test_truncated_rf64(tmp_path):
    audio, rate = soundfile.read(write_ramp(tmp_path / "a.wav", 0.5))
    soundfile.write(tmp_path / "b.wav", audio, rate, format="RF64")
    content = (tmp_path / "b.wav").read_bytes()
    assert probe(tmp_path / "b.wav") == AudioInfo(16_000, 8000, 1)
    (tmp_path / "b.wav").write_bytes(content[:-1000])
    assert reason(tmp_path / "b.wav") == "truncated"


def test_an_implausible_xing_header(tmp_path):
    path = tmp_path / "a.mp3"
    soundfile.write(path, speech_like(9.0, 16_000), 16_000, compression_level=0.6)
    content = bytearray(path.read_bytes())
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    for frames in (10, 20_000):
        content[place : place + 4] = struct.pack(">I", frames)
        path.write_bytes(content)
        assert reason(path) == "damaged"
