"""The dataclasses that parts exchange.

Letters, used in every shape comment of this project:

    B utterances          S samples            T frames             M target frames of an utterance
    C latent width        D context width      E quantized width    P projection width
    G codebooks           V entries a codebook K negatives

Host and device: everything named `num_…` is a tuple of Python integers in host memory. Masks and negatives are drawn
from these, so that no training step has to read a number back from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from w2vlab.batch import SAMPLE_RATE, AudioBatch, CleanAudio, Draws, Hertz, Mask, MicroBatch, RandomAddress, Seconds

__all__ = [
    "SAMPLE_RATE",
    "AllFrames",
    "AudioBatch",
    "CleanAudio",
    "Draws",
    "Encoding",
    "Hertz",
    "LossInputs",
    "LossOutput",
    "Mask",
    "MicroBatch",
    "Negatives",
    "Prepared",
    "PretrainOutput",
    "QuantizerOutput",
    "RandomAddress",
    "RunError",
    "Seconds",
    "TargetSpec",
]


class RunError(Exception):
    """An error that the user of a run can act on; commands print its message without a traceback."""


@dataclass(kw_only=True)
class Encoding:
    """The output of the encoder, which is masked, quantized and given to the context network.

    Attributes:
        features: The encoder's output before any normalisation, shape `(B, T, C)`.
        latents: The frames that are masked and quantized, shape `(B, T, C)`.
        num_frames: Frames of each utterance, B integers.
        padding_mask: True on padding, shape `(B, T)`; None without padding.
    """

    features: Tensor
    latents: Tensor
    num_frames: tuple[int, ...]
    padding_mask: Tensor | None


@dataclass(frozen=True, kw_only=True)
class TargetSpec:
    """The widths and codebooks of the targets, from which a prediction loss is built.

    Attributes:
        dim: Width E of the quantized vectors.
        num_codebooks: Codebooks G; 0 for continuous targets.
        codebook_size: Entries V of each codebook.
    """

    dim: int
    num_codebooks: int
    codebook_size: int


@dataclass(kw_only=True)
class QuantizerOutput:
    """The output of a quantizer.

    Attributes:
        quantized: The quantized latents, shape `(B, N, E)`.
        codes: The chosen entry of each codebook, shape `(B, N, G)`; G is 0 without codebooks.
        probabilities: Soft assignment without noise and temperature, shape `(B, N, G, V)`; None for a quantizer
            without one.
        losses: The quantizer's own losses (codebook, commitment), already weighted: one value a frame, shape `(B, N)`
            each.
    """

    quantized: Tensor
    codes: Tensor
    probabilities: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    @property
    def assignment(self) -> Tensor:
        """The codes `(B, N, G)` without noise, as in evaluation; codebook usage and hard perplexity count these."""
        return self.codes if self.probabilities is None else self.probabilities.argmax(dim=-1)

    def at(self, indices: Tensor) -> QuantizerOutput:
        """Returns the output at frames `indices` `(B, M)`."""
        rows = torch.arange(len(indices), device=indices.device)[:, None]  # (B, 1)
        return QuantizerOutput(
            quantized=self.quantized[rows, indices],
            codes=self.codes[rows, indices],
            probabilities=None if self.probabilities is None else self.probabilities[rows, indices],
            losses={name: loss[rows, indices] for name, loss in self.losses.items()},
        )


@dataclass(kw_only=True)
class AllFrames:
    """The frames of each utterance, including those that are not masked, for a loss that uses them, too.

    Attributes:
        targets: The quantizer's output at every frame, N = T.
        num_frames: Frames of each utterance, B integers.
        positions: Which of the T frames each target is, shape `(B, M)`.
        context: The context of every frame, shape `(B, T, D)`, if the loss has `PredictionLoss.predicts_every_frame`.
        layers: As `LossInputs.layers`, but of every frame, if `context` is given.
    """

    targets: QuantizerOutput
    num_frames: tuple[int, ...]
    positions: Tensor
    context: Tensor | None = None
    layers: Mapping[int, Tensor] = field(default_factory=dict)

    def is_target(self, num_targets: Sequence[int]) -> Tensor:
        """Returns which frames are targets, `(B, T)`; `num_targets` are those of each utterance, B integers."""
        numbers = torch.arange(self.positions.shape[1])
        real = numbers[None, :] < torch.tensor(list(num_targets))[:, None]  # rows are padded with frame 0
        counts = torch.zeros(self.targets.codes.shape[:2], dtype=torch.int32, device=self.positions.device)
        counts.scatter_add_(1, self.positions, real.to(counts.device, torch.int32, non_blocking=True))
        return counts > 0


@dataclass(kw_only=True)
class LossInputs:
    """The inputs of a prediction loss: context frames, and the targets that they predict.

    Attributes:
        context: Shape `(B, M, D)`: the masked frames (`MaskedPrediction`) or all frames (`FuturePrediction`).
        targets: The quantizer's output at the same M frames.
        num_targets: Targets of each utterance without padding, B integers.
        address: Seeds the draws of this batch's negatives.
        first_ahead: Frames from a context to the nearest target that it has not seen: 0 if frames are masked; if
            contexts see their own frame, the fewest after which two latents share no audio.
        lookup: Returns the vectors `(…, E)` of codes `(…, G)`; None for continuous targets.
        all_frames: All frames, if the loss has `PredictionLoss.uses_every_frame`.
        drawn: What samplers have drawn for this batch before, `Draws.negatives`; empty if they draw now.
        layers: Outputs of layers of the context network at the same M frames, shape `(B, M, D)`, by their number in
            `PredictionLoss.context_layers`.
    """

    context: Tensor
    targets: QuantizerOutput
    num_targets: tuple[int, ...]
    address: RandomAddress
    first_ahead: int
    lookup: Callable[[Tensor], Tensor] | None = None
    all_frames: AllFrames | None = None
    drawn: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    layers: Mapping[int, Tensor] = field(default_factory=dict)

    def take(self, key: str) -> tuple[Tensor, ...] | None:
        """Returns what the sampler of this `key` has drawn before, as int64; None if it must draw now."""
        found = self.drawn.get(key, ())
        if not found or any(tensor.shape[:2] != self.context.shape[:2] for tensor in found):
            return None
        return tuple(tensor.long() for tensor in found)

    @property
    def candidates(self) -> Tensor:
        """The vectors `(B, N, E)` that negatives are drawn from: those of `all_frames` if given, or the targets."""
        return (self.targets if self.all_frames is None else self.all_frames.targets).quantized

    @property
    def positions(self) -> Tensor:
        """Which of the `candidates` each target is, shape `(B, M)`."""
        if self.all_frames is not None:
            return self.all_frames.positions
        quantized = self.targets.quantized
        return torch.arange(quantized.shape[1], device=quantized.device).expand(quantized.shape[:2])


@dataclass(kw_only=True)
class Negatives:
    """The distractors of each prediction, as indices into the candidates of an utterance.

    Attributes:
        indices: Which candidate each distractor is, shape `(B, M, K)`: n < N is one of the `LossInputs.candidates`,
            N + r is one of `vectors`.
        utterances: Which utterance's candidate each distractor is, shape `(B, M, K)`; None if all are from the
            prediction's own utterance.
        vectors: Further candidates of each utterance, such as codewords, shape `(B, R, E)`; None without any.
    """

    indices: Tensor
    utterances: Tensor | None = None
    vectors: Tensor | None = None


@dataclass(kw_only=True)
class LossOutput:
    """A sum over predictions with their number; the mean is taken once, over all processes and micro-batches.

    Attributes:
        total: Sum of the loss over all predictions, in nats, shape `()`.
        num_predictions: Predictions of each utterance, B integers.
        num_correct: Predictions whose true target scored above every negative, shape `()`.
        num_candidates: Candidates of a prediction including the true one; chance is `1 / num_candidates`. 0 if targets
            are not told apart, as in a regression; then no accuracy is logged.
        shares: Other shares to log, each as a number `()` and the total that it is a part of.
        terms: The terms whose sum is `total`, by their names, `()` each, if the loss is a weighted sum of several.
    """

    total: Tensor
    num_predictions: tuple[int, ...]
    num_correct: Tensor
    num_candidates: int
    shares: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)

    def share(self, name: str) -> Tensor:
        """Returns one of `shares` as a number in [0, 1], `()`."""
        part, whole = self.shares[name]
        return part / max(whole, 1)


@dataclass(kw_only=True)
class Prepared:
    """The tensors that are computed before the context network: latents, mask and targets.

    Attributes:
        encoding: The latents.
        targets: The quantizer's output at the frames to predict.
        target_padding_mask: True on padding among those frames, shape `(B, M)`; None without padding.
        num_targets: Frames to predict of each utterance, B integers.
        mask: The masked frames; None for an objective without masking.
        all_frames: All frames, if the loss has `PredictionLoss.uses_every_frame`.
    """

    encoding: Encoding
    targets: QuantizerOutput
    target_padding_mask: Tensor | None
    num_targets: tuple[int, ...]
    mask: Mask | None = None
    all_frames: AllFrames | None = None


@dataclass(kw_only=True)
class PretrainOutput:
    """The results of a forward pass that penalties, metrics and callbacks use.

    Attributes:
        features: The encoder's output before any normalisation, shape `(B, T, C)`.
        num_frames: Frames of each utterance, B integers.
        context: Output of the context network, shape `(B, T, D)`.
        targets: The quantizer's output at the frames to predict.
        target_padding_mask: True on padding among those frames, shape `(B, M)`; None without padding.
        prediction: The output of the prediction loss.
        mask: The masked frames; None for an objective without masking.
        inputs: The quantizer's output at every frame, if the context network sees quantized frames that are not the
            targets.
    """

    features: Tensor
    num_frames: tuple[int, ...]
    context: Tensor
    targets: QuantizerOutput
    target_padding_mask: Tensor | None
    prediction: LossOutput
    mask: Mask | None = None
    inputs: QuantizerOutput | None = None
