"""The families of parts. Subclassing one of these classes is all the registration there is.

A part whose widths follow from its neighbours takes them as its first arguments. The module that assembles the parts
supplies them, so that YAML never repeats a width. Modules therefore receive parts as factories (the `…Factory`
aliases): in YAML a class name with its other arguments, in Python the class itself or a `functools.partial` of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from w2vlab.frame_grid import FrameGrid
from w2vlab.types import (
    AudioBatch,
    LossInputs,
    LossOutput,
    Mask,
    Negatives,
    PretrainOutput,
    QuantizerOutput,
    TargetSpec,
)
from w2vlab.vocabulary import Vocabulary


class StepDependent(ABC):
    """Something whose behaviour is a function of the number of updates, such as an annealed temperature."""

    @abstractmethod
    def set_update(self, update: int, seed: int = 0) -> None:
        """Moves to the state that belongs to `update` optimiser updates done.

        The state must follow from `update` alone and not from the number of calls: the module passes the trainer's
        count, so that a resumed run continues at the same state and gradient accumulation changes nothing.

        Args:
            update: Optimiser updates done.
            seed: The seed of the run, for draws that are made once an update and are equal on all processes.
        """

    @abstractmethod
    def scheduled_values(self, update: int) -> dict[str, float]:
        """Returns the scheduled values after `update` updates, by their names in the logs."""


class LearnsByStatistics(ABC):
    """Something that learns from statistics of an update and not by gradient, such as moving averages.

    In training, `forward` may collect statistics but must not change the state, because an update has as many forward
    passes as micro-batches. The statistics must not be a registered buffer, because DDP overwrites buffers with those
    of the first process.
    """

    @abstractmethod
    def finish_update(self, update: int, skipped: Tensor | None = None) -> None:
        """Learns from the statistics of all processes since the last call.

        The module calls it on every process, once an update, after the last backward pass.

        Args:
            update: Optimiser updates done before this one.
            skipped: True, shape `()` and on the device, if the update must not change the state; None for false.
        """

    @abstractmethod
    def forget_update(self) -> None:
        """Discards the statistics since the last call of `finish_update`."""


class Compilable:
    """A module that `torch.compile` can take in one piece, once for batches of all lengths.

    The `forward` of a subclass takes and returns only tensors or None, and reads nothing else that differs from batch
    to batch: lengths and draws on the host are made by the caller. `CompileModel` compiles each such module that is not
    inside another one, and leaves other modules as they are.
    """


class FeatureEncoder(nn.Module, ABC):
    """Turns a waveform into a sequence of latents, each seeing a short stretch of audio.

    Attributes:
        output_dim: Width C of the latents.
        receptive_field: Samples that one latent sees.
        stride: Samples from one latent to the next.
    """

    output_dim: int
    receptive_field: int
    stride: int

    def num_frames(self, num_samples: int) -> int:
        """Returns how many latents `num_samples` samples give; 0 for less than the receptive field."""
        return max(0, (num_samples - self.receptive_field) // self.stride + 1)

    @property
    def grid(self) -> FrameGrid:
        """Where the latents are in time."""
        return FrameGrid(self.stride, self.receptive_field)

    @property
    def frames_are_independent(self) -> bool:
        """Whether in evaluation mode a latent depends on its receptive field alone, and not on the whole utterance."""
        return False

    def of_batch(self, batch: AudioBatch) -> Tensor:
        """Returns the latents `(B, T, C)` of a batch."""
        latents: Tensor = self(batch.waveform, batch.num_samples)
        return latents

    @abstractmethod
    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Encodes `waveform` `(B, S)`, of which row b has `num_samples[b]` samples, into latents `(B, T, C)`."""


class OfUtterances(ABC):
    """Something that reads what belongs to an utterance from a file, by its id, such as units.

    Attributes:
        dry_run: Whether utterances are invented, as in `w2vlab explain`: it then draws at random, and reads no file.
    """

    dry_run: bool = False

    @abstractmethod
    def check_utterances(self, utterances: Iterable[tuple[str, int]]) -> None:
        """Checks before training that the file has all utterances, and that they have the right length.

        Args:
            utterances: Id and samples at 16 kHz of each utterance that is trained or validated on.

        Raises:
            RunError: An utterance is missing or has another length; it is named.
        """


