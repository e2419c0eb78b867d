"""What the objectives that mask frames share: the student from the waveform to contexts, and what its loss needs."""

from __future__ import annotations

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from w2vlab.functional.lengths import gather_frames
from w2vlab.interfaces import Masking, Penalty, PredictionLoss
from w2vlab.modules.frontend import make_encoding
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch, Encoding, LossInputs, Mask, Prepared, RandomAddress


class MaskedObjective(PretrainingModule):
    """Base of the objectives that predict masked frames.

    A subclass builds the parts `encoder`, `norm`, `context`, `masking`, `quantizer`, `loss`, `mask_embedding`.

    Args:
        optimizer: Builds the optimizer from the parameters.
        scheduler: Builds the learning-rate schedule, stepped once an update.
        penalties: The further terms of the objective, by their names in the logs.
        seed: Seed of every random draw of the run.
    """

    targets_follow_clean_audio = True

    norm: nn.Module
    masking: Masking

    def __init__(
        self,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable,
        penalties: dict[str, Penalty],
        seed: int,
    ) -> None:
        super().__init__(optimizer, scheduler, penalties, seed)
        self.layers_of_loss: dict[int, int] = {}
        """Layers of the context network, from 1, by their numbers in the loss, which can be negative."""

    @property
    def first_ahead(self) -> int:
        """0: the context of a masked frame has not seen that frame, so the frame itself is the target."""
        return 0

    @property
    def min_frames(self) -> int:
        """The fewest latents of an utterance for which both the masking and the loss work."""
        return max(self.masking.min_frames, self.loss.min_frames(self.first_ahead))

    @property
    def frame_masking(self) -> Masking:
        """The masking strategy."""
        return self.masking

    def check_layers(self, loss: PredictionLoss) -> dict[int, int]:
        """Returns the layers that a loss predicts from, by its own numbers, which can be negative.

        Raises:
            ValueError: The context network has no such layer, or no layers, or its last one would not be trained; or a
                loss and a penalty have the same name.
        """
        if same := sorted(set(loss.terms) & set(self.penalties)):
            raise ValueError(
                f"The names in `penalties` must not be those of losses, but `{same[0]}` is. Choose another one."
            )
        if not loss.context_layers:
            return {}
        count, name = self.context.num_layers, type(self.context).__name__
        if count == 0:
            raise ValueError(
                f"`context` must be a sequence of layers for a loss that predicts from layers, but is {name}. Use "
                "TransformerContext, or a loss on the contexts alone."
            )
        for number in loss.context_layers:
            if not 1 <= abs(number) <= count:
                raise ValueError(
                    f"The layers of `loss` must be from 1 to {count} (or -1 to -{count}, from the last) for this "
                    f"{name}, but one is {number}. Change it, or `context.num_layers`."
                )
        layers = {number: number if number > 0 else count + 1 + number for number in loss.context_layers}
        if not loss.uses_contexts and max(layers.values()) < count:
            last = max(layers.values())
            raise ValueError(
                f"The layers of `loss` must include the last one of `context`, {count}, but are "
                f"{', '.join(map(str, layers))}: no loss would train those after {last}. Change them, or set "
                f"`context.num_layers` to {last}."
            )
        return layers

    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch, after layer normalization, with their padding mask."""
        features = self.encoder.of_batch(batch)  # (B, T, C)
        return make_encoding(self.encoder, features, self.norm(features), batch)

    def contexts_of(self, frames: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns the contexts `(B, T, D)` of projected frames, and the layers that the loss needs, by its numbers."""
        if not self.layers_of_loss:
            context: Tensor = self.context(frames, padding_mask)
            return context, {}
        context, found = self.context.forward_layers(
            frames, padding_mask, set(self.layers_of_loss.values()), self.loss.feedforward
        )
        return context, {number: found[layer] for number, layer in self.layers_of_loss.items()}

    def loss_inputs(
        self,
        prepared: Prepared,
        mask: Mask,
        context: Tensor,
        layers: dict[int, Tensor],
        address: RandomAddress,
        drawn: dict[str, tuple[Tensor, ...]],
    ) -> LossInputs:
        """Returns what the loss compares: the contexts of the frames to predict, and their targets.

        Args:
            prepared: Latents, mask and targets.
            mask: The mask.
            context: Contexts of all frames, `(B, T, D)`.
            layers: Outputs of layers, `(B, T, D)`, by the numbers of the loss.
            address: The seed of the distractors.
            drawn: Distractors that were drawn before.
        """
        if prepared.all_frames is not None and self.loss.predicts_every_frame:
            prepared.all_frames.context, prepared.all_frames.layers = context, layers
        return LossInputs(
            context=gather_frames(context, mask.targets),  # (B, M, D)
            targets=prepared.targets,
            num_targets=prepared.num_targets,
            address=address,
            first_ahead=self.first_ahead,
            lookup=self.quantizer.lookup,
            all_frames=prepared.all_frames,
            drawn=drawn,
            layers={number: gather_frames(layer, mask.targets) for number, layer in layers.items()},
        )
