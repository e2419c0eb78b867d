"""What flows between the parts.

Letters, used in every shape comment of this project:

    B utterances          S samples            T frames             M target frames of an utterance
    C latent width        D context width      E quantized width    P projection width
    G codebooks           V entries a codebook K negatives

Host and device: everything named `num_…` is a tuple of Python integers that never leaves the host. Masks and negatives
are drawn from them, so no training step has to read a number back from the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Seconds = float
Hertz = int

SAMPLE_RATE: Hertz = 16_000
"""The one rate that models see; the data layer resamples everything to it."""


class RunError(Exception):
    """A run has to end, for a reason that its user can act on: told in a line, without a traceback."""


@dataclass
class AudioBatch:
    """Utterances of one micro-batch.

    Attributes:
        waveform: Audio at 16 kHz in [-1, 1], zero beyond an utterance's end, shape `(B, S)`.
        num_samples: Samples of each utterance, B integers.
        ids: A unique name for each utterance, B strings; random draws are addressed by it.
        counted: False where a process only computes it because another one has a batch more; it adds nothing.
        transcripts: What is said in each utterance, B strings as `Vocabulary` has them; None where nobody asked.
        update: On the first micro-batch of an update of several, all of this process, on the host; otherwise None.
    """

    waveform: Tensor
    num_samples: tuple[int, ...]
    ids: tuple[str, ...]
    counted: bool = True
    transcripts: tuple[str, ...] | None = None
    update: tuple[AudioBatch, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def seconds(self) -> Seconds:
        """Audio in the batch, padding not counted."""
        return sum(self.num_samples) / SAMPLE_RATE

    def to(self, *args: Any, **kwargs: Any) -> AudioBatch:
        """Moves the waveform like `Tensor.to`; Lightning calls it."""
        return replace(self, waveform=self.waveform.to(*args, **kwargs))

    def pin_memory(self) -> AudioBatch:
        """Pins the waveform; the `DataLoader` calls it."""
        return replace(self, waveform=self.waveform.pin_memory())


@dataclass(frozen=True)
class RandomAddress:
    """Where a random draw belongs, in place of a generator that would have to be carried along.

    The same address gives the same numbers in a resumed run and on another number of processes.

    Attributes:
        seed: The run's seed.
        update: Optimiser updates done before this one.
        ids: Utterances of the batch.
        stream: Keeps draws of training, validation and other uses apart.
    """

    seed: int
    update: int
    ids: tuple[str, ...]
    stream: str = "train"

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """Returns one fresh generator an utterance for `purpose` (such as `"mask"`)."""
        keys = (f"{self.stream}/{purpose}/{name}".encode() for name in self.ids)
        digests = (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys)
        return [np.random.default_rng((self.seed, self.update, digest)) for digest in digests]


@dataclass
class Encoding:
    """What comes before masking, quantizing and context.

    Attributes:
        features: The encoder's output before any normalisation, shape `(B, T, C)`.
        latents: What is masked and quantized, shape `(B, T, C)`.
        num_frames: Frames of each utterance, B integers.
        padding_mask: True on padding, shape `(B, T)`; None where there is none.
    """

    features: Tensor
    latents: Tensor
    num_frames: tuple[int, ...]
    padding_mask: Tensor | None


@dataclass
class Mask:
    """What a masking strategy decided for one batch.

    Attributes:
        frames: True where the context network must not see the frame, shape `(B, T)`.
        targets: Indices of the frames to predict, ascending in each row, shape `(B, M)`; a row with fewer than M
            targets is filled with frame 0 behind its last one.
        num_targets: How many of a row's entries count, B integers.
        channels: True where a channel of all frames of an utterance is set to zero, shape `(B, D)`; None for none.
        channels_first: Set channels to zero before frames are hidden, so that a hidden frame keeps its whole embedding.
    """

    frames: Tensor
    targets: Tensor
    num_targets: tuple[int, ...]
    channels: Tensor | None = None
    channels_first: bool = False

    def to(self, device: torch.device) -> Mask:
        """Moves the tensors without waiting for the copy."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            channels=None if self.channels is None else self.channels.to(device, non_blocking=True),
        )

    def hide(self, frames: Tensor, embedding: Tensor) -> Tensor:
        """Replaces hidden `frames` `(B, T, D)` by `embedding` `(D,)` and sets hidden channels to zero."""
        channels = None if self.channels is None else self.channels[:, None]  # (B, 1, D)
        if channels is not None and self.channels_first:
            frames = frames.masked_fill(channels, 0.0)
        frames = torch.where(self.frames[..., None], embedding.to(frames.dtype), frames)
        if channels is not None and not self.channels_first:
            frames = frames.masked_fill(channels, 0.0)
        return frames


@dataclass(frozen=True)
class TargetSpec:
    """What a prediction loss must know of its targets to be built.

    Attributes:
        dim: Width E of the quantized vectors.
        num_codebooks: Codebooks G; 0 where targets are continuous.
        codebook_size: Entries V of each codebook.
    """

    dim: int
    num_codebooks: int
    codebook_size: int


