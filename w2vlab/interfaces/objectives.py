"""The families that make the objective: losses, samplers of distractors, penalties; and decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from w2vlab.types import (
    LossInputs,
    LossOutput,
    Negatives,
    PretrainOutput,
    QuantizerOutput,
    RandomAddress,
    TargetSpec,
)


class PredictionLoss(nn.Module, ABC):
    """Scores how well contexts predict their targets.

    Attributes:
        name: The name of its value in the logs, as in `train/loss/<name>`.
        teaches_targets: Whether its gradient reaches the quantized vectors. If not, the vectors must still be in the
            graph of the loss, because DDP waits for a gradient of every parameter.
        needs_codes: Whether it predicts codes, so that it cannot be built for continuous targets.
        uses_every_frame: Whether it needs `LossInputs.all_frames`.
        predicts_every_frame: Whether it predicts the frames that are not masked, too, for which it also needs
            `uses_every_frame` and `AllFrames.context`.
        context_layers: Layers of the context network whose outputs it needs, `LossInputs.layers`: from 1, or from -1
            for the last layer downwards.
        feedforward: Whether it needs the output of the last feed-forward network of these layers, before its residual
            connection, in place of that of the layer.
        first_weight: Factor of what is logged under `name`: 1, unless it is the first of several losses.
        uses_contexts: Whether it predicts from the contexts. If not, from `context_layers` alone, and the contexts must
            still be in the graph of the loss.
    """

    name: ClassVar[str]
    teaches_targets: ClassVar[bool] = True
    needs_codes: ClassVar[bool] = False
    uses_every_frame: bool = False
    predicts_every_frame: bool = False
    context_layers: tuple[int, ...] = ()
    feedforward: bool = False
    uses_contexts: bool = True
    first_weight: float = 1.0

    @property
    def utterances_are_independent(self) -> bool:
        """Whether the loss of an utterance depends neither on padding nor on the others of the batch.

        If not, it is computed for each of several micro-batches that are computed as one batch (`data.fuse_seconds`).
        """
        return False

    def heads(self) -> dict[str, list[tuple[nn.Parameter, slice]]]:
        """Returns the weights that predict each codebook: rows of parameters, by a name for each.

        Empty if no weights belong to one codebook alone.
        """
        return {}

    @property
    def terms(self) -> Mapping[str, PredictionLoss]:
        """The losses that this one is a weighted sum of, by their names in the logs; itself if it is a single one."""
        return {self.name: self}

    @property
    def options_of_layers(self) -> Mapping[int, str]:
        """The option of the model that each of `context_layers` comes from."""
        return dict.fromkeys(self.context_layers, "loss.layers")

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

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws on the host, where batches are made, what `forward` then finds in `LossInputs.drawn`.

        It reads no weights, and follows from the arguments and the options alone. By default nothing is drawn ahead,
        and `forward` draws.

        Args:
            num_targets: Frames to predict of each utterance, B integers.
            num_frames: All frames of each utterance, B integers.
            positions: Which of the frames each target is, shape `(B, M)`, on the host.
            address: As in `LossInputs`.

        Returns:
            Integers of shape `(B, M, ...)`, by the `NegativeSampler.key` of who drew them.
        """
        return {}

    @abstractmethod
    def forward(self, inputs: LossInputs) -> LossOutput:
        """Returns the summed loss of all predictions with their number."""


PredictionLossFactory = Callable[[int, TargetSpec], PredictionLoss]


@dataclass(kw_only=True)
class LossTerm:
    """One of several prediction losses of a model.

    Attributes:
        loss: Builds the loss from the widths of contexts and targets.
        weight: Factor of its mean over its own predictions in the objective.
        layer: Layer of the context network whose output it predicts from: from 1, or from -1 for the last layer
            downwards. None for the contexts.
    """

    loss: PredictionLossFactory
    weight: float = 1.0
    layer: int | None = None


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

    @property
    def utterances_are_independent(self) -> bool:
        """Whether it draws for each utterance, and not among the other utterances of the micro-batch."""
        return False

    @property
    def key(self) -> str:
        """Names what this sampler draws: samplers with the same key draw the same for the same inputs."""
        source = "all frames" if self.uses_every_frame else "targets"
        return f"{type(self).__qualname__} {self.purpose}: {self.num_negatives} of {source}"

    def draw(
        self, num_targets: Sequence[int], num_frames: Sequence[int], positions: Tensor, address: RandomAddress
    ) -> dict[str, tuple[Tensor, ...]]:
        """Draws on the host, where batches are made, what `forward` then finds with `inputs.take(self.key)`.

        A sampler that does not define it draws in `forward` alone.

        Args:
            num_targets: Frames to predict of each utterance, B integers.
            num_frames: All frames of each utterance, B integers.
            positions: Which of the frames each target is, shape `(B, M)`, on the host.
            address: As in `LossInputs`.

        Returns:
            Integers of shape `(B, M, ...)` by `key`, best in the narrowest type that holds them
            (`functional.negatives.narrow`).
        """
        return {}

    @abstractmethod
    def forward(self, inputs: LossInputs) -> Negatives:
        """Draws the distractors of each frame to predict, on the host and without reading from the device.

        If `inputs.take(self.key)` is not None, it is what `draw` returned for the same inputs.
        """


class Penalty(nn.Module, ABC):
    """An optional regularisation term that is added to the prediction loss.

    Attributes:
        weight: Factor of the value in the objective.
    """

    weight: float

    @property
    def utterances_are_independent(self) -> bool:
        """Whether each utterance has a value, which depends neither on padding nor on the others of the batch.

        If not, it is computed for each of several micro-batches that are computed as one batch (`data.fuse_seconds`).
        """
        return False

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
