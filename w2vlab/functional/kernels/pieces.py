"""Some frames of a convolution at a time, so that what is computed for its input stays small."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2vlab.functional.precision import at_least_float32

_NUMBERS_AT_ONCE = 1 << 21
"""Numbers of an input that are computed at once on a CPU, so that they take no more than 16 MiB."""


@dataclass(frozen=True)
class Piece:
    """Some frames of some utterances of a batch.

    Attributes:
        rows: The utterances.
        outputs: Frames of the output of the convolution.
        inputs: Frames of its input that they see.
        num_seen: How many of the first ones the piece before has seen, too.
        batch: Utterances of the batch.
        num_outputs: Frames of the whole output.
    """

    rows: slice
    outputs: slice
    inputs: slice
    num_seen: int
    batch: int
    num_outputs: int

    @property
    def is_all(self) -> bool:
        """Whether the piece is the whole batch."""
        return self.rows.start == 0 and self.rows.stop >= self.batch and self.outputs == slice(0, self.num_outputs)

    def of_inputs(self, per_utterance: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Returns views of tensors with an axis of utterances, of which the first one has an axis of time as well."""
        some = [None if tensor is None else tensor[self.rows] for tensor in per_utterance]
        first = some[0]
        return [None if first is None else first[:, self.inputs], *some[1:]]


def pieces(frames: Tensor, channels: int, kernel: int, stride: int, divide: bool) -> Iterator[Piece]:
    """Yields the pieces of a convolution in order; a GPU has one.

    Args:
        frames: What the input `(B, T, C)` follows from, shape `(B, T, ...)`.
        channels: Channels C of the input.
        kernel: Frames that the convolution sees.
        stride: Frames from one window to the next.
        divide: Whether a long utterance may be divided.
    """
    batch, length = frames.shape[:2]
    count = (length - kernel) // stride + 1
    at_once = _NUMBERS_AT_ONCE // channels if frames.device.type == "cpu" else batch * length
    num_rows = min(batch, max(1, at_once // length))
    num_frames = max(1, at_once // stride) if divide and kernel >= stride and length > at_once else count
    for row in range(0, batch, num_rows):
        for first in range(0, count, num_frames):
            stop = min(first + num_frames, count)
            inputs = slice(first * stride, length if stop == count else (stop - 1) * stride + kernel)
            rows, outputs = slice(row, row + num_rows), slice(first, stop)
            yield Piece(rows, outputs, inputs, kernel - stride if first else 0, batch, count)


class PiecewiseGradients:
    """The gradients of what the input of a convolution is computed from, from those of its pieces in order.

    Sums are in float32 or wider.

    Args:
        per_utterance: The frames that the input follows from, `(B, T, ...)`, and other tensors with an axis of
            utterances; None for an absent one.
        shared: Tensors that all utterances have in common.
    """

    def __init__(self, per_utterance: Sequence[Tensor | None], shared: Sequence[Tensor | None]) -> None:
        self._inputs, self._num_per_utterance = (*per_utterance, *shared), len(per_utterance)
        self._totals: list[Tensor | None] = [None] * len(self._inputs)

    def add(self, number: int, piece: Piece, gradient: Tensor) -> None:
        """Adds the gradient of a piece to that of the tensor with this number."""
        like, total = self._inputs[number], self._totals[number]
        assert like is not None, "it has a gradient"
        if piece.is_all:
            self._totals[number] = gradient
        elif number == 0:
            if total is None:
                total = self._totals[0] = torch.empty_like(like)
            part, seen = total[piece.rows, piece.inputs], piece.num_seen
            part[:, :seen] += gradient[:, :seen]
            part[:, seen:] = gradient[:, seen:]
        else:
            if total is None:
                total = self._totals[number] = torch.zeros_like(like, dtype=at_least_float32(like.new_empty(0)).dtype)
            part = total if number >= self._num_per_utterance else total[piece.rows]
            part += gradient

    def totals(self) -> list[Tensor | None]:
        """Returns the gradient of each tensor in its precision, or None if none was added."""
        return [
            None if total is None or like is None else total.to(like.dtype)
            for total, like in zip(self._totals, self._inputs, strict=True)
        ]
