"""Audio that other programs write, to files and to pipes; programs that are not installed are skipped."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.audio.test_audio_files import check_stretches
from tests.data.sounds import speech_like
from w2vlab.data.audio.probing import UnusableAudioError, probe

FFMPEG = "ffmpeg -v error -y -i IN"
WRITERS = {
    "ffmpeg wav": f"{FFMPEG} OUT.wav",
    "ffmpeg wav pipe": f"{FFMPEG} -f wav - | cat > OUT.wav",
    "ffmpeg flac": f"{FFMPEG} OUT.flac",
    "ffmpeg flac pipe": f"{FFMPEG} -f flac - | cat > OUT.flac",
    "ffmpeg vorbis": f"{FFMPEG} -c:a libvorbis OUT.ogg",
    "ffmpeg vorbis pipe": f"{FFMPEG} -c:a libvorbis -f ogg - | cat > OUT.ogg",
    "ffmpeg opus": f"{FFMPEG} -c:a libopus OUT.opus",
    "ffmpeg opus pipe": f"{FFMPEG} -c:a libopus -f ogg - | cat > OUT.opus",
    "ffmpeg mp3 constant": f"{FFMPEG} -b:a 64k OUT.mp3",
    "ffmpeg mp3 constant, no index": f"{FFMPEG} -b:a 64k -write_xing 0 OUT.mp3",
    "ffmpeg mp3 variable": f"{FFMPEG} -q:a 5 OUT.mp3",
    "ffmpeg mp3 variable, no index": f"{FFMPEG} -q:a 5 -write_xing 0 OUT.mp3",
    "ffmpeg mp3 pipe": f"{FFMPEG} -q:a 5 -f mp3 - | cat > OUT.mp3",
    "ffmpeg mp3 tags": f"{FFMPEG} -q:a 5 -metadata title={'x' * 999} -id3v2_version 3 -write_id3v1 1 OUT.mp3",
    "ffmpeg mp3 ID3v1": f"{FFMPEG} -q:a 5 -write_xing 0 -id3v2_version 0 -write_id3v1 1 OUT.mp3",
    "sox wav pipe": "sox IN -t wav - | cat > OUT.wav",
    "sox flac": "sox IN OUT.flac",
    "sox flac pipe": "sox IN -t flac - | cat > OUT.flac",
    "sox vorbis pipe": "sox IN -t ogg - | cat > OUT.ogg",
    "sox mp3": "sox IN OUT.mp3",
    "sox mp3 pipe": "sox IN -C -4.2 -t mp3 - | cat > OUT.mp3",
}
LOSSLESS = {"wav", "flac"}


def write(writer: str, sound: np.ndarray, rate: int, folder: Path) -> Path:
    command = WRITERS[writer]
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    soundfile.write(folder / "in.wav", sound, rate, subtype="PCM_16")
    command = command.replace("IN", str(folder / "in.wav")).replace("OUT", str(folder / "out"))
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not written: {done.stderr.strip()[-100:]}")
    return next(folder.glob("out.*"))


SHAPES = [(8000, 1), (16_000, 1), (44_100, 2), (48_000, 1), (22_050, 2)]
MANY_CHANNELS = ["ffmpeg flac pipe", "ffmpeg vorbis", "sox wav pipe"]


@pytest.mark.parametrize(
    ("writer", "rate", "channels"),
    [(writer, *SHAPES[(n + more) % 5]) for n, writer in enumerate(WRITERS) for more in (0, 1)]
    + [(writer, 48_000, 8) for writer in MANY_CHANNELS],
)
def test_files_of_other_programs(tmp_path, writer, rate, channels, capfd):
    sound = speech_like(2.4, rate, channels)
    path = write(writer, sound, rate, tmp_path)
    whole = check_stretches(path)
    assert not capfd.readouterr().err
    written = soundfile.read(tmp_path / "in.wav", dtype="float32", always_2d=True)[0]
    own_rate = probe(path).sampling_rate
    if path.suffix[1:] in LOSSLESS:
        np.testing.assert_array_equal(whole, written)
    else:
        # An mp3 without a Xing/Info header includes the delays of encoder and decoder, and has complete frames.
        assert -1 <= len(whole) - len(written) * own_rate / rate <= 4 * 1152
    if path.suffix == ".mp3" and shutil.which("ffmpeg"):
        command = ["ffmpeg", "-v", "error", "-i", path, "-f", "f32le", "-"]
        theirs = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
        assert theirs.size == whole.size


def test_ogg_flac_is_reported_with_a_conversion_command(tmp_path):
    if shutil.which("ffmpeg") is None:
        # The beginning of such a file: the header of a page, and that of the stream.
        page = b"OggS\0\2" + bytes(20) + b"\1\x33\x7fFLAC\1\0\0\1fLaC" + bytes(38)
        (tmp_path / "a.ogg").write_bytes(page)
    else:
        soundfile.write(tmp_path / "a.wav", speech_like(1.0, 16_000), 16_000)
        command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "flac", "-f", "ogg", tmp_path / "a.ogg"]
        subprocess.run(command, check=True)
    with pytest.raises(UnusableAudioError, match=r"^FLAC in Ogg, not read: unpack with `ffmpeg -i X\.ogg -c:a copy"):
        probe(tmp_path / "a.ogg")
    if shutil.which("ffmpeg"):
        unpack = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.ogg", "-c:a", "copy", tmp_path / "a.flac"]
        subprocess.run(unpack, check=True)
        assert len(check_stretches(tmp_path / "a.flac")) == 16_000
