"""Segments of Ogg Opus of 48 kHz equal those of the file that libsndfile decodes from its beginning."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.sounds import speech_like
from w2vlab.data.audio import ogg, opus
from w2vlab.data.audio.audio_files import AudioFile, UnusableAudioError

RATE = opus.RATE
CELT, SILK = {}, {"compression_level": 1.0}


def write(path: Path, sound: np.ndarray, **options: float) -> bytes:
    soundfile.write(path, sound, RATE, format="OGG", subtype="OPUS", **options)
    return path.read_bytes()


def page_of(number: int, flags: int, granule: int, lacing: bytes, pieces: list[bytes]) -> bytes:
    page = b"OggS\0" + bytes((flags,)) + granule.to_bytes(8, "little") + (7).to_bytes(4, "little")
    page += number.to_bytes(4, "little") + bytes(4) + bytes((len(lacing),)) + lacing + b"".join(pieces)
    return page[:22] + ogg._checksum(page).to_bytes(4, "little") + page[26:]


def packets_of(content: bytes) -> list[bytes]:
    pages = list(ogg.iter_pages(io.BytesIO(content), 0, len(content)))
    assert not any(page.is_open for page in pages)
    return [piece for page in pages for piece in page.pieces]


def pages_of(packets: list[bytes], per_page: int = 40) -> bytes:
    """Returns an Ogg file of the header, the comments and the audio packets."""
    groups = [packets[:1], packets[1:2], *(packets[n : n + per_page] for n in range(2, len(packets), per_page))]
    content, granule = b"", 0
    for number, group in enumerate(groups):
        lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes((len(packet) % 255,)) for packet in group)
        granule += sum(map(opus.num_samples, group)) if number > 1 else 0
        flags = 2 if number == 0 else 4 if number == len(groups) - 1 else 0
        content += page_of(number, flags, granule, lacing, group)
    return content


def check_segments(content: bytes, length: int = RATE // 4, number: int = 12, atol: float = 5e-7) -> np.ndarray:
    whole = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    for start in np.linspace(0, len(whole) - length, number).astype(int):
        with AudioFile(io.BytesIO(content)) as file:
            np.testing.assert_allclose(file.read(start, length), whole[start : start + length], rtol=0, atol=atol)
    return whole


@pytest.fixture(params=["PyAV", "libsndfile"])
def decoder(request, monkeypatch):
    """The decoder that is used."""
    if request.param == "PyAV":
        av = pytest.importorskip("av", reason="PyAV is not a dependency of the tests")
        assert "libopus" in av.codecs_available
        monkeypatch.setattr(AudioFile, "_decode", lambda *_: pytest.fail("libsndfile decoded"))
    else:
        monkeypatch.setattr(opus, "_pyav", lambda: None)
    return request.param


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("options", [CELT, SILK], ids=["CELT", "SILK"])
def test_segments(tmp_path, decoder, channels, options):
    content = write(tmp_path / "a.opus", speech_like(6.0, RATE, channels), **options)
    modes = {packet[0] >> 3 >= 16 for packet in packets_of(content)[2:]}
    assert modes == {options is CELT}
    check_segments(content)


def test_packets_of_several_kinds(tmp_path):
    """SILK, 3 s of CELT, and SILK again: segments of the latter depend on no packet before the CELT ones."""
    celt, silk = (packets_of(write(tmp_path / "a.opus", speech_like(3.5, RATE), **kind)) for kind in (CELT, SILK))
    content = pages_of([*celt[:2], *silk[2:152], *celt[2:152], *silk[2:]])
    check_segments(content, number=20)
    segment = opus.find_segment(io.BytesIO(content), len(content), 7 * RATE, 8 * RATE)
    assert 3.8 * RATE < segment.start < 4 * RATE
    assert not segment.is_uniform, "versions of libopus conceal the switch with other samples"
    segment = opus.find_segment(io.BytesIO(content), len(content), 3 * RATE, 4 * RATE)
    assert segment.start < 0, "SILK needs more than that"


def test_pauses_of_discontinuous_transmission_are_left_to_libsndfile(tmp_path):
    """Packets without audio are filled with noise, which is not the same in all versions of libopus."""
    packets = packets_of(write(tmp_path / "a.opus", speech_like(4.0, RATE), **SILK))
    packets[102:152] = [packet[:1] for packet in packets[102:152]]
    content = pages_of(packets)
    check_segments(content)
    assert opus.find_segment(io.BytesIO(content), len(content), 3 * RATE, 4 * RATE) is None
    assert opus.find_segment(io.BytesIO(content), len(content), 0, RATE) is not None


def test_decoding_begins_two_seconds_before_a_segment_of_celt(tmp_path):
    content = write(tmp_path / "a.opus", speech_like(6.0, RATE))
    segment = opus.find_segment(io.BytesIO(content), len(content), 5 * RATE, 6 * RATE)
    assert 0 <= 3 * RATE - segment.start < 960
    assert len(segment.packets) == pytest.approx(150, abs=2)


def test_a_long_file_is_not_read_from_its_beginning(tmp_path, decoder):
    """The packets are repeated, so that megabytes need not be encoded."""
    packets = packets_of(write(tmp_path / "a.opus", speech_like(4.0, RATE)))
    content = pages_of([*packets[:2], *(packets[2:] * 50)])
    whole = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
    read = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    for start in (20, 60 * RATE + 7, len(whole) - RATE):
        read = 0
        segment = opus.find_segment(Counted(content), len(content), start, start + RATE)
        assert 0 <= start - segment.start < 2.1 * RATE
        assert read <= 18 * ogg.MAX_PAGE < len(content)
        with AudioFile(io.BytesIO(content)) as opened:
            np.testing.assert_allclose(opened.read(start, RATE), whole[start : start + RATE], rtol=0, atol=5e-7)


def test_a_gain_in_the_header_is_applied(tmp_path, decoder):
    packets = packets_of(write(tmp_path / "a.opus", speech_like(2.0, RATE)))
    plain = pages_of(packets)
    head = packets[0][:16] + (-6 * 256).to_bytes(2, "little", signed=True) + packets[0][18:]
    softer = pages_of([head, *packets[1:]])
    ratio = np.abs(check_segments(softer)).max() / np.abs(check_segments(plain)).max()
    assert ratio == pytest.approx(10 ** (-6 / 20), rel=1e-3)


def test_packets_that_continue_on_the_next_page(tmp_path, decoder):
    packets = packets_of(write(tmp_path / "a.opus", speech_like(4.0, RATE), compression_level=0.0))
    plain = pages_of(packets)
    whole = check_segments(plain)
    # The same packets, in pages of 100 pieces of up to 255 bytes.
    pieces = [
        (packet[255 * number : 255 * (number + 1)], number == len(packet) // 255, opus.num_samples(packet))
        for packet in packets[2:]
        for number in range(len(packet) // 255 + 1)
    ]
    content, granule = plain[: plain.index(b"OggS", plain.index(b"OpusTags"))], 0
    groups = [pieces[first : first + 100] for first in range(0, len(pieces), 100)]
    assert any(not group[-1][1] for group in groups)
    for number, group in enumerate(groups):
        granule += sum(samples for _, is_end, samples in group if is_end)
        flags = (number > 0 and not groups[number - 1][-1][1]) | 4 * (number == len(groups) - 1)
        content += page_of(number + 2, flags, granule, bytes(len(data) for data, _, _ in group), [p[0] for p in group])
    np.testing.assert_allclose(check_segments(content), whole, rtol=0, atol=5e-7)


@pytest.mark.parametrize("damage", ["bytes", "page", "order"])
def test_a_damaged_page_is_left_to_libsndfile(tmp_path, damage):
    content = write(tmp_path / "a.opus", speech_like(8.0, RATE))
    pages = list(ogg.iter_pages(io.BytesIO(content), 0, len(content)))
    middle = pages[len(pages) // 2]
    before, after = content[: middle.place], content[middle.place + middle.size :]
    page = content[middle.place : middle.place + middle.size]
    if damage == "bytes":
        page = page[:100] + bytes(50) + page[150:]
    content = before + after if damage == "page" else after[:0] + before + page + after
    if damage == "order":
        content = before + after[: pages[len(pages) // 2 + 1].size] + page + after[pages[len(pages) // 2 + 1].size :]
    stop = 6 * RATE
    assert opus.find_segment(io.BytesIO(content), len(content), 0, stop) is None
    with AudioFile(io.BytesIO(content)) as file, pytest.raises(UnusableAudioError):
        file.read(0, file.num_samples)


def test_streams_of_other_shapes_are_left_to_libsndfile(tmp_path):
    sound = speech_like(2.0, RATE, 3)
    content = write(tmp_path / "a.opus", sound)
    assert opus.find_segment(io.BytesIO(content), len(content), 0, RATE) is None
    check_segments(content)
    soundfile.write(tmp_path / "a.ogg", sound[:, :1], RATE)
    content = (tmp_path / "a.ogg").read_bytes()
    assert opus.find_segment(io.BytesIO(content), len(content), 0, RATE) is None
