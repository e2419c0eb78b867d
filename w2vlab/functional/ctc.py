"""Connectionist temporal classification: the loss, alignable targets, and best-path decoding."""

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
    """Returns the fewest frames to align `target` with: one for each unit, and a blank between repeated units."""
    return len(target) + sum(first == second for first, second in pairwise(target))


def ctc_loss(log_probabilities: Tensor, targets: Sequence[Sequence[int]], num_frames: Sequence[int]) -> Tensor:
    """Computes the CTC loss of each utterance, in nats.

    Utterances that cannot be aligned are left out before the loss is computed, so that the loss is infinite or NaN only
    if the model's outputs are.

    Args:
        log_probabilities: Shape `(B, T, V)`, with the blank at index 0.
        targets: Units of each utterance, integers in [1, V).
        num_frames: Frames of each utterance, B integers.

    Returns:
        Negative log-probability of each target, shape `(B,)`; 0 without gradient if `alignable` is False.

    Reference:
        Graves et al. 2006, Connectionist Temporal Classification (ICML), Equation 8.
    """
    rows = [row for row, fits in enumerate(alignable(targets, num_frames)) if fits]
    losses = 0.0 * log_probabilities[:, 0, 0]  # (B,), in the autograd graph even if no utterance can be aligned
    if not rows:
        return losses
    device = log_probabilities.device
    lengths = [len(targets[row]) for row in rows]
    padded = torch.zeros(len(rows), max(lengths), dtype=torch.long)  # (B', L)
    for number, row in enumerate(rows):
        padded[number, : lengths[number]] = torch.tensor(targets[row])
    chosen = torch.tensor(rows).to(device, non_blocking=True)
    with torch.autocast(device.type, enabled=False):
        of_rows = torch.ctc_loss(  # with lengths on the host, so that it does not synchronise
            at_least_float32(log_probabilities).index_select(0, chosen).transpose(0, 1),  # (T, B', V)
            padded.to(device, non_blocking=True),
            [num_frames[row] for row in rows],
            lengths,
            blank=BLANK_INDEX,
            reduction=0,  # none
        )
    return losses.index_add(0, chosen, of_rows)


def alignable(targets: Sequence[Sequence[int]], num_frames: Sequence[int]) -> tuple[bool, ...]:
    """Returns for each target whether it has a unit and its utterance has enough frames."""
    return tuple(0 < frames_needed(target) <= frames for target, frames in zip(targets, num_frames, strict=True))


def best_path(log_probabilities: Tensor, num_frames: Sequence[int]) -> list[list[int]]:
    """Decodes greedily: collapses repeats of the most likely entry of each frame, and removes blanks.

    Args:
        log_probabilities: Shape `(B, T, V)`, with the blank at index 0.
        num_frames: Frames of each utterance, B integers.

    Reference:
        Graves et al. 2006, Connectionist Temporal Classification (ICML), Section 3.2.
    """
    paths = log_probabilities.argmax(dim=-1).tolist()  # (B, T)
    return [
        [entry for entry, _ in groupby(path[:frames]) if entry != BLANK_INDEX]
        for path, frames in zip(paths, num_frames, strict=True)
    ]