class UtteranceEncoder(FeatureEncoder, OfUtterances):
    """An encoder whose latents belong to utterances, such as embeddings of codes that a file has; audio is not read."""

    @abstractmethod
    def of_batch(self, batch: AudioBatch) -> Tensor:
        """Returns the latents `(B, T, C)` of the windows of a batch, found by `ids` and `starts`."""

    def forward(self, waveform: Tensor, num_samples: Sequence[int]) -> Tensor:
        """Raises a RuntimeError, because audio alone does not say which utterance it is."""
        raise RuntimeError(
            f"{type(self).__name__} reads a file by the ids of utterances, and cannot encode audio. Give a batch with "
            "ids to `encode` of the model; or `w2vlab evaluate`, with a corpus whose codes are in the file."
        )


class ContextNetwork(nn.Module, ABC):
    """Turns the sequence of latents into a sequence of contexts.

    Attributes:
        model_dim: Width of the frames that `forward` takes; masked frames are replaced at this width.
        output_dim: Width D of the contexts.
        causal: Whether a context is computed from its own and earlier frames only. Norms of published models that take
            statistics over the whole utterance are allowed.
    """

    model_dim: int
    output_dim: int
    causal: ClassVar[bool] = False

    def project(self, latents: Tensor) -> Tensor:
        """Brings latents `(B, T, C)` to the width `model_dim` at which frames are masked; unchanged by default."""
        return latents

    @abstractmethod
    def forward(self, frames: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Turns projected frames into contexts.

        Args:
            frames: Shape `(B, T, model_dim)`.
            padding_mask: True on padding, shape `(B, T)`; None without padding.

        Returns:
            Contexts, shape `(B, T, D)`.
        """


class Quantizer(nn.Module, ABC):
    """Replaces each latent by entries of finite codebooks.

    Attributes:
        output_dim: Width E of the quantized vectors.
        num_codebooks: Codebooks G; 0 for continuous vectors.
        codebook_size: Entries V of each codebook.
        frames_are_independent: Whether in evaluation mode no frame depends on others, so that it can work in pieces.
    """

    output_dim: int
    num_codebooks: int
    codebook_size: int
    frames_are_independent: ClassVar[bool] = False

    @property
    def spec(self) -> TargetSpec:
        """The description of the targets that a prediction loss is built from."""
        return TargetSpec(dim=self.output_dim, num_codebooks=self.num_codebooks, codebook_size=self.codebook_size)

    @abstractmethod
    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Quantizes latents `(B, N, C)`; `padding_mask` `(B, N)` is True on padding."""

    @abstractmethod
    def lookup(self, codes: Tensor) -> Tensor:
        """Returns the vectors `(…, E)` of `codes` `(…, G)`.

        Raises:
            RuntimeError: The quantizer has no codebook.
        """


class UtteranceTargets(Quantizer, OfUtterances):
    """A quantizer whose codes belong to utterances, such as units that a file has, and do not follow from latents."""

    @abstractmethod
    def of_utterances(self, batch: AudioBatch, grid: FrameGrid, num_frames: Sequence[int]) -> QuantizerOutput:
        """Returns the codes of every frame of a batch, on the device of its waveform.

        Args:
            batch: Utterances or windows of them, found by `ids` and `starts`.
            grid: Where the frames are that the codes are targets of.
            num_frames: Frames of each utterance, B integers.
        """

    def forward(self, latents: Tensor, padding_mask: Tensor | None = None) -> QuantizerOutput:
        """Raises a RuntimeError, because latents do not say which utterance they are of."""
        raise RuntimeError(f"{type(self).__name__} reads a file by the ids of utterances, and cannot quantize latents.")


class Masking(nn.Module, ABC):
    """Chooses which frames are masked, that is, hidden from the context network, and which are predicted."""

    @abstractmethod
    def forward(self, num_frames: Sequence[int], generators: Sequence[np.random.Generator], num_channels: int) -> Mask:
        """Draws a mask on the host for utterances of `num_frames` frames, each from its own generator.

        Args:
            num_frames: Frames of each utterance, B integers.
            generators: One source of randomness an utterance.
            num_channels: Width D of a frame, for strategies that mask channels.

        Raises:
            ValueError: An utterance is too short to be masked.
        """

    @property
    def min_frames(self) -> int:
        """The fewest frames an utterance needs; the data layer skips shorter utterances."""
        return 1


class PredictionLoss(nn.Module, ABC):
    """Scores how well contexts predict their targets.

    Attributes:
        name: The name of its value in the logs, as in `train/loss/<name>`.
        teaches_targets: Whether its gradient reaches the quantized vectors. If not, the vectors must still be in the
            graph of the loss, because DDP waits for a gradient of every parameter.
        uses_every_frame: Whether it needs `LossInputs.all_frames`.
        predicts_every_frame: Whether it predicts the frames that are not masked, too, for which it also needs
            `uses_every_frame` and `AllFrames.context`.
    """

    name: ClassVar[str]
    teaches_targets: ClassVar[bool] = True
    uses_every_frame: bool = False
    predicts_every_frame: bool = False

    def min_frames(self, first_ahead: int) -> int:
        """Returns the fewest targets an utterance needs; `first_ahead` as in `LossInputs`."""
        return 1

    def num_predictions(self, num_targets: Sequence[int], first_ahead: int) -> tuple[int, ...]:
        """Returns the predictions of each utterance, `LossOutput.num_predictions`, before the forward pass.

        Args:
            num_targets: Targets of each utterance, B integers; all of its frames if the loss `predicts_every_frame`.
            first_ahead: As in `LossInputs`.
        """
        return tuple(max(0, frames - first_ahead) for frames in num_targets)

    @abstractmethod
    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed loss of all predictions with their number."""


class NegativeSampler(nn.Module, ABC):
    """Draws the distractors among which a contrastive loss identifies the true target.

    Attributes:
        num_negatives: Distractors K of each prediction.
        purpose: Names the random numbers of this sampler, which are `inputs.address.generators(self.purpose)`.
            `CombinedNegatives` changes it if two of its samplers have the same.
        uses_every_frame: Whether the sampler needs `LossInputs.all_frames`.
    """

    num_negatives: int
    purpose: str = "negatives"
    uses_every_frame: bool = False

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws the distractors of each frame to predict, on the host and without reading from the device."""


class Penalty(nn.Module, ABC):
    """An optional regularisation term that is added to the prediction loss.

    Attributes:
        weight: Factor of the value in the objective.
    """

    weight: float

    @abstractmethod
    def forward(self, output: PretrainOutput) -> Tensor:
        """Returns the unweighted value, one for the batch `()` or one an utterance `(B,)`."""


class UpdatePenalty(Penalty):
    """A penalty that is a nonlinear function of sums over frames, such as the perplexity of a mean assignment.

    Its value depends on the frames that are summed: those of the global batch, that is, of all processes and
    micro-batches, unless `whole_update` is False. The module sums the statistics before the first backward pass.

    Attributes:
        whole_update: Whether statistics are summed over the global batch, or over each micro-batch.
    """

    whole_update: bool

    @abstractmethod
    def statistics(self, targets: QuantizerOutput, padding_mask: Tensor | None) -> Tensor | None:
        """Returns the statistics, summed over frames, of any shape; None if the targets have none.

        Args:
            targets: The quantizer's output at the frames to predict.
            padding_mask: True on padding, shape `(B, N)`; None without padding.
        """

    @abstractmethod
    def evaluate(self, statistics: Tensor) -> Tensor:
        """Returns the unweighted value `()` of summed statistics."""

    def forward(self, output: PretrainOutput) -> Tensor:
        """Returns the unweighted value `()` of one micro-batch alone."""
        statistics = self.statistics(output.targets, output.target_padding_mask)
        return output.context.new_zeros(()) if statistics is None else self.evaluate(statistics)


class Decoder(ABC):
    """Turns scores over a vocabulary into transcripts."""

    @abstractmethod
    def decode(self, log_probabilities: Tensor, num_frames: Sequence[int]) -> list[str]:
        """Returns the transcript of each utterance of a batch, in units of the `Vocabulary`.

        Args:
            log_probabilities: Shape `(B, T, V)` for V entries of the vocabulary, the blank first.
            num_frames: Frames of each utterance, B integers.
        """


EncoderFactory = Callable[[], FeatureEncoder]
ContextFactory = Callable[[int], ContextNetwork]
QuantizerFactory = Callable[[int], Quantizer]
MaskingFactory = Callable[[], Masking]
PredictionLossFactory = Callable[[int, TargetSpec], PredictionLoss]
NegativeSamplerFactory = Callable[[TargetSpec], NegativeSampler]
PenaltyFactory = Callable[[], Penalty]
DecoderFactory = Callable[[Vocabulary], Decoder]
