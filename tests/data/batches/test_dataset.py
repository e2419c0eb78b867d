from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from lhotse import Recording

from tests.data.conftest import RATE, start_of, write_ramp
from w2vlab.data.batches.crops import choose_windows
from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.batches.sampling import BatchPlan, Members
from w2vlab.types import RandomAddress, RunError


def cut_of(path):
    return Recording.from_file(path).to_cut()


def read(cuts, *, substitute=(), epoch=0, max_samples=4000, crop_to_shortest=True, random=True, counted=True):
    dataset = SpeechDataset(max_samples, crop_to_shortest, seed=0, random=random, utterances=[*cuts, *substitute])
    return dataset[plan_of(cuts, substitute, epoch, counted)]


def plan_of(cuts, substitute=(), epoch=0, counted=True):
    numbers = tuple(range(len(cuts) + len(substitute)))
    members, others = numbers[: len(cuts)], numbers[len(cuts) :]
    return BatchPlan(epoch, Members(members, (0,) * len(members)), Members(others, (0,) * len(others)), counted)


@pytest.fixture
def cuts(tmp_path):
    return [cut_of(write_ramp(tmp_path / f"u{n}.wav", 0.3 + n / 10)) for n in range(3)]


def test_reads_the_windows_of_the_address(cuts):
    for epoch in range(3):
        batch = read(cuts, epoch=epoch)
        windows = choose_windows(
            [4800, 6400, 8000], 4000, True, RandomAddress(seed=0, update=epoch, ids=("u0", "u1", "u2"))
        )
        assert batch.ids == ("u0", "u1", "u2")
        assert (batch.num_samples, batch.waveform.shape) == ((4000,) * 3, (3, 4000))
        for row, window in zip(batch.waveform, windows, strict=True):
            expected = torch.arange(window.start, window.start + 4000) / 2**15
            torch.testing.assert_close(row, expected, rtol=0, atol=0)


def test_a_window_does_not_depend_on_its_batch(cuts):
    assert torch.equal(read(cuts).waveform[1], read(cuts[1:]).waveform[0])


def test_pads_when_not_cropping_to_the_shortest(cuts):
    batch = read(cuts, crop_to_shortest=False, max_samples=7000)
    assert (batch.num_samples, batch.waveform.shape) == ((4800, 6400, 7000), (3, 7000))
    assert not batch.waveform[0, 4800:].any()
    assert batch.waveform[0, 4799] > 0
    assert batch.seconds == (4800 + 6400 + 7000) / RATE


def test_validation_takes_the_middle_in_every_epoch(cuts):
    batches = [read(cuts, random=False, epoch=epoch) for epoch in range(2)]
    assert [start_of(row) for row in batches[0].waveform] == [400, 1200, 2000]
    assert torch.equal(batches[0].waveform, batches[1].waveform)


def test_a_batch_has_the_count_flag_of_its_plan(cuts):
    assert read(cuts).counted
    repeated = read(cuts, random=False, counted=False)
    assert not repeated.counted
    assert torch.equal(repeated.waveform, read(cuts, random=False).waveform)


