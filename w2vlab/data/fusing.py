"""Fuses micro-batches of an update: several are computed as one batch, with the numbers of each one apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from w2vlab.batch import SAMPLE_RATE, AudioBatch, Seconds, join_micro_batches
from w2vlab.utils.messages import duration

_ROUNDED = 1 + 1e-9
"""So that rounding does not exclude a batch that is exactly as long as allowed: 6 * 0.4 > 2.4."""


def micro_batches_at_once(fuse_seconds: Seconds | None, batch_seconds: Seconds) -> int:
    """Returns how many micro-batches are computed as one batch, at least 1.

    Args:
        fuse_seconds: Maximum audio of a fused batch, in seconds; None fuses nothing.
        batch_seconds: Maximum audio of a micro-batch, in seconds.
    """
    return 1 if fuse_seconds is None else max(1, int(fuse_seconds / batch_seconds * _ROUNDED))


def num_groups(micro_batches: int, at_once: int) -> int:
    """Returns the number of groups into which the micro-batches of a process and an update are divided."""
    return -(-micro_batches // at_once)


def check_fusing(
    fuse_seconds: Seconds | str | None, batch_seconds: Seconds, micro_batches: int | None
) -> Seconds | None:
    """Returns `data.fuse_seconds` if it can be used.

    Raises:
        ValueError: It is not a finite number of seconds that holds two micro-batches, or `data.micro_batches` is not
            given.
    """
    if fuse_seconds is None:
        return None
    if isinstance(fuse_seconds, str):
        raise ValueError(
            f"`fuse_seconds` must be a number of seconds, or null, but is {fuse_seconds}: what fits in memory depends "
            "on the model. `w2vlab batch-size` measures it, and prints the `data.fuse_seconds` that fit."
        )
    if micro_batches is None:
        raise ValueError(
            f"`fuse_seconds` must be null without `micro_batches`, but is {fuse_seconds:g}: the micro-batches of an "
            "update are fused, and `micro_batches` says how many it has."
        )
    if not fuse_seconds >= 2 * batch_seconds:
        raise ValueError(
            f"`fuse_seconds` must be at least {2 * batch_seconds:g}, two micro-batches of `batch_seconds`, but is "
            f"{fuse_seconds:g}. Raise it, or set it to null."
        )
    if fuse_seconds == math.inf:
        most = micro_batches * batch_seconds
        raise ValueError(f"`fuse_seconds` must be finite, but is inf. {most:g} is a whole update; memory must hold it.")
    return fuse_seconds


def describe_groups(micro_batches: int, at_once: int, batch_seconds: Seconds) -> str:
    """Returns in words how the micro-batches of a process and an update are computed; empty if each one apart."""
    if at_once == 1 or micro_batches == 1:
        return ""
    size = min(at_once, micro_batches)
    return f", up to {size} at once, as batches of up to {duration(size * batch_seconds)}"


def grouped(lengths: Sequence[float], groups: int) -> list[tuple[int, ...]]:
    """Divides micro-batches into groups of similar length and of sizes that differ by at most 1.

    Args:
        lengths: Of the utterances of each micro-batch.
        groups: Number of groups, at most that of the micro-batches.

    Returns:
        The numbers of the micro-batches of each group, ascending; the groups are in the order of their first ones.
    """
    by_length = np.argsort(np.asarray(lengths), kind="stable")
    return sorted(tuple(sorted(group.tolist())) for group in np.array_split(by_length, groups))


def fuse(
    batches: Sequence[AudioBatch], numbers: Sequence[int], fuse_seconds: Seconds, quadratic_seconds: Seconds | None
) -> AudioBatch:
    """Fuses micro-batches into as few batches as their padding allows.

    All go into one batch if that has at most `fuse_seconds` with its padding; otherwise they are divided where their
    lengths differ most.

    Args:
        batches: Micro-batches of one process and one update, as they are apart.
        numbers: Number of each in the update.
        fuse_seconds: Maximum audio in all batches that are returned, in seconds, including padding.
        quadratic_seconds: A row of t seconds counts as t + t² / `quadratic_seconds`; None for t.

    Returns:
        A batch with `parts`, and the others that belong to the same training step (`AudioBatch.others`).
    """
    by_length = sorted(range(len(batches)), key=lambda index: batches[index].waveform.shape[1])
    lengths = [batches[index].waveform.shape[1] for index in by_length]
    # Where a new batch may begin, among those in the order of their lengths.
    jumps = sorted(range(1, len(batches)), key=lambda place: lengths[place] / lengths[place - 1], reverse=True)
    members: list[list[int]] = []
    for num_cuts in range(len(batches)):
        cuts = sorted(jumps[:num_cuts])
        members = [sorted(by_length[first:stop]) for first, stop in pairwise([0, *cuts, len(batches)])]
        costs = (_padded_seconds([batches[index] for index in some], quadratic_seconds) for some in members)
        if sum(costs) <= fuse_seconds * _ROUNDED:
            break
    first, *others = [
        join_micro_batches([batches[index] for index in some], [numbers[index] for index in some])
        for some in sorted(members)
    ]
    corpus_seconds = batches[0].corpus_seconds
    if corpus_seconds is not None:
        corpus_seconds = {
            name: sum((batch.corpus_seconds or {}).get(name, 0.0) for batch in batches) for name in corpus_seconds
        }
    return replace(first, corpus_seconds=corpus_seconds, others=tuple(others))


def _padded_seconds(batches: Sequence[AudioBatch], quadratic_seconds: Seconds | None) -> Seconds:
    longest = max(batch.waveform.shape[1] for batch in batches) / SAMPLE_RATE
    if quadratic_seconds is not None:
        longest *= 1 + longest / quadratic_seconds
    return sum(map(len, batches)) * longest
