"""Several masked copies of each utterance, which follow one another in the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from torch import Tensor

from w2vlab.types import MicroBatch, QuantizerOutput


@overload
def repeat_rows(tensor: Tensor, copies: int) -> Tensor: ...


@overload
def repeat_rows(tensor: Tensor | None, copies: int) -> Tensor | None: ...


def repeat_rows(tensor: Tensor | None, copies: int) -> Tensor | None:
    """Returns each row of `tensor` `(B, ...)` as often as there are copies: `(B R, ...)`; None stays None."""
    return tensor if tensor is None or copies == 1 else tensor.repeat_interleave(copies, dim=0)


def repeat_output(output: QuantizerOutput, copies: int) -> QuantizerOutput:
    """Returns the output of a quantizer for each copy, from that for the utterances."""
    return QuantizerOutput(
        quantized=repeat_rows(output.quantized, copies),
        codes=repeat_rows(output.codes, copies),
        probabilities=repeat_rows(output.probabilities, copies),
        losses={name: repeat_rows(loss, copies) for name, loss in output.losses.items()},
    )


def parts_of_copies(parts: Sequence[MicroBatch] | None, copies: int) -> tuple[MicroBatch, ...] | None:
    """Returns the micro-batches of a batch with all copies, from those of the utterances."""
    return None if parts is None else tuple(replace(part, size=part.size * copies) for part in parts)
