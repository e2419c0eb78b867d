"""The random draws for a micro-batch, and the address that they follow from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(kw_only=True)  # not frozen: Lightning converts the numbers of batches in place for some precisions
class RandomAddress:
    """The seed of a random draw, in place of a generator whose state would have to be kept.

    The same address gives the same numbers in a resumed run and on another number of processes.

    Attributes:
        seed: The seed of the run.
        update: Optimiser updates done before this one.
        ids: Utterances of the batch.
        stream: Separates the draws of training, validation and other uses.
    """

    seed: int
    update: int
    ids: tuple[str, ...]
    stream: str = "train"

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """Returns a new generator for each utterance; generators of different purposes (`"mask"`) are independent."""
        keys = (f"{self.stream}/{purpose}/{name}".encode() for name in self.ids)
        digests = (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys)
        return [np.random.default_rng((self.seed, self.update, digest)) for digest in digests]


@dataclass(kw_only=True)
class Mask:
    """The output of a masking strategy for one batch.

    Attributes:
        frames: True on frames that are hidden from the context network, shape `(B, T)`.
        targets: Indices of the frames to predict, ascending in each row, shape `(B, M)`; a row with fewer than M
            targets is padded with frame 0.
        num_targets: Targets of each row without padding, B integers.
        channels: True on channels that are zeroed in all frames of an utterance, shape `(B, D)`; None for no channels.
        channels_first: Zero channels before frames are masked, so that a masked frame keeps its whole embedding.
    """

    frames: Tensor
    targets: Tensor
    num_targets: tuple[int, ...]
    channels: Tensor | None = None
    channels_first: bool = False

    def to(self, device: torch.device) -> Mask:
        """Copies the tensors to a device asynchronously."""
        return replace(
            self,
            frames=self.frames.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            channels=None if self.channels is None else self.channels.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Mask:
        """Pins the tensors."""
        return replace(
            self,
            frames=self.frames.pin_memory(),
            targets=self.targets.pin_memory(),
            channels=None if self.channels is None else self.channels.pin_memory(),
        )

    def hide(self, frames: Tensor, embedding: Tensor) -> Tensor:
        """Replaces masked `frames` `(B, T, D)` by `embedding` `(D,)` and zeroes masked channels."""
        channels = None if self.channels is None else self.channels[:, None]  # (B, 1, D)
        if channels is not None and self.channels_first:
            frames = frames.masked_fill(channels, 0.0)
        frames = torch.where(self.frames[..., None], embedding.to(frames.dtype), frames)
        if channels is not None and not self.channels_first:
            frames = frames.masked_fill(channels, 0.0)
        return frames


@dataclass
class Draws:
    """The random draws and counts of one micro-batch, made on the host before its forward pass.

    Attributes:
        address: The seed of all random draws of the micro-batch.
        num_predictions: Predictions of the micro-batch.
        mask: The mask; None if nothing is masked, or if the forward pass draws it.
        negatives: What each sampler of distractors has drawn, by its `NegativeSampler.key`: integers of any width,
            shape `(B, M, ...)`. Samplers that are not in it draw in the forward pass.
        made_for: What the draws depend on beside their address: the frames of each utterance, and a hash of the options
            of the parts that drew. None if the model itself made them.
    """

    address: RandomAddress
    num_predictions: int
    mask: Mask | None = None
    negatives: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    made_for: tuple[tuple[int, ...], str] | None = None

    def to(self, device: torch.device) -> Draws:
        """Copies the tensors to a device asynchronously."""
        return self._map(lambda mask: mask.to(device), lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Draws:
        """Pins the tensors."""
        return self._map(lambda mask: mask.pin_memory(), lambda tensor: tensor.pin_memory())

    def _map(self, of_mask: Callable[[Mask], Mask], of_tensor: Callable[[Tensor], Tensor]) -> Draws:
        mask = None if self.mask is None else of_mask(self.mask)
        negatives = {key: tuple(map(of_tensor, tensors)) for key, tensors in self.negatives.items()}
        return replace(self, mask=mask, negatives=negatives)
