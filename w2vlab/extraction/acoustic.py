"""Acoustic features as a source of frames: MFCC and log-mel spectra, which need no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2vlab.encoders.log_mel import LogMelEncoder
from w2vlab.extraction.acoustic_names import ACOUSTIC, LOG_MEL, MFCC, MFCC_CMVN
from w2vlab.extraction.sources import PIECE_SECONDS, UNKNOWN_REACH, Cutting, Stream
from w2vlab.frame_grid import FrameGrid
from w2vlab.functional.precision import at_least_float32
from w2vlab.types import SAMPLE_RATE, AudioBatch

__all__ = ["ACOUSTIC", "AcousticSource", "LogMelSource", "MfccSource", "acoustic_source"]

WINDOW_SAMPLES = 400
HOP_SAMPLES = 160

_FRAMES_OF_DELTAS = 4
"""Frames on both sides that a delta-delta depends on."""


class AcousticSource:
    """Computes features of each utterance by itself, so that they do not depend on the batch.

    Windows of 25 ms every 10 ms, all inside of the utterance: `1 + (S - 400) // 160` frames of S samples.

    Attributes:
        grid: Where the frames are in time.
        streams: The one output.
        provenance: Its name, as plain data.
        cutting: What cutting a recording does to the frames.
    """

    cutting: Cutting = UNKNOWN_REACH  # of a mean or variance over the recording
    grid = FrameGrid(HOP_SAMPLES, WINDOW_SAMPLES)

    def __init__(self, name: str, dim: int) -> None:
        self.streams: tuple[Stream, ...] = (Stream(name=name, dim=dim),)
        self.provenance: Mapping[str, Any] = {"source": name, "layer": name}
        self._device = torch.device("cpu")

    @property
    def min_samples(self) -> int:
        """Samples of one window."""
        return WINDOW_SAMPLES

    def to(self, device: Any) -> AcousticSource:
        """Computes on `device` from now on."""
        self._device = torch.device(device)
        return self

    def compute(self, waveform: Tensor) -> Tensor:
        """Returns the frames `(T, D)` of a waveform `(S,)` of at least `min_samples`."""
        raise NotImplementedError

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yields the id of each utterance and its frames `(T, D)`, float32, on the host."""
        stream = self.streams[0]
        for name, samples, row in zip(batch.ids, batch.num_samples, batch.waveform, strict=True):
            if samples < self.min_samples:
                yield name, {stream.name: torch.empty(0, stream.dim)}
                continue
            with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
                frames = self.compute(at_least_float32(row[:samples].to(self._device)))
            yield name, {stream.name: frames.float().cpu()}


class MfccSource(AcousticSource):
    """13 coefficients with deltas and delta-deltas: 39 dimensions every 10 ms, which HuBERT's first targets cluster.

    Kaldi's windows (Povey, without dither), 23 mel channels from 20 Hz, the zeroth coefficient in place of the energy,
    cepstral liftering of 22; deltas over five frames.

    Args:
        normalize: Bring each dimension of an utterance to zero mean and unit variance (cepstral mean and variance
            normalization, CMVN). Without it, as published, squared distances are mostly those of the first
            coefficients, and the deltas have next to no weight.

    Reference:
        fairseq, `examples/hubert/simple_kmeans/dump_mfcc_feature.py`; Hsu et al. 2021, arXiv:2106.07447.
    """

    NUM_COEFFICIENTS = 13

    def __init__(self, normalize: bool = False) -> None:
        from torchaudio.compliance import kaldi  # imported here, because `w2vlab.extraction` need not load torchaudio
        from torchaudio.functional import compute_deltas

        super().__init__(MFCC_CMVN if normalize else MFCC, 3 * self.NUM_COEFFICIENTS)
        self._normalize = normalize
        if not normalize:
            self.cutting = Cutting(reach=_FRAMES_OF_DELTAS, default_seconds=PIECE_SECONDS)
        self._mfcc, self._deltas = kaldi.mfcc, compute_deltas

    def compute(self, waveform: Tensor) -> Tensor:
        """Returns the frames `(T, 39)` of a waveform `(S,)`."""
        coefficients: Tensor = self._mfcc(
            waveform[None], sample_frequency=SAMPLE_RATE, use_energy=False, num_ceps=self.NUM_COEFFICIENTS
        ).T  # (13, T)
        deltas = self._deltas(coefficients)
        frames = torch.cat([coefficients, deltas, self._deltas(deltas)])  # (39, T)
        if self._normalize:
            frames = F.layer_norm(frames, frames.shape[1:])
        return frames.T.contiguous()  # (T, 39)


class LogMelSource(AcousticSource):
    """Log-mel spectra of 80 channels every 10 ms, each channel of an utterance with zero mean and unit variance."""

    def __init__(self) -> None:
        self._encoder = LogMelEncoder(stack=1)
        super().__init__(LOG_MEL, self._encoder.output_dim)

    def to(self, device: Any) -> AcousticSource:
        """Computes on `device` from now on."""
        self._encoder.to(device)
        return super().to(device)

    def compute(self, waveform: Tensor) -> Tensor:
        """Returns the frames `(T, 80)` of a waveform `(S,)`."""
        frames: Tensor = self._encoder(waveform[None], [len(waveform)])[0]
        return frames


def acoustic_source(name: str) -> AcousticSource:
    """Returns the source of a name.

    Args:
        name: `mfcc`, `mfcc-cmvn` (with mean and variance normalization of each utterance) or `log-mel`.

    Raises:
        ValueError: It is another name.
    """
    if name in (MFCC, MFCC_CMVN):
        return MfccSource(normalize=name == MFCC_CMVN)
    if name == LOG_MEL:
        return LogMelSource()
    raise ValueError(f"`source` must be {', '.join(ACOUSTIC)}, or a model, but is {name}.")
