"""Reads the audio of planned batches in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from w2vlab.data.batches.reading import read_or_reason
from w2vlab.extraction.encoding.corpus import OrderedCorpus
from w2vlab.extraction.encoding.plan import Piece, PiecePlan, Shard, plan_batches
from w2vlab.types import AudioBatch, Seconds


@dataclass(frozen=True)
class PlannedBatch:
    """A batch before its audio is read.

    Attributes:
        shard: The shard that it belongs to.
        pieces: Pieces of utterances, in ascending order of their lengths.
        is_last: Whether it is the last one of its shard.
    """

    shard: Shard
    pieces: tuple[Piece, ...]
    is_last: bool


@dataclass(kw_only=True)
class PieceBatch:
    """A batch with its audio.

    Attributes:
        plan: What was to be read.
        pieces: The pieces that could be read, in the order of `audio`.
        audio: Their audio; None if no piece could be read.
        failures: Number of each utterance of which a piece could not be read, with the reason.
    """

    plan: PlannedBatch
    pieces: tuple[Piece, ...]
    audio: AudioBatch | None
    failures: dict[int, str]

    def to(self, *args: Any, **kwargs: Any) -> PieceBatch:
        """Returns this batch: the source moves what it needs. Lightning calls it."""
        return self

    def pin_memory(self) -> PieceBatch:
        """Pins the waveform; the `DataLoader` calls it."""
        return self if self.audio is None else replace(self, audio=self.audio.pin_memory())


class PlannedBatches(Sampler[PlannedBatch]):
    """The batches of some shards, in order.

    Args:
        corpus: The utterances.
        shards: The shards.
        pieces: How long recordings are cut.
        batch_seconds: Audio in a batch, at most, in seconds, including padding.
    """

    def __init__(
        self, corpus: OrderedCorpus, shards: Sequence[Shard], pieces: PiecePlan, batch_seconds: Seconds
    ) -> None:
        self.shards = tuple(shards)
        self._corpus = corpus
        self._pieces = pieces
        self._batch_seconds = batch_seconds

    def __iter__(self) -> Iterator[PlannedBatch]:
        for shard in self.shards:
            batches = plan_batches(shard, self._corpus.durations, self._pieces, self._batch_seconds)
            previous: tuple[Piece, ...] | None = None
            for batch in batches:
                if previous is not None:
                    yield PlannedBatch(shard, previous, is_last=False)
                previous = batch
            assert previous is not None, "every utterance has a frame"
            yield PlannedBatch(shard, previous, is_last=True)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: there is one pass."""


class PieceDataset(Dataset[PieceBatch]):
    """Reads the pieces of a `PlannedBatch`.

    A piece that cannot be read, or has NaN or infinite samples, is reported in `failures`.

    Args:
        corpus: The utterances.
    """

    def __init__(self, corpus: OrderedCorpus) -> None:
        self._corpus = corpus

    def __getitem__(self, plan: PlannedBatch) -> PieceBatch:
        """Reads one batch."""
        failures: dict[int, str] = {}
        found, names, waveforms = [], [], []
        for piece in plan.pieces:
            cut = self._corpus.cut(piece.utterance)
            audio = read_or_reason(cut, piece.window)
            if isinstance(audio, str):
                failures[piece.utterance] = audio
            else:
                found.append(piece)
                names.append(cut.id)
                waveforms.append(audio)
        batch = _batch_of(names, waveforms, [piece.window.start for piece in found]) if found else None
        return PieceBatch(plan=plan, pieces=tuple(found), audio=batch, failures=failures)


def _batch_of(names: Sequence[str], waveforms: Sequence[np.ndarray], starts: Sequence[int]) -> AudioBatch:
    lengths = tuple(map(len, waveforms))
    waveform = torch.zeros(len(lengths), max(lengths))  # (B, S)
    for row, audio in zip(waveform, waveforms, strict=True):
        row[: len(audio)] = torch.from_numpy(audio)
    return AudioBatch(waveform=waveform, num_samples=lengths, ids=tuple(names), starts=tuple(starts))