@dataclass
class QuantizerOutput:
    """What every quantizer returns.

    Attributes:
        quantized: The vectors that stand for the latents, shape `(B, N, E)`.
        codes: Which entry of each codebook was chosen, shape `(B, N, G)`; G is 0 without codebooks.
        probabilities: Soft assignment without noise and temperature, shape `(B, N, G, V)`; None where a quantizer has
            no such thing.
        losses: What the quantizer cannot train without (codebook and commitment losses), already weighted: one value a
            frame, shape `(B, N)` each.
    """

    quantized: Tensor
    codes: Tensor
    probabilities: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    @property
    def assignment(self) -> Tensor:
        """The codes `(B, N, G)` without noise: what `codes` would be in evaluation; hard statistics count these."""
        return self.codes if self.probabilities is None else self.probabilities.argmax(dim=-1)

    def at(self, indices: Tensor) -> QuantizerOutput:
        """Returns the output at frames `indices` `(B, M)` alone."""
        rows = torch.arange(len(indices), device=indices.device)[:, None]  # (B, 1)
        return QuantizerOutput(
            self.quantized[rows, indices],
            self.codes[rows, indices],
            None if self.probabilities is None else self.probabilities[rows, indices],
            {name: loss[rows, indices] for name, loss in self.losses.items()},
        )


@dataclass
class Everywhere:
    """The frames beside those to predict, for a loss that looks for negatives there.

    Attributes:
        targets: The quantizer's output at every frame, N = T.
        num_frames: Frames of each utterance, B integers.
        positions: Which of the T frames each frame to predict is, shape `(B, N)`.
    """

    targets: QuantizerOutput
    num_frames: tuple[int, ...]
    positions: Tensor


@dataclass
class PredictionTask:
    """What a prediction loss works on: each context frame and the target it may be asked for.

    Attributes:
        context: Shape `(B, N, D)`: the masked frames (`MaskedPrediction`) or all frames (`FuturePrediction`).
        targets: The quantizer's output at the same N frames.
        num_valid: Frames of each utterance that count, B integers; the rest of a row is filling.
        address: Where this batch's negatives are drawn from.
        first_ahead: Frames from a context to the nearest target that it cannot have seen: 0 where frames are hidden;
            where contexts see their own frame, as many as it takes for two latents to share no audio.
        lookup: Returns the vectors `(…, E)` of codes `(…, G)`; None where targets are continuous.
        everywhere: All frames, where the loss asked for them (`PredictionLoss.uses_every_frame`).
    """

    context: Tensor
    targets: QuantizerOutput
    num_valid: tuple[int, ...]
    address: RandomAddress
    first_ahead: int
    lookup: Callable[[Tensor], Tensor] | None = None
    everywhere: Everywhere | None = None


@dataclass
class LossOutput:
    """A sum over predictions with its counts: means are taken once, over all ranks and micro-batches.

    Attributes:
        total: Sum of the loss over all predictions, in nats, shape `()`.
        counts: Predictions of each utterance, B integers.
        num_correct: Predictions whose true target scored above every negative, shape `()`.
        num_candidates: Candidates of one prediction, the true one included; chance is one over it.
        shares: Further shares worth logging: how many, `()`, and of how many.
    """

    total: Tensor
    counts: tuple[int, ...]
    num_correct: Tensor
    num_candidates: int
    shares: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def share(self, name: str) -> Tensor:
        """Returns one of `shares` as a number in [0, 1], `()`."""
        part, whole = self.shares[name]
        return part / max(whole, 1)


@dataclass
class Prepared:
    """What comes before the context network: the hidden frames, and the targets that are to be told.

    Attributes:
        encoding: The latents and how many there are.
        targets: The quantizer's output at the frames to predict.
        padding_mask: True on filling among those frames, shape `(B, N)`; None when every one counts.
        num_valid: Frames to predict of each utterance, B integers.
        mask: What was hidden; None where nothing can be.
        everywhere: All frames, where the loss asked for them.
    """

    encoding: Encoding
    targets: QuantizerOutput
    padding_mask: Tensor | None
    num_valid: tuple[int, ...]
    mask: Mask | None = None
    everywhere: Everywhere | None = None


@dataclass
class PretrainOutput:
    """Everything one forward pass computed, for the penalties, the metrics and whoever wants to look inside.

    Attributes:
        features: The encoder's output before any normalisation, shape `(B, T, C)`.
        num_frames: Frames of each utterance, B integers.
        context: Output of the context network, shape `(B, T, D)`.
        targets: The quantizer's output at the frames to predict.
        target_padding: True on filling among those frames, shape `(B, N)`; None when every one counts.
        prediction: The prediction loss.
        mask: What was hidden; None where nothing can be.
        inputs: The quantizer's output at every frame, where the context network saw quantized frames that are not the
            targets.
    """

    features: Tensor
    num_frames: tuple[int, ...]
    context: Tensor
    targets: QuantizerOutput
    target_padding: Tensor | None
    prediction: LossOutput
    mask: Mask | None = None
    inputs: QuantizerOutput | None = None
