"""The family of teachers: networks that follow the student, and give it its targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

from torch import Tensor, nn

from w2vlab.interfaces.capabilities import StepDependent
from w2vlab.interfaces.networks import ContextNetwork


class Teacher(nn.Module, StepDependent, ABC):
    """Computes targets from unmasked latents, by a network that follows the weights of the student.

    It has no gradient, and is always in evaluation mode: without dropout and without LayerDrop. Its weights are part of
    a checkpoint.

    Attributes:
        output_dim: Width E of the targets.
        num_layers: Layers of equal width that stand one after another in the targets; 1 if they are not divided.
    """

    output_dim: int
    num_layers: int = 1

    @property
    def utterances_are_independent(self) -> bool:
        """As of a `FeatureEncoder`."""
        return False

    @abstractmethod
    def forward(
        self, latents: Tensor, padding_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes targets; the caller disables gradients.

        Args:
            latents: What the student's context network projects, before masking, shape `(B, T, C)`.
            padding_mask: True on padding, shape `(B, T)`; None without padding.
            positions: The frames to compute targets of, shape `(B, M)`; None for all.

        Returns:
            Targets `(B, M, E)`, and the share of their variance over time in their mean square, before any norm, of
            each utterance, `(B,)`: 0 if all frames have the same target.
        """

    @abstractmethod
    def follow(self, student: ContextNetwork, update: int, skipped: Tensor | None = None) -> None:
        """Learns from the weights of the student; the module calls it once an update, after the optimizer step.

        Args:
            student: The student's context network.
            update: Optimizer updates done before this one.
            skipped: True, shape `()` and on the device, if the update must not change the teacher; None for false.
        """

    @abstractmethod
    def restart(self, student: ContextNetwork) -> None:
        """Starts from the weights of a student, such as those of a warm start."""

    @abstractmethod
    def squared_distance(self, student: ContextNetwork) -> Tensor:
        """Returns the squared distance of the averages from the weights that they follow, and the squared norm.

        Weights that are copied do not count; of sharded weights, those of this process' shards do. The norm is that of
        the weights of the student. Shape `(2,)`.
        """

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)
