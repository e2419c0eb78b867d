"""Windows of utterances equal those of the full utterance, at 16 kHz."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, MultiCut, Recording
from lhotse.audio import AudioSource
from lhotse.audio import backend as lhotse_audio
from lhotse.cut import Cut

from tests.data.sounds import speech_like, write_mp3
from w2vlab.data.batches.crops import Window, choose_windows
from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.batches.reading import read_window
from w2vlab.data.corpora.manifests import prepare_manifest
from w2vlab.data.corpora.utterances import Utterances, num_samples
from w2vlab.types import RandomAddress


def check_windows(cut: Cut, length: int = 3000) -> np.ndarray:
    """Compares windows with the full utterance, and returns the latter."""
    whole = read_window(cut, Window(0, num_samples(cut)))
    assert whole.shape == (num_samples(cut),)
    last = len(whole) - length
    for start in (0, 1, 997, last // 2, last - 1, last):
        found = read_window(cut, Window(start, length))
        np.testing.assert_allclose(found, whole[start : start + length], rtol=0, atol=1e-6)
    return whole


def recording(path: Path, seconds: float, rate: int, channels: int = 1) -> Recording:
    soundfile.write(path, speech_like(seconds, rate, channels), rate)
    return Recording.from_file(path)


@pytest.mark.parametrize(
    ("rate", "kind"),
    [
        (8000, "wav"),
        (11_025, "flac"),
        (16_000, "wav"),
        (22_050, "ogg"),
        (22_254, "flac"),
        (44_100, "wav"),
        (48_000, "ogg"),
    ],
)
def test_windows_of_every_rate(tmp_path, rate, kind):
    """At 44.1 kHz, cutting before resampling would shift a window by up to half a sample of the file."""
    cut = recording(tmp_path / f"a.{kind}", 2.013, rate).to_cut()
    whole = check_windows(cut)
    assert abs(len(whole) - 2.013 * 16_000) <= 1
    if rate in (8000, 16_000, 44_100):
        np.testing.assert_allclose(whole, cut.resample(16_000).load_audio()[0], rtol=0, atol=1e-6)


def test_random_crops_of_an_mp3(tmp_path, cache):
    """Its frames depend on previous ones: without a pre-roll most crops have errors as large as the signal."""
    (tmp_path / "corpus").mkdir()
    write_mp3(tmp_path / "corpus" / "a.mp3", speech_like(4.0, 16_000), 16_000, constant=False)
    (cut,) = Utterances(prepare_manifest(tmp_path / "corpus", cache).cuts, 1)
    whole = soundfile.read(tmp_path / "corpus" / "a.mp3", dtype="float32")[0]
    dataset = SpeechDataset(16_000, crop_to_shortest=True, seed=0, random=True)
    starts = set()
    for epoch in range(20):
        waveform = dataset.read([cut], epoch).waveform[0].numpy()
        address = RandomAddress(seed=0, update=epoch, ids=("a.mp3",), stream="train")
        (window,) = choose_windows([len(whole)], 16_000, True, address)
        np.testing.assert_allclose(waveform, whole[window.start :][:16_000], rtol=0, atol=2e-7)
        starts.add(window.start)
    assert len(starts) > 15


def test_a_cut_is_resampled_by_itself(tmp_path):
    source = recording(tmp_path / "a.wav", 3.0, 44_100)
    cut = MonoCut("cut", start=1.0, duration=1.2, channel=0, recording=source)
    whole = check_windows(cut)
    np.testing.assert_allclose(whole, cut.resample(16_000).load_audio()[0], rtol=0, atol=1e-6)


def test_a_cut_rounded_beyond_its_recording(tmp_path):
    source = recording(tmp_path / "a.wav", 1.0, 8000)
    cut = MonoCut("cut", start=100.5 / 8000, duration=1.0 - 100.5 / 8000, channel=0, recording=source)
    assert len(check_windows(cut)) == num_samples(cut)


def test_channels_of_a_file_and_of_several(tmp_path):
    stereo = recording(tmp_path / "stereo.wav", 1.0, 16_000, channels=2)
    sound = soundfile.read(tmp_path / "stereo.wav", dtype="float32")[0]
    right = MonoCut("right", start=0, duration=1.0, channel=1, recording=stereo)
    np.testing.assert_array_equal(check_windows(right), sound[:, 1])
    both = MultiCut("both", start=0, duration=1.0, channel=[0, 1], recording=stereo)
    np.testing.assert_array_equal(check_windows(both), sound.mean(axis=1))
    for channel in (0, 1):
        soundfile.write(tmp_path / f"{channel}.wav", sound[:, channel], 16_000)
    sources = [AudioSource("file", [channel], str(tmp_path / f"{channel}.wav")) for channel in (0, 1)]
    apart = Recording("apart", sources, 16_000, 16_000, 1.0)
    np.testing.assert_allclose(check_windows(apart.to_cut()), sound.mean(axis=1), rtol=0, atol=1e-4)
    np.testing.assert_allclose(check_windows(replace(right, recording=apart)), sound[:, 1], rtol=0, atol=1e-4)


def test_lhotse_uses_our_decoders(tmp_path):
    """From memory, with a transform: lhotse's own decoders are in a wrong state after a seek in an mp3."""
    path = write_mp3(tmp_path / "a.mp3", speech_like(4.0, 16_000), 16_000, constant=False)
    expected = check_windows(Recording.from_file(path).to_cut())
    in_memory = Recording.from_bytes(path.read_bytes(), "memory")
    np.testing.assert_array_equal(check_windows(in_memory.to_cut()), expected)
    before = lhotse_audio.get_current_audio_backend()
    louder = Recording.from_file(path).perturb_volume(1.5)
    np.testing.assert_allclose(check_windows(louder.to_cut()), 1.5 * expected, rtol=0, atol=1e-6)
    assert lhotse_audio.get_current_audio_backend() is before


