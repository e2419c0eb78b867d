"""A stack of layers with LayerDrop and activation checkpointing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from w2vlab.functional.gradients import with_zero_gradients
from w2vlab.functional.kernels.noise import Replayed, separate_noise
from w2vlab.interfaces import StepDependent

_PURPOSE = int.from_bytes(b"layer_drop", "little")
"""Makes these draws independent of other draws from (seed, update)."""


class LayerDropStack(nn.ModuleList, StepDependent):
    """Layers one after another, some of which are left out of an update in training (LayerDrop).

    They are drawn once an update, on the host. All processes and all micro-batches leave out the same layers, so that
    an update trains one sub-network for any layout of the hardware, and no process waits for another that has more
    layers to run. The published code draws in every process and micro-batch; the rate is the same.

    A layer left out costs no time. Its parameters get a gradient of zero, because DDP waits for a gradient of each.

    Args:
        layers: Modules that map frames `(B, T, D)` and a padding mask to frames `(B, T, D)`; with True as a third
            argument they return the output of their last feed-forward network, too.
        layer_drop: Probability of a layer to be left out.
        activation_checkpointing: In training, keep only the input of each layer, and recompute the layer in the
            backward pass with the same dropout: about a third more time, the same gradients.

    Reference:
        Fan et al. 2019, arXiv:1909.11556; checkpointing: Chen et al. 2016, arXiv:1604.06174.
    """

    def __init__(
        self, layers: Iterable[nn.Module], layer_drop: float = 0.0, activation_checkpointing: bool = False
    ) -> None:
        super().__init__(layers)
        if not 0 <= layer_drop < 1:
            raise ValueError(f"`layer_drop` must be at least 0 and below 1, but is {layer_drop}.")
        self.layer_drop = layer_drop
        self.activation_checkpointing = activation_checkpointing
        self.set_update(0)

    def set_update(self, update: int, seed: int = 0) -> None:
        """Draws the layers that are left out of the update."""
        draws = np.random.default_rng((seed, update, _PURPOSE)).random(len(self))
        self.dropped: tuple[bool, ...] = tuple((draws < self.layer_drop).tolist())

    def scheduled_values(self, update: int) -> dict[str, float]:
        """Returns nothing: the rate stays the same."""
        return {}

    @overload
    def forward(self, frames: Tensor, padding_mask: Tensor | None) -> Tensor: ...

    @overload
    def forward(
        self, frames: Tensor, padding_mask: Tensor | None, layers: Collection[int], feedforward: bool = False
    ) -> tuple[Tensor, dict[int, Tensor]]: ...

    def forward(
        self,
        frames: Tensor,
        padding_mask: Tensor | None,
        layers: Collection[int] | None = None,
        feedforward: bool = False,
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Maps `frames` `(B, T, D)` to `(B, T, D)`; `padding_mask` `(B, T)` is True on padding.

        With `layers` it returns their outputs, too, as `ContextNetwork.forward_layers`.

        A layer that is left out of the update has its input as its output. If the output of its feed-forward network is
        wanted, it is computed, but the layers after it do not see it.
        """
        outputs: dict[int, Tensor] = {}
        for number, (layer, dropped) in enumerate(zip(self, self.dropped, strict=True), start=1):
            wanted = layers is not None and number in layers
            left_out = self.training and dropped
            output, within = frames, None
            if not left_out or (wanted and feedforward):
                output, within = self._run(layer, frames, padding_mask, wanted and feedforward)
            frames = with_zero_gradients(frames, layer.parameters()) if left_out else output
            if wanted:
                outputs[number] = frames if within is None else within
        return frames if layers is None else (frames, outputs)

    def _run(
        self, layer: nn.Module, frames: Tensor, padding_mask: Tensor | None, feedforward: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the output of a layer, and that of its last feed-forward network if it is wanted."""
        given = (frames, padding_mask, *([True] if feedforward else []))
        if self.training and self.activation_checkpointing and torch.is_grad_enabled():
            result = checkpoint(layer, *given, use_reentrant=False, context_fn=_replaying)
        else:
            result = layer(*given)
        return result if feedforward else (result, None)


def _replaying() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Returns contexts of a layer and of its recomputation, which draws the noise of each micro-batch again.

    PyTorch itself does so for noise of the whole batch, from the state of the default generator.
    """
    noise = separate_noise()
    return nullcontext(), nullcontext() if noise is None else Replayed(noise)
