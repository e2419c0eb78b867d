"""Log-mel filter banks against the formula and against torchaudio's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchaudio.transforms import MelSpectrogram

from tests.contracts.tiny import OnlyFloat64, audio_batch
from w2vlab.encoders import LogMelEncoder


def hertz_to_mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def mel_to_hertz(mel: float) -> float:
    return 700 * (10 ** (mel / 2595) - 1)


def frame_by_hand(samples: np.ndarray, fft_size: int, num_mels: int, floor: float) -> np.ndarray:
    """A discrete Fourier transform and triangles, as sums over samples and frequencies."""
    length = len(samples)
    power = np.zeros(fft_size // 2 + 1)
    for k in range(len(power)):
        total = 0j
        for n in range(length):
            window = 0.5 - 0.5 * math.cos(2 * math.pi * n / length)
            total += window * samples[n] * np.exp(-2j * math.pi * k * n / fft_size)
        power[k] = abs(total) ** 2
    corners = [mel_to_hertz(hertz_to_mel(8000) * i / (num_mels + 1)) for i in range(num_mels + 2)]
    channels = np.zeros(num_mels)
    for channel in range(num_mels):
        low, centre, high = corners[channel : channel + 3]
        for k in range(len(power)):
            hertz = 16_000 * k / fft_size
            weight = min((hertz - low) / (centre - low), (high - hertz) / (high - centre))
            channels[channel] += max(0.0, weight) * power[k]
    return np.log(np.maximum(channels, floor))


@pytest.mark.parametrize("samples", [16, 25])
def test_a_frame_by_hand(samples: int) -> None:
    """Also if the window is not a power of two: the transform has the next power's size."""
    encoder = LogMelEncoder(num_mels=4, window_samples=samples, hop_samples=5, stack=1, normalize=False)
    waveform = audio_batch((60,)).waveform
    latents = encoder(waveform, (60,))
    for frame in (0, 3):
        expected = frame_by_hand(
            waveform[0, 5 * frame : 5 * frame + samples].double().numpy(), 32 if samples > 16 else 16, 4, 1e-7
        )
        assert_close(latents[0, frame].double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_frames_are_torchaudios_and_stacked_in_order() -> None:
    waveform = audio_batch((8000,)).waveform
    theirs = MelSpectrogram(n_fft=512, win_length=400, hop_length=160, n_mels=80, center=False)
    expected = theirs(F.pad(waveform, (56, 56)))[0].clamp(min=1e-7).log().T  # its window is centred in the transform
    latents = LogMelEncoder(normalize=False)(waveform, (8000,))[0]  # (24, 160)
    assert len(expected) == 48
    assert_close(latents, torch.stack([torch.cat([expected[2 * t], expected[2 * t + 1]]) for t in range(24)]))


def test_channels_of_an_utterance_are_normalised_without_its_padding() -> None:
    encoder = LogMelEncoder()
    batch = audio_batch((16_000, 9_000))
    plain = LogMelEncoder(normalize=False)(batch.waveform, batch.num_samples)
    latents = encoder(batch.waveform, batch.num_samples)
    for row, samples in enumerate(batch.num_samples):
        valid = encoder.num_frames(samples)
        channels = plain[row, :valid].view(-1, 80)
        expected = (channels - channels.mean(0)) / (channels.var(0, correction=0) + 1e-5).sqrt()
        assert_close(latents[row, :valid].view(-1, 80), expected, rtol=1e-4, atol=1e-4)


def test_loudness_does_not_matter_after_normalisation() -> None:
    encoder = LogMelEncoder()
    batch = audio_batch((8000,))
    assert_close(
        encoder(0.1 * batch.waveform, batch.num_samples),
        encoder(batch.waveform, batch.num_samples),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_silence_is_finite_and_has_a_finite_gradient(normalize: bool) -> None:
    encoder = LogMelEncoder(normalize=normalize)
    waveform = torch.zeros(2, 3000, requires_grad=True)
    latents = encoder(waveform, (3000, 2000))
    latents.sum().backward()
    assert latents.isfinite().all()
    assert waveform.grad.isfinite().all()
    if not normalize:
        assert_close(latents, torch.full_like(latents, math.log(1e-7)))


@settings(deadline=None)
@given(
    window=st.integers(16, 60),
    hop=st.integers(1, 20),
    stack=st.integers(1, 4),
    extra=st.integers(0, 90),
    padding=st.integers(0, 90),
)
def test_arithmetic_of_lengths(window: int, hop: int, stack: int, extra: int, padding: int) -> None:
    """As many latents as whole stacks of frames fit; and none sees a sample outside its receptive field."""
    encoder = LogMelEncoder(num_mels=2, window_samples=window, hop_samples=hop, stack=stack, normalize=False)
    samples = encoder.receptive_field + extra
    generator = torch.Generator().manual_seed(samples)
    waveform = torch.randn(1, samples + padding, generator=generator)
    latents = encoder(waveform, (samples,))
    frames = (samples + padding - window) // hop + 1
    assert latents.shape == (1, frames // stack, 2 * stack)
    alone = encoder(waveform[:, :samples], (samples,))
    assert alone.shape[1] == encoder.num_frames(samples) == ((samples - window) // hop + 1) // stack
    assert_close(latents[:, : alone.shape[1]], alone)
    last = (alone.shape[1] - 1) * encoder.stride
    assert_close(encoder(waveform[:, last : last + encoder.receptive_field], (samples,))[0, 0], alone[0, -1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    """A whole model in bfloat16 hears the waveform in bfloat16, but computes in float32."""
    batch = audio_batch((8000, 5000))
    exact = LogMelEncoder()(batch.waveform.to(dtype).float(), batch.num_samples)
    encoder = LogMelEncoder().to(dtype)
    with OnlyFloat64():
        latents = encoder(batch.waveform.to(dtype), batch.num_samples)
    assert latents.dtype == dtype
    tolerance = 1e-3 if dtype == torch.float64 else 0.1
    assert_close(latents[0].float(), exact[0], rtol=tolerance, atol=tolerance)


def test_nothing_is_learned_or_saved() -> None:
    encoder = LogMelEncoder()
    assert not list(encoder.parameters())
    assert not encoder.state_dict()
    with torch.device("meta"):
        assert LogMelEncoder().filters.device.type == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_mels": 0}, "`num_mels` must be at least 1, but is 0"),
        ({"window_samples": 0}, "`window_samples` must be at least 1, but is 0"),
        ({"hop_samples": 0}, "`hop_samples` must be at least 1, but is 0"),
        ({"stack": 0}, "`stack` must be at least 1, but is 0"),
        ({"floor": 0.0}, r"`floor` must be above 0, but is 0\.0"),
        ({"num_mels": 128}, "`num_mels` must be so small that each channel holds one of the 257 frequencies .* is 128"),
    ],
)
def test_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMelEncoder(**arguments)


def test_a_waveform_that_is_too_short_is_named() -> None:
    with pytest.raises(ValueError, match=r"at least 560 samples \(the receptive field\), but has shape \(1, 559\)"):
        LogMelEncoder()(torch.zeros(1, 559), (559,))
