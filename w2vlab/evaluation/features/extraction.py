"""Extracts features from a frozen model, without masking, noise and dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from lhotse.cut import Cut
from torch import Tensor

from w2vlab.data.batches.dataset import SpeechDataset
from w2vlab.data.corpora.utterances import num_samples
from w2vlab.evaluation.features.layers import CODES, CONTEXT, LATENTS, QUANTIZED, layer_name
from w2vlab.frame_grid import FrameGrid
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.modules.representations import evaluation_mode, layer_modules, recorded_layers
from w2vlab.types import SAMPLE_RATE, AudioBatch, Seconds

Features = dict[str, Tensor]
"""Features of one utterance by representation, `(T, D)`; codes are int64 of shape `(T, G)`."""


class Extractor(Protocol):
    """Computes features from audio.

    Attributes:
        grid: Positions of the frames in time.
        names: Names of the representations.
    """

    grid: FrameGrid
    names: tuple[str, ...]

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, Features]]:
        """Yields the id and the features of each utterance, on the host."""


class ModelFeatures:
    """Extracts features of a model in evaluation mode, from unmasked input.

    Args:
        module: The model, on its device.
        names: Representations, as `layers.select_representations` returns them.
        precision: Makes the context manager of a forward pass, such as a trainer's autocast; by default none.
    """

    def __init__(
        self,
        module: PretrainingModule,
        names: Sequence[str],
        precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.module = module
        self.names = tuple(names)
        self.grid = FrameGrid(module.encoder.stride, module.encoder.receptive_field)
        self._precision = precision

    def __call__(self, batch: AudioBatch) -> Iterator[tuple[str, Features]]:
        """Yields the id and the features of each utterance, on the host."""
        with evaluation_mode(self.module), torch.no_grad(), self._precision():
            tensors = self._compute(batch.to(self.module.device))
        host = {name: tensor.cpu() for name, tensor in tensors.items()}
        for row, (name, samples) in enumerate(zip(batch.ids, batch.num_samples, strict=True)):
            frames = self.module.encoder.num_frames(samples)
            yield name, {key: _copy_as_float32(tensor[row, :frames]) for key, tensor in host.items()}

    def _compute(self, batch: AudioBatch) -> Features:
        module, requested, features = self.module, set(self.names), {}
        encoding = module.encode(batch)
        if LATENTS in requested:
            features[LATENTS] = encoding.latents
        if requested & {QUANTIZED, CODES}:
            output = module.quantize(batch, encoding)
            features |= {QUANTIZED: output.quantized, CODES: output.assignment}
        if requested - {LATENTS, QUANTIZED, CODES}:
            names = {number: layer_name(number) for number in range(len(layer_modules(module.context)) + 1)}
            numbers = [number for number, name in names.items() if name in requested]

            def record(number: int, frames: Tensor) -> None:
                features[names[number]] = frames

            with recorded_layers(module.context, numbers, record):
                frames = module.context.project(module.context_inputs(encoding))
                features[CONTEXT] = module.context(frames, encoding.padding_mask)
        return {name: features[name] for name in self.names}


def _copy_as_float32(frames: Tensor) -> Tensor:
    return frames.float().clone() if frames.is_floating_point() else frames.clone()


def as_vectors(features: Tensor, codebook_size: int) -> Tensor:
    """Returns codes `(T, G)` as one-hot vectors of all codebooks, `(T, G V)`, and other features as they are."""
    if features.is_floating_point():
        return features
    return F.one_hot(features, codebook_size).flatten(-2).float()


def read_batches(
    cuts: Sequence[Cut], batch_seconds: Seconds, min_samples: int = 1
) -> Iterator[tuple[AudioBatch, Seconds]]:
    """Reads full utterances in batches of similar length.

    Utterances that cannot be read are left out and counted in a warning, as in training.

    Args:
        cuts: The utterances.
        batch_seconds: Maximum audio in a batch, in seconds, including padding; a longer utterance is one batch.
        min_samples: Utterances of fewer samples at 16 kHz are left out, because the model computes no frame for them.

    Yields:
        A batch, and the total duration in seconds of its utterances, including those that could not be read.
    """
    ordered = sorted((cut for cut in cuts if num_samples(cut) >= min_samples), key=lambda cut: (cut.duration, cut.id))
    if not ordered:
        return
    dataset = SpeechDataset(num_samples(ordered[-1]) + SAMPLE_RATE, crop_to_shortest=False, seed=0, random=False)
    start = 0
    for stop in range(1, len(ordered) + 1):
        if stop < len(ordered) and (stop + 1 - start) * ordered[stop].duration <= batch_seconds:
            continue
        group = tuple(ordered[start:stop])
        batch = dataset.read(group)
        if batch is not None:
            yield batch, sum(cut.duration for cut in group)
        start = stop
