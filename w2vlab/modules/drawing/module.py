"""The base of modules whose random draws can be made where batches are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from w2vlab.batch import join_draws, split_micro_batches
from w2vlab.interfaces import ContextNetwork, FeatureEncoder, Masking, PredictionLoss
from w2vlab.modules.drawing.copies import draw_copies, repeated
from w2vlab.modules.drawing.drawer import Drawer, count_predictions, options_of
from w2vlab.modules.update import TrainedModule
from w2vlab.types import AudioBatch, Draws, Mask, RandomAddress


class DrawingModule(TrainedModule):
    """A module that masks frames and draws distractors, from generators keyed by (seed, update, utterance).

    **Where.** `make_drawer` returns what the data module gives to the processes that read batches, so that these come
    with their `Draws`. The module uses them if they are those that it would make itself (`draws_of`). Otherwise, or if
    a loader makes none, it draws itself: the same numbers, but in the training process.
    """

    encoder: FeatureEncoder
    context: ContextNetwork
    loss: PredictionLoss

    def _reset_update(self) -> None:
        super()._reset_update()
        self._options = ""  # of what draws in the update; not known between updates

    def begin_update(self, batches: Sequence[AudioBatch]) -> None:
        """Draws for all micro-batches of this process, unless their draws came with them."""
        self._options = options_of(self.frame_masking, self.loss)
        super().begin_update(batches)

    @property
    @abstractmethod
    def first_ahead(self) -> int:
        """Frames from a context to the nearest target that it has not seen; 0 if frames are masked."""

    @property
    def frame_masking(self) -> Masking | None:
        """What draws masks; None if the objective masks nothing."""
        return None

    def copies(self, training: bool) -> int:
        """Returns how many masked copies of each utterance are computed, in training or in a validation; one."""
        return 1

    def draw_mask(self, num_samples: Sequence[int], address: RandomAddress) -> Mask | None:
        """Draws the mask of utterances of `num_samples` samples on the host; None if the objective masks nothing.

        Copies of an utterance have a row each, one after another.
        """
        masking = self.frame_masking
        if masking is None:
            return None
        num_frames = tuple(map(self.encoder.num_frames, num_samples))
        return draw_copies(
            lambda one: masking(num_frames, one.generators("mask"), self.context.model_dim),
            address,
            self.copies(self.training),
        )

    def _rows(self, num_samples: Sequence[int]) -> tuple[int, ...]:
        """Returns the frames of each row: of all copies of the utterances."""
        return repeated(tuple(map(self.encoder.num_frames, num_samples)), self.copies(self.training))

    def make_drawer(self, training: bool = True) -> Drawer | None:
        """Returns what draws for batches where they are made, without this module; None if only the module can.

        Args:
            training: Whether it draws for training; otherwise for validation.
        """
        own = type(self)
        if own.draw is not DrawingModule.draw or own.draw_mask is not DrawingModule.draw_mask:
            return None
        drawer = Drawer(
            encoder=self.encoder,
            masking=self.frame_masking,
            loss=self.loss,
            num_channels=self.context.model_dim,
            first_ahead=self.first_ahead,
            seed=self.seed,
            training=training,
            copies=self.copies(training),
        )
        return drawer if drawer.is_usable else None

    def draws_of(self, batch: AudioBatch, address: RandomAddress) -> Draws | None:
        """Returns the draws that came with a batch; None unless they are those that this module would make itself."""
        draws = batch.draws
        if draws is None or draws.address != address:
            return None
        options = self._options or options_of(self.frame_masking, self.loss)
        made_for = self._rows(batch.num_samples), options
        return draws if draws.made_for == made_for else None

    def negatives_of(
        self, batch: AudioBatch, address: RandomAddress, mask: Mask | None
    ) -> dict[str, tuple[Tensor, ...]]:
        """Returns the distractors that came with a batch and `mask`; empty unless they would be drawn now, too."""
        made = self.draws_of(batch, address)
        return {} if made is None or made.mask is not mask else made.negatives

    def draw(self, batch: AudioBatch, address: RandomAddress) -> Draws:
        """Draws the mask of a micro-batch, and counts its predictions, unless its draws came with it."""
        if (made := self.draws_of(batch, address)) is not None:
            return made
        if batch.num_micro_batches > 1:
            return join_draws([self.draw(one, replace(address, ids=one.ids)) for one in split_micro_batches(batch)])
        mask = self.draw_mask(batch.num_samples, address)
        num_frames = self._rows(batch.num_samples)
        return Draws(address, count_predictions(self.loss, mask, num_frames, self.first_ahead), mask)
