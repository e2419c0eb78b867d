"""Activations that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from w2vlab.functional.kernels.plain import uses_plain_kernels


@dataclass(frozen=True)
class Step:
    """One operation that is cheap enough to be computed twice.

    Attributes:
        function: Maps frames `(B, T, C)`, its inputs per utterance and its shared inputs to frames. It draws no random
            numbers, and the frames of an utterance do not depend on the other utterances.
        num_per_utterance: Number of inputs whose first axis is the utterances, apart from the frames.
        num_shared: Number of inputs that all utterances have in common, such as parameters.
        per_frame: Whether a frame depends on the same frame of the input alone, and no input per utterance has a time
            axis. Some frames of an utterance then can be computed alone.
    """

    function: Callable[..., Tensor]
    num_per_utterance: int
    num_shared: int
    per_frame: bool = False


@dataclass(frozen=True)
class Recomputed:
    """Frames `(B, T, C)` as the tensors they follow from by cheap steps, such as a norm and an activation.

    The `Conv1d` or `Linear` that consumes them computes the steps in its forward pass and again in its backward pass,
    so that their results are not kept in between. It is `torch.utils.checkpoint.checkpoint` for the input of one layer,
    without a second forward pass of that layer.

    Attributes:
        steps: What computes the frames.
        per_utterance: What the steps begin with, then their inputs per utterance in order; None for an absent one.
        shared: The shared inputs of the steps, in order.
    """

    steps: tuple[Step, ...]
    per_utterance: tuple[Tensor | None, ...]
    shared: tuple[Tensor, ...]

    def tensor(self) -> Tensor:
        """Returns the frames `(B, T, C)`, computed by ordinary operations that autograd records."""
        return run_steps(self.steps, self.per_utterance, self.shared)


Frames = Tensor | Recomputed
"""Input type of the modules of this package: frames `(B, T, C)`, or frames that the backward pass recomputes."""


def run_steps(steps: Sequence[Step], per_utterance: Sequence[Tensor | None], shared: Sequence[Tensor | None]) -> Tensor:
    """Computes the frames `(B, T, C)` of the `Recomputed` with these attributes."""
    frames, *rest = per_utterance
    assert frames is not None, "what the steps begin with"
    first_input, first_shared = 0, 0
    for step in steps:
        end_input, end_shared = first_input + step.num_per_utterance, first_shared + step.num_shared
        frames = step.function(frames, *rest[first_input:end_input], *shared[first_shared:end_shared])
        first_input, first_shared = end_input, end_shared
    return frames


def as_tensor(frames: Frames) -> Tensor:
    """Returns `frames` as a tensor `(B, T, C)`; recomputed ones are computed and kept."""
    return frames.tensor() if isinstance(frames, Recomputed) else frames


def as_recomputed(frames: Frames) -> Recomputed:
    """Returns `frames` as recomputed ones; a tensor gets no steps."""
    return frames if isinstance(frames, Recomputed) else Recomputed((), (frames,), ())


def recompute(
    function: Callable[..., Tensor],
    frames: Frames,
    per_utterance: tuple[Tensor | None, ...] = (),
    shared: tuple[Tensor, ...] = (),
    per_frame: bool = False,
) -> Frames:
    """Applies a cheap function to frames, which is computed again in the backward pass of the layer that follows.

    Equals `function(frames, *per_utterance, *shared)`, which is also the plain path.

    Args:
        function: As of `Step`.
        frames: Shape `(B, T, C)`.
        per_utterance: Further inputs whose first axis is the utterances; None for an absent one.
        shared: Inputs that all utterances have in common, such as parameters.
        per_frame: As of `Step`.
    """
    if uses_plain_kernels():
        return function(as_tensor(frames), *per_utterance, *shared)
    before = as_recomputed(frames)
    step = Step(function, len(per_utterance), len(shared), per_frame)
    return Recomputed((*before.steps, step), (*before.per_utterance, *per_utterance), (*before.shared, *shared))


class GELU(nn.GELU):
    """Equals `nn.GELU()` exactly; with `recompute` it uses less memory, because its output is not kept.

    Args:
        recompute: Return frames that the following `Linear` or `Conv1d` of this package computes again in its backward
            pass. False if anything else follows.
    """

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute

    def forward(self, input: Frames) -> Frames:  # type: ignore[override]
        """Maps `input`, of any shape, to the same shape."""
        return recompute(F.gelu, input, per_frame=True) if self.recompute else F.gelu(as_tensor(input))


class ReLU(nn.ReLU):
    """Equals `nn.ReLU()` exactly; with `recompute` it uses less memory, because its output is not kept.

    Args:
        recompute: Return frames that the following `Linear` or `Conv1d` of this package computes again in its backward
            pass. False if anything else follows.
    """

    def __init__(self, recompute: bool = False) -> None:
        super().__init__()
        self.recompute = recompute

    def forward(self, input: Frames) -> Frames:  # type: ignore[override]
        """Maps `input`, of any shape, to the same shape."""
        return recompute(F.relu, input, per_frame=True) if self.recompute else F.relu(as_tensor(input))
