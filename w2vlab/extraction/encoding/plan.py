"""Divides a corpus into shards, and long recordings into pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lhotse.utils import compute_num_samples

from w2vlab.data.batches.crops import Window
from w2vlab.frame_grid import FrameGrid
from w2vlab.types import SAMPLE_RATE, Seconds

SHARD_BYTES = 1 << 28
"""Frames of a shard, at most, unless it is a single utterance: they are held in memory until the shard is written."""

FRAMES_OF_A_BLOCK = 64
"""Pieces of a recording begin at multiples of so many frames, because encoders compute so many at once: a frame is then
computed by the same operations as in the whole."""


@dataclass(frozen=True)
class Shard:
    """Consecutive utterances that are written together.

    Attributes:
        number: Number of the shard, from 0.
        first: Number of its first utterance in the corpus.
        stop: Number after its last utterance.
    """

    number: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its files without their suffix."""
        return f"shard-{self.number:05d}"


@dataclass(frozen=True)
class Piece:
    """A part of an utterance that is computed at once.

    Attributes:
        utterance: Number of the utterance in the corpus.
        index: Number of the piece in the utterance.
        window: Samples that are read, at 16 kHz.
        skipped: Frames at the beginning of the window that are context.
        num_frames: Frames of the piece.
    """

    utterance: int
    index: int
    window: Window
    skipped: int
    num_frames: int


@dataclass(frozen=True)
class PiecePlan:
    """How long recordings are cut.

    Attributes:
        grid: Where the frames are in time.
        max_frames: Frames of a piece, at most; None cuts nothing.
        context_frames: Frames of context on both sides.
    """

    grid: FrameGrid
    max_frames: int | None
    context_frames: int

    @classmethod
    def of_seconds(cls, grid: FrameGrid, longest: Seconds | None, context: Seconds, reach: int | None) -> PiecePlan:
        """Returns a plan with pieces of at most `longest` seconds, or of a block if that is more.

        Args:
            grid: Where the frames are in time.
            longest: Longest piece without its context; None cuts nothing.
            context: Context on both sides, if the frames depend on all of a recording.
            reach: Frames on both sides that the frames depend on otherwise.
        """
        if longest is None:
            return cls(grid, None, 0)
        frames = max(1, int(longest * SAMPLE_RATE / grid.stride) // FRAMES_OF_A_BLOCK) * FRAMES_OF_A_BLOCK
        return cls(grid, frames, math.ceil(context * SAMPLE_RATE / grid.stride) if reach is None else reach)

    @property
    def max_seconds(self) -> Seconds | None:
        """Longest piece in seconds, without its context; None if nothing is cut."""
        return None if self.max_frames is None else self.max_frames * self.grid.stride / SAMPLE_RATE

    @property
    def context_seconds(self) -> Seconds:
        """Context on both sides, in seconds."""
        return self.context_frames * self.grid.stride / SAMPLE_RATE

    def is_cut(self, num_samples: int) -> bool:
        """Returns whether an utterance is computed in several pieces."""
        return self.max_frames is not None and self.grid.num_frames(num_samples) > self.max_frames

    def pieces(self, utterance: int, num_samples: int) -> Iterator[Piece]:
        """Yields the pieces of an utterance of `num_samples` samples at 16 kHz."""
        total, stride = self.grid.num_frames(num_samples), self.grid.stride
        size = total if self.max_frames is None else self.max_frames
        for index, first in enumerate(range(0, total, size)):
            stop = min(first + size, total)
            left = max(0, first - self.context_frames)
            right = min(total, stop + self.context_frames)
            end = num_samples if right == total else (right - 1) * stride + max(1, self.grid.receptive_field)
            yield Piece(utterance, index, Window(left * stride, end - left * stride), first - left, stop - first)


def plan_shards(
    durations: Sequence[Seconds] | npt.NDArray[np.float64], shard_seconds: Seconds, bytes_per_second: float
) -> list[Shard]:
    """Divides utterances into shards, in order.

    Args:
        durations: Duration of each utterance in seconds.
        shard_seconds: Audio in a shard, at most; a longer utterance is a shard.
        bytes_per_second: Bytes of the frames of a second.
    """
    limit = min(shard_seconds, SHARD_BYTES / bytes_per_second)
    shards: list[Shard] = []
    first, total = 0, 0.0
    for number, seconds in enumerate(durations):
        if number > first and total + seconds > limit:
            shards.append(Shard(len(shards), first, number))
            first, total = number, 0.0
        total += float(seconds)
    if first < len(durations):
        shards.append(Shard(len(shards), first, len(durations)))
    return shards


def plan_batches(
    shard: Shard, durations: npt.NDArray[np.float64], pieces: PiecePlan, batch_seconds: Seconds
) -> Iterator[tuple[Piece, ...]]:
    """Yields the batches of a shard: pieces of similar length, shortest first; they depend on the shard alone.

    Args:
        shard: The shard.
        durations: Duration of each utterance of the corpus in seconds.
        pieces: How long recordings are cut.
        batch_seconds: Audio in a batch, at most, in seconds, including padding; a longer piece is a batch.
    """
    planned = [
        piece
        for number in range(shard.first, shard.stop)
        for piece in pieces.pieces(number, int(compute_num_samples(float(durations[number]), SAMPLE_RATE)))
    ]
    planned.sort(key=lambda piece: (piece.window.length, piece.utterance, piece.index))
    batch: list[Piece] = []
    for piece in planned:
        if batch and (len(batch) + 1) * piece.window.length > batch_seconds * SAMPLE_RATE:
            yield tuple(batch)
            batch = []
        batch.append(piece)
    if batch:
        yield tuple(batch)
