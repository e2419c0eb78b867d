"""The family inside the attention of a context network: what tells it where frames are."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class AttentionPositions(nn.Module, ABC):
    """Tells self-attention where frames are; each layer has positions, and their weights, of its own.

    They turn queries and keys, or add to the scores of pairs of frames. A part may only depend on the number of
    frames T, on queries and keys, so that it can be compiled with its layer and padding, which comes last, changes
    nothing.
    """

    @property
    def utterances_are_independent(self) -> bool:
        """As of a `FeatureEncoder`."""
        return False

    def place(self, frames: Tensor) -> Tensor:
        """Returns what queries and keys, but not values, are projected from; the frames themselves by default.

        Args:
            frames: Input of the attention, shape `(B, T, D)`.

        Returns:
            Shape `(B, T, D)`; the same tensor if nothing is changed.
        """
        return frames

    @abstractmethod
    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Brings positions into the scores of a layer, `query @ key.T / sqrt(d)`.

        Args:
            query: Shape `(B, H, T, d)`.
            key: Shape `(B, H, T, d)`.

        Returns:
            Queries and keys `(B, H, T, d)` that are used in their place, and what is added to their scores, of the
            shape `(B, H, T, T)` or one that broadcasts to it, or None.
        """
