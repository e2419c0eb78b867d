"""Segments of files of all formats equal those of the fully decoded files."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.sounds import flac_of_a_pipe, speech_like, wav_of_a_pipe, with_tags, without_index, write_mp3
from w2vlab.data.audio.audio_files import PRE_ROLL, AudioFile, UnusableAudioError
from w2vlab.data.audio.probing import probe

OPUS = (8000, 16_000, 24_000, 48_000)
"""Rates that Opus is encoded from."""


def stretches(num_samples: int, length: int) -> list[int]:
    """Returns starts at the beginning, in the middle, and many in the last second or so."""
    last = num_samples - length
    return [0, 1, last // 2, *np.linspace(max(0, last - 12 * length), last, 7).astype(int).tolist()]


def check_stretches(path: Path) -> np.ndarray:
    """Compares segments with the fully decoded file, and returns the latter."""
    info = probe(path)
    with AudioFile(path, info.num_samples) as file:
        whole = file.read(0, info.num_samples)
    length = info.sampling_rate // 10
    for start in stretches(info.num_samples, length):
        with AudioFile(path, info.num_samples) as file:
            # mp3 decoders have other rounding errors after a seek.
            np.testing.assert_allclose(file.read(start, length), whole[start : start + length], rtol=0, atol=2e-7)
    return whole


SHAPES = [(8000, 1), (16_000, 1), (24_000, 2), (44_100, 2), (48_000, 8), (96_000, 1)]


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [
        (kind, *shape)
        for kind in ("wav", "flac", "ogg", "opus")
        for shape in SHAPES
        if kind != "opus" or shape[0] in OPUS
    ],
)
def test_segments_of_files(tmp_path, kind, rate, channels):
    sound = speech_like(2.3 if channels == 8 else 4.1, rate, channels)
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, sound, rate, **({"format": "OGG", "subtype": "OPUS"} if kind == "opus" else {}))
    whole = check_stretches(path)
    assert whole.shape == sound.shape
    np.testing.assert_array_equal(whole, soundfile.read(path, dtype="float32", always_2d=True)[0])
    if kind in ("wav", "flac"):
        np.testing.assert_allclose(whole, sound, rtol=0, atol=2**-14)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16_000, 1), (22_050, 2), (44_100, 2), (48_000, 1)])
@pytest.mark.parametrize("constant", [False, True])
def test_segments_of_mp3(tmp_path, rate, channels, constant, capfd):
    sound = speech_like(4.1, rate, channels)
    path = write_mp3(tmp_path / "a.mp3", sound, rate, constant)
    indexed = check_stretches(path)
    assert indexed.shape == sound.shape
    path.write_bytes(with_tags(path.read_bytes()))
    np.testing.assert_array_equal(check_stretches(path), indexed)
    assert not capfd.readouterr().err


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
def test_segments_of_mp3_of_the_lowest_bit_rate(tmp_path, rate):
    """The smaller its frames are, the more of them the bits of one are spread over."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, speech_like(6.0, rate), rate, compression_level=0.9, bitrate_mode="VARIABLE")
    whole = check_stretches(path)
    length = rate // 10
    for start in np.random.default_rng(0).integers(rate, len(whole) - length, 20):
        with AudioFile(path) as file:
            np.testing.assert_allclose(file.read(start, length), whole[start : start + length], rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("rate", "frame", "channels"), [(8000, 576, 1), (16_000, 576, 1), (44_100, 1152, 2), (48_000, 1152, 1)]
)
@pytest.mark.parametrize("constant", [False, True])
def test_mp3_without_an_info_header_is_read_to_its_end(tmp_path, rate, frame, channels, constant, capfd):
    sound = speech_like(4.1, rate, channels)
    plain = without_index(write_mp3(tmp_path / "a.mp3", sound, rate, constant).read_bytes())
    for name, content in (("plain", plain), ("tags", with_tags(plain))):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(content)
        whole = check_stretches(path)
        # Without the header decoders return complete frames, including the delay of the encoder.
        assert len(whole) % frame == 0
        assert len(sound) < len(whole) < len(sound) + 4 * frame
    delay = np.argmax(np.correlate(whole[: rate // 2 + 3000, 0], sound[: rate // 2, 0], "valid"))
    assert abs(delay - 1105) < 40
    after = whole[delay : delay + len(sound)]
    assert np.abs(after - sound[: len(after)]).mean() < 0.4 * np.abs(sound).mean()
    assert not capfd.readouterr().err


def test_concatenated_mp3s_are_read_to_the_end(tmp_path):
    one = write_mp3(tmp_path / "a.mp3", speech_like(2.0, 16_000), 16_000, constant=False)
    (tmp_path / "two.mp3").write_bytes(2 * one.read_bytes())
    assert len(check_stretches(tmp_path / "two.mp3")) > 2 * 2.0 * 16_000


@pytest.mark.parametrize("channels", [1, 8])
def test_flac_from_a_pipe(tmp_path, channels):
    sound = speech_like(2.3, 16_000, channels)
    soundfile.write(tmp_path / "a.flac", sound, 16_000)
    (tmp_path / "pipe.flac").write_bytes(flac_of_a_pipe((tmp_path / "a.flac").read_bytes()))
    np.testing.assert_array_equal(check_stretches(tmp_path / "pipe.flac"), check_stretches(tmp_path / "a.flac"))


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFEFFC, 0x80000000])
def test_wav_from_a_pipe(tmp_path, length):
    sound = speech_like(1.0, 16_000, 2)
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    (tmp_path / "pipe.wav").write_bytes(wav_of_a_pipe((tmp_path / "a.wav").read_bytes(), length))
    np.testing.assert_array_equal(check_stretches(tmp_path / "pipe.wav"), check_stretches(tmp_path / "a.wav"))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_an_open_file_is_read_like_its_path(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, speech_like(3.0, 16_000), 16_000)
    with AudioFile(path) as file, AudioFile(io.BytesIO(path.read_bytes())) as opened:
        np.testing.assert_array_equal(file.read(40_000, 3000), opened.read(40_000, 3000))


@pytest.mark.parametrize(("kind", "subtype"), [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")])
def test_the_pre_roll_is_needed(tmp_path, monkeypatch, kind, subtype):
    """Without it segments are wrong, so the tests above do test it."""
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, speech_like(4.1, 44_100), 44_100)
    check_stretches(path)
    monkeypatch.setitem(PRE_ROLL, subtype, 0.0)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check_stretches(path)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.flac", {}),
        ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"compression_level": 0.6}),
    ],
)
def test_damaged_audio_is_never_returned(tmp_path, name, written):
    """With 200 overwritten bytes a segment is either correct or an error, if the format has checksums."""
    path = tmp_path / name
    soundfile.write(path, speech_like(6.0, 16_000), 16_000, **written)
    whole = check_stretches(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(content)
    reasons = []
    for start in range(0, len(whole) - 8000, 4000):
        try:
            with AudioFile(path) as file:
                found = file.read(start, 8000)
        except UnusableAudioError as error:
            reasons.append(str(error))
        else:
            np.testing.assert_allclose(found, whole[start : start + 8000], rtol=0, atol=2e-7)
    assert set(reasons) == {"damaged"}
    assert len(reasons) < 20


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name in ("pipe.wav", "folder.wav"):
        reasons = []

        def look(name: str = name, reasons: list[str] = reasons) -> None:
            with pytest.raises(UnusableAudioError) as error:
                AudioFile(tmp_path / name)
            reasons.append(str(error.value))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(timeout=30)
        assert reasons == ["no regular file"]
