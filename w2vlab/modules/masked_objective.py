"""What the objectives that mask frames share: the student from the waveform to contexts, and what its loss needs."""

from __future__ import annotations

from torch import Tensor, nn

from w2vlab.functional.lengths import gather_frames
from w2vlab.interfaces import Masking
from w2vlab.modules.frontend import make_encoding
from w2vlab.modules.pretraining import PretrainingModule
from w2vlab.types import AudioBatch, Encoding, LossInputs, Mask, Prepared, RandomAddress


class MaskedObjective(PretrainingModule):
    """Base of the objectives that predict masked frames.

    A subclass builds the parts `encoder`, `norm`, `context`, `masking`, `quantizer`, `loss`, `mask_embedding`, and
    calls `check_loss` when it has them.
    """

    targets_follow_clean_audio = True

    norm: nn.Module
    masking: Masking

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

    @property
    def layers_of_loss(self) -> dict[int, int]:
        """Layers of the context network that the loss predicts from, by its own numbers, which can be negative."""
        count = self.context.num_layers
        return {number: number if number > 0 else count + 1 + number for number in self.loss.context_layers}

    def check_loss(self) -> None:
        """Checks that the loss fits the context network and the penalties.

        Raises:
            ValueError: The context network has no such layer, or no layers, or its last one would not be trained; or a
                loss and a penalty have the same name.
        """
        loss = self.loss
        if same := sorted(set(loss.terms) & set(self.penalties)):
            raise ValueError(
                f"The names in `penalties` must not be those of losses, but `{same[0]}` is. Choose another one."
            )
        if not loss.context_layers:
            return
        count, name = self.context.num_layers, type(self.context).__name__
        if count == 0:
            raise ValueError(
                f"`context` must be a sequence of layers for a loss that predicts from layers, but is {name}. Use "
                "TransformerContext, or a loss on the contexts alone."
            )
        options = loss.options_of_layers
        for number, option in options.items():
            if not 1 <= abs(number) <= count:
                raise ValueError(
                    f"`{option}` must be from 1 to {count} (or -1 to -{count}, from the last) for this {name}, but is "
                    f"{number}. Change it, or `context.num_layers`."
                )
        last = max(self.layers_of_loss.values())
        if not loss.uses_contexts and last < count:
            raise ValueError(
                f"{' and '.join(f'`{option}`' for option in dict.fromkeys(options.values()))} must include the last "
                f"layer of `context`, {count}, but {'is' if len(options) == 1 else 'are'} "
                f"{', '.join(map(str, options))}: no loss would train those after {last}. Change them, or "
                f"set `context.num_layers` to {last}."
            )

    def encode(self, batch: AudioBatch) -> Encoding:
        """Returns the latents of a batch, after layer normalization, with their padding mask."""
        features = self.encoder.of_batch(batch)  # (B, T, C)
        return make_encoding(self.encoder, features, self.norm(features), batch)

    def contexts_of(self, frames: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, dict[int, Tensor]]:
        """Returns the contexts `(B, T, D)` of projected frames, and the layers that the loss needs, by its numbers."""
        layers = self.layers_of_loss
        if not layers:
            context: Tensor = self.context(frames, padding_mask)
            return context, {}
        context, found = self.context.forward_layers(frames, padding_mask, set(layers.values()), self.loss.feedforward)
        return context, {number: found[layer] for number, layer in layers.items()}

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
