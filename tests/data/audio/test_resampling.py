from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from lhotse.augmentation.resample import Resample

from tests.data.sounds import speech_like
from w2vlab.data.audio import resampling
from w2vlab.data.audio.resampling import get_resampler

COMMON = [4000, 8000, 11_025, 12_000, 22_050, 24_000, 32_000, 37_800, 44_100, 48_000, 96_000, 384_000]
COPRIME = [22_254, 11_127, 16_001, 15_999, 8001, 44_056, 383_987]


def stretch(rate: int, sound: np.ndarray, start: int, length: int) -> np.ndarray:
    resample = get_resampler(rate)
    first, last = resample.input_range(start, length, len(sound))
    assert 0 <= first < last <= len(sound)
    return resample(sound[first:last], first, start, length)


def speech(rate: int, seconds: float) -> np.ndarray:
    return speech_like(seconds, rate)[:, 0].astype(np.float32)


@pytest.mark.parametrize("rate", COMMON)
@pytest.mark.parametrize("seconds", [0.003, 1.1])
def test_common_rates_equal_the_resampler_of_lhotse(rate, seconds):
    sound = speech(rate, seconds)
    expected = Resample(rate, 16_000)(torch.from_numpy(sound)).numpy()
    length = int(16_000 * seconds)
    np.testing.assert_allclose(stretch(rate, sound, 0, length), expected[:length], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", COMMON)
def test_filters_are_multiplied_without_most_of_their_zeros(rate):
    resample = get_resampler(rate)
    assert isinstance(resample, resampling._BankResampler)
    bank = Resample(rate, 16_000).kernel[:, 0]
    used = sum(filters.numel() for _, filters in resample._groups)
    assert used < 3 * bank.count_nonzero() * resample._outputs / len(bank)
    assert all(filters.shape[0] <= resample._inputs for _, filters in resample._groups), "or mm would copy the audio"


@pytest.mark.parametrize("rate", COMMON + COPRIME)
def test_a_segment_equals_that_of_the_full_audio(rate):
    sound = speech(rate, 1.1)
    total = len(sound) * 16_000 // rate
    whole = stretch(rate, sound, 0, total)
    for start, length in ((0, 1), (1, 999), (4321, 5000), (total - 5001, 5001), (total - 1, 1)):
        found = stretch(rate, sound, start, length)
        np.testing.assert_allclose(found, whole[start : start + length], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [*COMMON, 15_990])
def test_the_sparse_filters_equal_those_of_lhotse(rate, monkeypatch):
    sound = speech(rate, 1.1)
    expected = Resample(rate, 16_000)(torch.from_numpy(sound)).numpy()
    monkeypatch.setattr(resampling, "_MAX_FILTER_BANK", 0)
    get_resampler.cache_clear()
    try:
        # lhotse computes its filters partly in single precision.
        np.testing.assert_allclose(stretch(rate, sound, 0, 17_600), expected[:17_600], rtol=0, atol=3e-5)
    finally:
        get_resampler.cache_clear()


@pytest.mark.parametrize("rate", COPRIME)
def test_coprime_rates_keep_a_tone(rate):
    times = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    found = stretch(rate, tone, 0, 16_000)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], rtol=0, atol=2e-3)


@pytest.mark.parametrize("rate", [22_254, 11_127, 16_001])
def test_coprime_rates_take_no_more_memory_than_the_audio(rate):
    """lhotse's filter banks for these rates have up to 256 million values."""
    sound = speech(rate, 2.0)
    get_resampler.cache_clear()
    tracemalloc.start()
    try:
        stretch(rate, sound, 0, 32_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * 2**20
    assert not isinstance(get_resampler(rate), resampling._BankResampler)
