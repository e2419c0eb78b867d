"""Connectionist temporal classification: the loss, what it can align, and the best path."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor

from w2vlab.functional.precision import at_least_float32

BLANK_INDEX = 0


def log_probabilities(logits: Tensor) -> Tensor:
    """Returns the logarithm of the softmax of `logits` `(B, T, V)` over V, in float32 or wider."""
    with torch.autocast(logits.device.type, enabled=False):
        return at_least_float32(logits).log_softmax(dim=-1)


def frames_needed(target: Sequence[int]) -> int:
    """Returns the fewest frames that `target` can be aligned with: one a unit, and a blank between two alike."""
    return len(target) + sum(first == second for first, second in pairwise(target))


def ctc_loss(log_probabilities: Tensor, targets: Sequence[Sequence[int]], num_frames: Sequence[int]) -> Tensor:
    """Returns the loss of each utterance, in nats, without gradient for those that cannot be aligned: `(B,)`.

    What cannot be aligned is known before anything is computed, and never enters; so a value that is not finite means
    that the model's are not.

    Args:
        log_probabilities: Shape `(B, T, V)`, the blank first.
        targets: The units of each utterance, numbers in [1, V).
        num_frames: Frames of each utterance, B integers.

    Returns:
        The negative logarithm of the probability of each target; 0 where `alignable` is False.

    Reference:
        Graves et al. 2006, Connectionist Temporal Classification (ICML), Equation 8.
    """
    rows = [row for row, fits in enumerate(alignable(targets, num_frames)) if fits]
    losses = 0.0 * log_probabilities[:, 0, 0]  # (B,), in the graph whatever fits
    if not rows:
        return losses
    device = log_probabilities.device
    lengths = [len(targets[row]) for row in rows]
    padded = torch.zeros(len(rows), max(lengths), dtype=torch.long)  # (B', L)
    for number, row in enumerate(rows):
        padded[number, : lengths[number]] = torch.tensor(targets[row])
    chosen = torch.tensor(rows).to(device, non_blocking=True)
    with torch.autocast(device.type, enabled=False):
        of_rows = torch.ctc_loss(  # which takes lengths from the host
            at_least_float32(log_probabilities).index_select(0, chosen).transpose(0, 1),  # (T, B', V)
            padded.to(device, non_blocking=True),
            [num_frames[row] for row in rows],
            lengths,
            blank=BLANK_INDEX,
            reduction=0,  # none
        )
    return losses.index_add(0, chosen, of_rows)


def alignable(targets: Sequence[Sequence[int]], num_frames: Sequence[int]) -> tuple[bool, ...]:
    """Tells which targets have a unit, and enough frames for all of theirs."""
    return tuple(0 < frames_needed(target) <= frames for target, frames in zip(targets, num_frames, strict=True))


def best_path(log_probabilities: Tensor, num_frames: Sequence[int]) -> list[list[int]]:
    """Returns the units on the path of the most likely entry of each frame.

    Args:
        log_probabilities: Shape `(B, T, V)`, the blank first.
        num_frames: Frames of each utterance, B integers.

    Reference:
        Graves et al. 2006, Connectionist Temporal Classification (ICML), Section 3.2.
    """
    paths = log_probabilities.argmax(dim=-1).tolist()  # (B, T)
    return [
        [entry for entry, _ in groupby(path[:frames]) if entry != BLANK_INDEX]
        for path, frames in zip(paths, num_frames, strict=True)
    ]
