"""What each augmentation does to audio, measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.signal import fftconvolve

from w2vlab.augmentations import AdditiveNoise, Gain, Reverberation, SpeedPerturbation, UtteranceMixing
from w2vlab.interfaces import Augmentation

RATE = 16_000


class Sounds:
    """Sounds in memory."""

    def __init__(self, *sounds: np.ndarray) -> None:
        self.sounds = [sound.astype(np.float32) for sound in sounds]

    def __len__(self) -> int:
        return len(self.sounds)

    def num_samples(self, index: int) -> int:
        return len(self.sounds[index])

    def read(self, index: int, start: int, length: int) -> np.ndarray | None:
        assert 0 <= start <= start + length <= len(self.sounds[index])
        return self.sounds[index][start : start + length].copy()


def noise(samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def with_sounds(part: Augmentation, *sounds: np.ndarray) -> Any:
    part.sounds = {corpus: Sounds(*sounds) for corpus in part.corpora}
    return part


def generators(number: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, row)) for row in range(number)]


def decibels(signal: np.ndarray, other: np.ndarray) -> float:
    return 10 * math.log10(np.mean(np.square(signal, dtype=float)) / np.mean(np.square(other, dtype=float)))


@pytest.mark.parametrize("samples", [700, 5000, 40_000])
def test_noise_has_the_drawn_ratio(samples: int) -> None:
    """Of noises that are shorter than the utterance, as long, and longer."""
    audio = noise(5000, seed=1, level=0.02)
    for snr in (-5.0, 0.0, 12.5):
        part = with_sounds(AdditiveNoise(snr=(snr, snr), probability=1), noise(samples))
        (noisy,) = part.augment([audio], generators(1))
        assert decibels(audio, noisy - audio) == pytest.approx(snr, abs=0.01)
    drawn = with_sounds(AdditiveNoise(snr=(3.0, 9.0), probability=1), noise(samples)).augment(
        [audio] * 40, generators(40)
    )
    ratios = [decibels(audio, noisy - audio) for noisy in drawn]
    assert 3 <= min(ratios) < 4
    assert 8 < max(ratios) <= 9


def test_a_short_noise_is_repeated_from_a_random_place() -> None:
    ramp = np.arange(1, 101) / 1000
    part = with_sounds(AdditiveNoise(snr=(0.0, 0.0), probability=1), ramp)
    audio = noise(1000)
    starts = set()
    for noisy in part.augment([audio] * 30, generators(30)):
        added = noisy - audio
        starts.add(int(added[:100].argmin()))
        np.testing.assert_allclose(added[100:200], added[:100], atol=1e-6)
    assert len(starts) > 10


def test_the_share_of_utterances_with_noise() -> None:
    audio = noise(200)
    part = with_sounds(AdditiveNoise(probability=0.3), noise(1000))
    changed = part.augment([audio] * 1000, generators(1000))
    assert sum(after is not audio for after in changed) == pytest.approx(300, abs=60)


def test_sums_are_not_clipped() -> None:
    audio = noise(5000, level=0.4).clip(-1, 1)
    (noisy,) = with_sounds(AdditiveNoise(snr=(0.0, 0.0), probability=1), noise(5000, 1)).augment([audio], generators(1))
    (louder,) = Gain((6.0, 6.0), probability=1).augment([audio], generators(1))
    assert min(abs(noisy).max(), abs(louder).max()) > 1


def test_gain_is_a_factor() -> None:
    audio = noise(500)
    levels = []
    for louder in Gain((-12.0, 6.0), probability=1).augment([audio] * 50, generators(50)):
        factor = louder[0] / audio[0]
        np.testing.assert_allclose(louder, factor * audio, rtol=1e-5)
        levels.append(20 * math.log10(factor))
    assert -12 <= min(levels) < -10
    assert 4 < max(levels) <= 6


def test_reverberation_convolves_and_keeps_power_and_the_place_of_the_direct_sound() -> None:
    response = noise(3000) * np.exp(-np.arange(3000) / 400)
    response[50] = 1.0  # the direct sound
    audio = noise(8000, 1)
    (after,) = with_sounds(Reverberation("rooms", probability=1), response).augment([audio], generators(1))
    expected = fftconvolve(audio.astype(float), response)[50:8050]
    expected *= math.sqrt(np.mean(audio.astype(float) ** 2) / np.mean(expected**2))
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert decibels(audio, after) == pytest.approx(0, abs=1e-3)
    assert int(np.correlate(after, audio, "full").argmax()) == 7999  # not shifted


def test_an_impulse_response_may_be_longer_than_the_utterance_and_a_silent_one_changes_nothing() -> None:
    audio = noise(300)
    response = noise(20_000) * np.exp(-np.arange(20_000) / 3000)
    (after,) = with_sounds(Reverberation("rooms", probability=1), response).augment([audio], generators(1))
    assert len(after) == 300
    assert not np.allclose(after, audio)
    (after,) = with_sounds(Reverberation("rooms", probability=1), np.zeros(100)).augment([audio], generators(1))
    assert after is audio


def test_generated_rooms_reverberate() -> None:
    """The sound goes on after the utterance has stopped."""
    audio = np.concatenate([noise(8000), np.zeros(8000, np.float32)])
    tails = [after[8000:] for after in Reverberation(probability=1).augment([audio] * 4, generators(4))]
    for tail in tails:
        assert -60 < decibels(tail[:800], audio[:8000]) < 0
        assert decibels(tail[-800:], audio[:8000]) < -40
    assert len({float(tail[0]) for tail in tails}) == 4


def test_speeds_are_drawn_equally_often() -> None:
    part = SpeedPerturbation((0.9, 1.0, 1.1))
    drawn = [part.draw_speed(generator) for generator in generators(900)]
    for factor in (0.9, 1.0, 1.1):
        assert drawn.count(factor) == pytest.approx(300, abs=60)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_mixing_adds_a_segment_of_another_utterance_at_the_drawn_ratio(share: float) -> None:
    """The segment is found by a plain search, and its scale is that of the energies of whole utterances."""
    audio = [noise(1000, row, level=0.1 * (row + 1)) for row in range(4)]
    part = UtteranceMixing(probability=1, ratio=(3.0, 3.0), max_share=share)
    partners, lengths = set(), set()
    for seed in range(10):
        for row, mixed in enumerate(part.augment(audio, generators(4, seed))):
            added = mixed - audio[row]
            (places,) = added.nonzero()
            start, length = places[0], places[-1] + 1 - places[0]
            assert 1 <= length <= share * 1000
            found = []
            for other in range(4):
                scale = 10 ** (-3 / 20) * math.sqrt(np.mean(audio[row] ** 2) / np.mean(audio[other] ** 2))
                windows = np.lib.stride_tricks.sliding_window_view(audio[other], length)
                error = abs(scale * windows - added[start : start + length]).max(axis=1)
                found += [other] if error.min() < 1e-5 else []
            if length > 5:  # or the segment may be found by chance
                assert len(found) == 1
                assert found != [row]
                partners.add((row, *found))
            lengths.add(int(length))
    assert len(partners) == 12, "every other utterance is mixed in"
    assert max(lengths) > 0.8 * share * 1000
    assert len(lengths) > 20


def test_mixing_with_noise() -> None:
    audio = [noise(1000, row) for row in range(2)]
    part = with_sounds(
        UtteranceMixing(probability=1, noise="noises", noise_probability=1, noise_ratio=(10.0, 10.0), max_share=1),
        np.full(50, 0.3),
    )
    for mixed, clean in zip(part.augment(audio, generators(2)), audio, strict=True):
        added = mixed - clean
        expected = math.sqrt(np.mean(clean.astype(float) ** 2)) * 10 ** (-10 / 20)
        np.testing.assert_allclose(added[added.nonzero()], expected, rtol=1e-3)


def test_a_single_utterance_is_mixed_with_noise_alone() -> None:
    audio = noise(1000)
    assert UtteranceMixing(probability=1).augment([audio], generators(1))[0] is audio
    part = with_sounds(UtteranceMixing(probability=1, noise="noises", noise_probability=1), noise(1000, 1))
    assert part.augment([audio], generators(1))[0] is not audio


def test_shares_of_wavlm() -> None:
    """A fifth of the utterances is mixed, a tenth of these with noise."""
    audio = [noise(20, row) for row in range(2000)]
    part = with_sounds(UtteranceMixing(noise="noises"), np.full(20, 1000.0))
    changed = part.augment(audio, generators(2000))
    assert sum(a is not b for a, b in zip(audio, changed, strict=True)) == pytest.approx(400, abs=60)


def test_mixing_with_shorter_utterances() -> None:
    audio = [noise(1000), noise(10, 1)]
    for seed in range(20):
        mixed = UtteranceMixing(probability=1).augment(audio, generators(2, seed))
        assert len((mixed[0] - audio[0]).nonzero()[0]) <= 10
        assert [len(one) for one in mixed] == [1000, 10]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdditiveNoise(snr=(20.0, 10.0)), r"`snr` must be a lower and an upper limit, in this order, but is"),
        (lambda: AdditiveNoise(snr=(10.0, math.inf)), r"`snr` must be a lower and an upper limit"),
        (lambda: Gain(probability=-0.1), r"`probability` must be from 0 to 1, but is -0\.1\."),
        (lambda: Gain(probability=math.nan), r"`probability` must be from 0 to 1, but is nan\."),
        (lambda: SpeedPerturbation(()), r"`factors` must be one or more speeds from 0\.25 to 4, but is \[\]\."),
        (lambda: SpeedPerturbation((0.0, 1.0)), r"`factors` must be one or more speeds from 0\.25 to 4, but is \[0\.0"),
        (lambda: UtteranceMixing(max_share=1.5), r"`max_share` must be above 0 and at most 1, but is 1\.5\."),
    ],
)
def test_wrong_options_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