def test_only_the_window_is_read(cuts, monkeypatch):
    frames = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, *a, **k: frames.append(k["frames"]) or original(self, *a, **k)
    )
    read(cuts, max_samples=1000)
    assert frames == [1000] * 3


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_resamples_to_16_khz_without_changing_pitch_or_length(tmp_path, rate):
    times = np.arange(rate) / rate
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * times), rate)
    batch = read([cut_of(tmp_path / "tone.wav")], max_samples=8000)
    assert batch.waveform.shape == (1, 8000)
    spectrum = torch.fft.rfft(batch.waveform[0]).abs()
    assert int(spectrum.argmax()) == 500  # 2 Hz a bin
    assert float(batch.waveform[0, 100:-100].abs().max()) == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged(tmp_path):
    samples = np.stack([np.full(4000, 0.5), np.full(4000, -0.25)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", samples, RATE)
    batch = read([cut_of(tmp_path / "stereo.wav")])
    torch.testing.assert_close(batch.waveform, torch.full((1, 4000), 0.125), rtol=0, atol=1e-4)


def test_without_audio_batches_are_silence_of_the_same_windows(cuts, tmp_path):
    """No file is opened, as none is there."""
    expected = read(cuts, crop_to_shortest=False, epoch=1)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    dataset = SpeechDataset(4000, False, seed=0, random=True, read_audio=False, utterances=cuts)
    batch = dataset[plan_of(cuts, epoch=1)]
    assert (batch.ids, batch.num_samples, batch.starts) == (expected.ids, expected.num_samples, expected.starts)
    assert batch.utterance_samples == expected.utterance_samples == (4800, 6400, 8000)
    assert batch.waveform.shape == expected.waveform.shape
    assert not batch.waveform.any()
    assert dataset.skipped.total == 0


def test_unreadable_files_are_left_out_and_counted(cuts, tmp_path, caplog):
    (tmp_path / "u0.wav").unlink()
    samples = np.zeros(6400, dtype=np.float32)
    samples[6000] = np.nan
    soundfile.write(tmp_path / "u1.wav", samples, RATE, subtype="FLOAT")
    batch = read(cuts, max_samples=4800 * 2, crop_to_shortest=False)
    assert (batch.ids, batch.num_samples) == (("u2",), (8000,))
    messages = [record.message for record in caplog.records if "in this process so far" in record.message]
    assert "1 missing (u0); the last one was u0 (missing)" in messages[0]
    assert "1 missing (u0); 1 with NaN or infinite samples (u1); the last one was u1 (with NaN or" in messages[1]


@pytest.mark.parametrize("rate", [RATE, 8000])
@pytest.mark.parametrize("peak", [2.0**31, -1.1e10, 1e30, 3e38])
def test_samples_that_would_cost_the_update_are_left_out(tmp_path, caplog, recwarn, rate, peak):
    """Integers of 32 bits that were written as floats are used."""
    samples = np.full(rate // 2, 0.1, dtype=np.float32)
    samples[3000:3100] = peak
    soundfile.write(tmp_path / "a\nb.wav", samples, rate, subtype="FLOAT")
    cuts = [cut_of(write_ramp(tmp_path / "u.wav", 0.5)), cut_of(tmp_path / "a\nb.wav")]
    assert len(read(cuts, max_samples=16_000)) == (2 if peak == 2.0**31 else 1)
    assert not recwarn.list, "an overflow is no news"
    lines = [record.message for record in caplog.records if "in this process so far" in record.message]
    if peak != 2.0**31:
        reason = "with samples beyond 1e+10, where full scale is 1" if rate == RATE or abs(peak) < 1e38 else "with "
        assert f"1 {reason}" in lines[0]
        assert r"the last one was a\nb (with " in lines[0], "a name cannot break a line of the log"
        assert r"(a\nb); the last" in lines[0]


def test_a_file_truncated_after_the_scan_is_left_out(cuts, tmp_path):
    write_ramp(tmp_path / "u2.wav", 0.001)
    assert read(cuts, max_samples=16_000).ids == ("u0", "u1")


def test_an_unreadable_batch_is_replaced(cuts, tmp_path):
    (tmp_path / "u0.wav").unlink()
    batch = read(cuts[:1], substitute=cuts[1:], epoch=4)
    assert batch.ids == ("u1", "u2")
    assert torch.equal(batch.waveform, read(cuts[1:], epoch=4).waveform)


def test_two_unreadable_batches_raise_an_error(cuts, tmp_path):
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    with pytest.raises(RunError, match=r"^No utterance of two batches could be read \(3 missing \(u0, u1, u2\)\)"):
        read(cuts[:1], substitute=cuts[1:])


def test_warnings_become_rarer(cuts, tmp_path, caplog):
    (tmp_path / "u0.wav").unlink()
    dataset = SpeechDataset(4000, True, seed=0, random=True, utterances=cuts)
    for _ in range(20):
        dataset[plan_of(cuts)]
    assert dataset.skipped.total == 20
    assert "Left out 16 windows in this process so far: 16 missing (u0, …); the last one was u0" in caplog.text
    assert sum("in this process so far" in record.message for record in caplog.records) == 5  # at 1, 2, 4, 8, 16
