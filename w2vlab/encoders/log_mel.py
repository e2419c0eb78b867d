"""Log-mel filter banks as an encoder without parameters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from w2vlab.encoders.waveform import check_waveform
from w2vlab.functional.lengths import group_norm_over_time, make_padding_mask
from w2vlab.functional.precision import at_least_float32
from w2vlab.interfaces import FeatureEncoder
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.checks import check_at_least


class LogMelEncoder(FeatureEncoder):
    """Log-mel filter banks, neighbouring frames stacked into one latent; nothing is learned.

    A Hann window, the power spectrum of an FFT of the next power of two, and triangular filters on HTK's mel scale from
    0 Hz to 8 kHz. By default 80 channels every 10 ms, as BEST-RQ sees them, of which two frames make a latent, as in
    fairseq2's `3b_mel`: 160 channels every 20 ms.

    Args:
        num_mels: Mel channels of a frame.
        window_samples: Samples of a frame.
        hop_samples: Samples from one frame to the next.
        stack: Frames in one latent.
        normalize: Bring each mel channel of an utterance to zero mean and unit variance; padding does not count.
        floor: Power below which the logarithm falls no further; by default about what the rounding of 16-bit audio
            leaves in a channel.

    Reference:
        Chiu et al. 2022, arXiv:2202.01855.
    """

    utterances_are_independent = True

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        num_mels: int = 80,
        window_samples: int = 400,
        hop_samples: int = 160,
        stack: int = 2,
        normalize: bool = True,
        floor: float = 1e-7,
    ) -> None:
        super().__init__()
        check_at_least(1, num_mels=num_mels, window_samples=window_samples, hop_samples=hop_samples, stack=stack)
        if floor <= 0:
            raise ValueError(f"`floor` must be above 0, but is {floor}.")
        self.output_dim = num_mels * stack
        self.receptive_field = window_samples + (stack - 1) * hop_samples
        self.stride = hop_samples * stack
        self.num_mels = num_mels
        self.hop_samples = hop_samples
        self.stack = stack
        self.normalize = normalize
        self.floor = floor
        self.fft_size = 1 << (window_samples - 1).bit_length()
        # Not saved, because they follow from the arguments; and never on the meta device, for the same reason.
        with torch.device("cpu"):
            self.register_buffer("window", torch.hann_window(window_samples), persistent=False)
            self.register_buffer("filters", _mel_filters(self.fft_size // 2 + 1, num_mels), persistent=False)

    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Encodes a batch of waveforms.

        Args:
            waveform: Shape `(B, S)`.
            num_samples: Samples of each utterance, B integers.

        Returns:
            Latents, shape `(B, T, stack * num_mels)`; the channels of earlier frames come first.

        Raises:
            ValueError: The batch is shorter than the receptive field.
        """
        check_waveform(waveform, self.receptive_field)
        with torch.autocast(waveform.device.type, enabled=False):
            frames = at_least_float32(waveform).unfold(1, len(self.window), self.hop_samples)  # (B, N, window)
            frames = frames[:, : self.stack * self.num_frames(waveform.shape[1])]  # (B, stack * T, window)
            spectrum = torch.fft.rfft(frames * self.window, n=self.fft_size)
            power = torch.view_as_real(spectrum).square().sum(-1)  # (B, stack * T, fft_size / 2 + 1)
            mels = power @ at_least_float32(self.filters)  # (B, stack * T, num_mels)
            mels = mels.clamp(min=self.floor).log()
            if self.normalize:
                lengths = [self.stack * self.num_frames(samples) for samples in num_samples]
                padding_mask = make_padding_mask(lengths, mels.shape[1], mels.device)
                mels = group_norm_over_time(mels, self.num_mels, None, None, padding_mask)
        latents = mels.reshape(len(mels), -1, self.output_dim)  # (B, T, stack * num_mels)
        return latents.to(waveform.dtype)


def _mel_filters(num_bins: int, num_mels: int) -> Tensor:
    """Returns the weight of each of `num_bins` frequencies in each mel channel, `(num_bins, num_mels)`."""
    from torchaudio.functional import melscale_fbanks  # only this encoder needs torchaudio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchaudio warns of empty mel channels, which raise below
        filters = melscale_fbanks(num_bins, 0.0, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE)
    if (filters.amax(dim=0) == 0).any():
        raise ValueError(
            f"`num_mels` must be so small that each channel holds one of the {num_bins} frequencies of the FFT, "
            f"but is {num_mels}. Use fewer channels or a longer window."
        )
    return filters
