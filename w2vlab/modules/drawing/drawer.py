"""Draws masks and distractors of a batch without the weights of the model, in the processes that read the data."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from collections import OrderedDict
from typing import TypeVar

import torch
from torch import nn

from w2vlab.interfaces import FeatureEncoder, Masking, PredictionLoss, StepDependent
from w2vlab.modules.drawing.copies import address_of_copies, draw_copies, repeated
from w2vlab.types import AudioBatch, Draws, Mask, RandomAddress, TargetSpec

Part = TypeVar("Part", bound=nn.Module)

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))

_PLAIN = (bool, int, float, str, type(None), TargetSpec)
"""Types of the attributes of a part that count as its options, also in tuples, lists, sets and dicts."""


class Drawer:
    """Makes the `Draws` of batches as a model would, from copies of its parts without any tensors.

    It is given to worker processes: it can be pickled, and holds nothing that is on a device.

    Args:
        encoder: Gives the number of frames.
        masking: The masking strategy; None if nothing is masked.
        loss: Draws distractors and counts predictions.
        num_channels: Width D of the frames that are masked.
        first_ahead: As in `LossInputs`.
        seed: Seed of the run.
        training: Whether it draws for training; otherwise for validation.
        copies: Masked copies of each utterance.
    """

    def __init__(
        self,
        *,
        encoder: FeatureEncoder,
        masking: Masking | None,
        loss: PredictionLoss,
        num_channels: int,
        first_ahead: int,
        seed: int,
        training: bool,
        copies: int = 1,
    ) -> None:
        self.seed = seed
        self.stream = "train" if training else "validation"
        self._encoder = without_tensors(encoder)
        self._masking = None if masking is None else without_tensors(masking).train(training)
        self._loss = without_tensors(loss).train(training)
        self._num_channels = num_channels
        self._first_ahead = first_ahead
        self._copies = copies
        self._options = options_of(self._masking, self._loss)

    @property
    def is_usable(self) -> bool:
        """Whether it draws in other processes what the model draws.

        Not if a part follows the number of updates, which a worker process does not know in a validation, or if the
        parts cannot be sent to processes that are not forked.
        """
        parts = [part for part in (self._masking, self._loss) if part is not None]
        if any(isinstance(module, StepDependent) for part in parts for module in part.modules()):
            return False
        started = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        if started != "fork":
            try:
                pickle.dumps(self)
            except Exception:  # whatever the pickling of a part of any origin raises
                return False
        return True

    def __call__(self, batch: AudioBatch, update: int) -> Draws | None:
        """Draws for a batch, from the ids and lengths of its utterances.

        Args:
            batch: The batch.
            update: Optimizer updates that are done before the one that the batch is used in; 0 for a validation.

        Returns:
            None if that fails, such as for an utterance that is too short: the training step then draws, and says why.
        """
        address = RandomAddress(seed=self.seed, update=update, ids=batch.ids, stream=self.stream)
        try:
            return self._draw(batch, address)
        except Exception:  # a part of any origin; also one that reads its weights, which are not here
            return None

    def _draw(self, batch: AudioBatch, address: RandomAddress) -> Draws:
        of_utterances = tuple(self._encoder.num_frames(samples) for samples in batch.num_samples)
        num_frames = repeated(of_utterances, self._copies)
        mask, num_targets = None, num_frames
        positions = torch.arange(max(num_frames)).expand(len(num_frames), -1)  # (B, T)
        if self._masking is not None:
            mask = self._mask(of_utterances, address)
            num_targets, positions = mask.num_targets, mask.targets
        return Draws(
            address,
            count_predictions(self._loss, mask, num_frames, self._first_ahead),
            mask,
            self._loss.draw(num_targets, num_frames, positions, address_of_copies(address, self._copies)),
            made_for=(num_frames, self._options),
        )

    def _mask(self, num_frames: tuple[int, ...], address: RandomAddress) -> Mask:
        masking = self._masking
        assert masking is not None, "checked by the caller"
        return draw_copies(
            lambda one: masking(num_frames, one.generators("mask"), self._num_channels), address, self._copies
        )


def count_predictions(loss: PredictionLoss, mask: Mask | None, num_frames: tuple[int, ...], first_ahead: int) -> int:
    """Counts the predictions of a micro-batch.

    Args:
        loss: The prediction loss.
        mask: Which frames are predicted; None for all.
        num_frames: Frames of each utterance, B integers.
        first_ahead: As in `LossInputs`.
    """
    predicted = num_frames if mask is None or loss.predicts_every_frame else mask.num_targets
    return sum(loss.num_predictions(predicted, first_ahead))


def options_of(*parts: nn.Module | None) -> str:
    """Returns a hash of the options of parts: their classes, their plain attributes, and whether they are in training.

    Draws of other options are not used, such as those that worker processes have made before a callback changed one.
    """
    found = [
        (
            name,
            type(module).__qualname__,
            module.training,
            [(key, value) for key, value in vars(module).items() if key not in _OF_EVERY_MODULE and _is_plain(value)],
        )
        for part in parts
        if part is not None
        for name, module in part.named_modules()
    ]
    return hashlib.blake2b(repr(found).encode(), digest_size=8).hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(one) for key, one in value.items())
    return isinstance(value, _PLAIN)


def without_tensors(module: Part) -> Part:
    """Returns a copy of a module with all its options, but without parameters, buffers and hooks.

    What reads a weight of it fails, because the weight is None.
    """
    copy = type(module).__new__(type(module))
    vars(copy).update(vars(nn.Module()))
    for name, value in vars(module).items():
        if name not in _OF_EVERY_MODULE and not isinstance(value, torch.Tensor):
            vars(copy)[name] = value
    vars(copy)["training"] = module.training
    vars(copy)["_parameters"] = dict.fromkeys(module._parameters)
    vars(copy)["_buffers"] = dict.fromkeys(module._buffers)
    vars(copy)["_modules"] = OrderedDict(
        (name, None if child is None else without_tensors(child)) for name, child in module._modules.items()
    )
    return copy