class OtherDecoder(lhotse_audio.AudioBackend):
    """Returns audio for any file, like the decoder that lhotse falls back to for damaged files."""

    def read_audio(self, path_or_fd, offset=0.0, duration=None, force_opus_sampling_rate=None):
        return np.zeros((1, round((duration or 2.0) * 16_000)), np.float32), 16_000


@pytest.mark.parametrize("louder", [False, True])
def test_damaged_audio_raises_where_lhotse_would_fall_back_to_another_decoder(tmp_path, louder, monkeypatch):
    path = tmp_path / "a.flac"
    source = recording(path, 2.0, 16_000)
    good = recording(tmp_path / "b.flac", 2.0, 16_000)
    content = bytearray(path.read_bytes())

    content[len(content) // 2 : len(content) // 2 + 200] = np.random.default_rng(0).bytes(200)
    path.write_bytes(content)
    monkeypatch.setattr(lhotse_audio, "CURRENT_AUDIO_BACKEND", OtherDecoder())
    cuts = [(item.perturb_volume(1.5) if louder else item).to_cut() for item in (source, good)]
    dataset = SpeechDataset(64_000, crop_to_shortest=True, seed=0, random=False)
    assert dataset.read(cuts).num_samples == (32_000,)
    assert dataset.skipped.counts == {"damaged": 1}


def test_a_file_replaced_by_a_pipe_or_truncated_is_left_out(tmp_path):

    cuts = [recording(tmp_path / f"{name}.wav", 1.0, 16_000).to_cut() for name in "abc"]
    (tmp_path / "a.wav").unlink()
    os.mkfifo(tmp_path / "a.wav")
    soundfile.write(tmp_path / "b.wav", np.zeros(15_999), 16_000)
    dataset = SpeechDataset(64_000, crop_to_shortest=True, seed=0, random=False)
    assert dataset.read(cuts).ids == ("c",)
    assert dataset.skipped.counts == {"no regular file": 1, "shorter than when it was scanned": 1}
