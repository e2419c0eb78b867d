"""The prompts of Asterisk, from packages of fake programs, and G.722 against its source."""

from __future__ import annotations

import gzip
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.data.corpora.packaged.test_apt import APT_GET
from tests.data.sounds import speech_like
from w2vlab.data.audio.audio_files import UnusableAudioError
from w2vlab.data.corpora import sample_corpora
from w2vlab.data.corpora.packaged import asterisk, g722
from w2vlab.data.labels.transcripts import read_transcripts

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV, the extra `av`")

TEXTS = """\ufeff; Core sounds

hello: Hallo,  Welt!
digits/1: eins: zwei
silence/2: (2 seconds of silence)
beep: un suono beep
odd: [monkeys]
said: word [with a remark]
without-audio: nothing
"""


def write_g722(path: Path, sound: np.ndarray) -> Path:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000)
        stream.layout = "mono"
        samples = np.round(sound * 2**15).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@needs_av
@pytest.mark.parametrize("length", [16_000, 12_345])
def test_the_delay_of_the_codec_is_removed(tmp_path: Path, length: int) -> None:
    sound = speech_like(1.0, 16_000)[:length, 0]
    path = write_g722(tmp_path / "a.g722", sound)
    decoded = g722.decode(path) / 2**15
    assert len(decoded) == length + length % 2 - g722.DELAY
    errors = [np.square(decoded[100:-100] - sound[100 + lag :][: len(decoded) - 200]).mean() for lag in range(-5, 6)]
    assert int(np.argmin(errors)) == 5  # at no lag
    assert min(errors) < 0.01 * np.square(sound).mean()


@needs_av
@pytest.mark.parametrize("data", [b"", b"\x00" * 4])
def test_a_file_without_samples(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.g722").write_bytes(data)
    with pytest.raises(UnusableAudioError):
        g722.decode(tmp_path / "a.g722")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake apt-get and dpkg with two packages."""
    if importlib.util.find_spec("av") is None:
        pytest.skip("needs PyAV, the extra `av`")
    monkeypatch.setattr(asterisk, "NUM_FILES", 5)
    audio = tmp_path / "unpacked" / "g722" / "usr/share/asterisk/sounds/it_IT_m_Carlo"
    for number, name in enumerate(("hello", "digits/1", "silence/2", "beep", "odd", "said", "untold")):
        write_g722(audio / f"{name}.g722", speech_like(0.3 + number / 10, 16_000)[:, 0])
    texts = tmp_path / "unpacked" / "texts" / "usr/share/doc/asterisk-core-sounds-it"
    texts.mkdir(parents=True)
    (texts / "core-sounds-it.txt.gz").write_bytes(gzip.compress(TEXTS.encode()))
    programs = tmp_path / "bin"
    programs.mkdir()
    packages = "echo 1 > asterisk-core-sounds-it-g722_1.deb; echo 2 > asterisk-core-sounds-it_1.deb"
    copies = f'case "$2" in *-g722_1.deb) kind=g722;; *) kind=texts;; esac; cp -r {tmp_path}/unpacked/$kind/. "$3"'
    scripts = {
        "apt-get": APT_GET.format(update=":", download=packages),
        "dpkg": f'#!/bin/sh\nmkdir -p "$3"\n{copies}\n',
    }
    for name, script in scripts.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_speech_with_its_texts(system: Path, cache: Path) -> None:
    folder = sample_corpora.fetch("asterisk-it", cache)
    assert folder == sample_corpora.locate("asterisk-it", cache)
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.flac"))
    assert found == ["digits/1.flac", "hello.flac", "said.flac"]
    info = soundfile.info(folder / "hello.flac")
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (16_000, 1, "PCM_16", 4_800 - 22)
    transcripts = read_transcripts(folder, "characters")
    assert transcripts.get("hello.flac") == "hallo welt"
    assert transcripts.get("digits/1.flac") == "eins zwei"
    downloads = system.read_text().count("download asterisk")
    assert sample_corpora.fetch("asterisk-it", cache) == folder
    assert system.read_text().count("download asterisk") == downloads
    assert not (cache / "corpora" / "asterisk-core-sounds-it-g722").exists()


def test_a_prompt_that_cannot_be_decoded_leaves_no_half_corpus(system: Path, cache: Path, monkeypatch) -> None:
    def broken(path: Path) -> np.ndarray:
        raise UnusableAudioError("unreadable")

    with monkeypatch.context() as patch:
        patch.setattr(g722, "decode", broken)
        with pytest.raises(ValueError, match=r"1\.g722 must be G\.722, but is unreadable"):
            sample_corpora.fetch("asterisk-it", cache)
    assert not (cache / "corpora" / "asterisk-it").exists()
    assert sample_corpora.fetch("asterisk-it", cache).is_dir()


def test_without_pyav(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_corpora, "apt_available", lambda: True)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install 'w2vlab\[av\]'"):
        sample_corpora.fetch("asterisk-it", cache)


def test_without_apt(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_corpora, "apt_available", lambda: False)
    with pytest.raises(ValueError, match=r"^`corpus` 'asterisk-ru' needs apt-get and dpkg"):
        sample_corpora.fetch("asterisk-ru", cache)
