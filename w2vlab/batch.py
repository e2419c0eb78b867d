"""The input of a model: the audio of a micro-batch, and the address of its random draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from torch import Tensor

Seconds = float
Hertz = int

SAMPLE_RATE: Hertz = 16_000
"""The sampling rate of all models, in Hz; the data layer resamples all audio to it."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The rows of a fused batch that are one micro-batch.

    Attributes:
        number: Its number among the micro-batches of this process in the update, from 0.
        size: Its utterances.
    """

    number: int
    size: int


@dataclass(kw_only=True)
class AudioBatch:
    """The utterances of a micro-batch, or of several that are fused: computed as one batch (`parts`).

    Attributes:
        waveform: Audio at 16 kHz in [-1, 1], zero after the end of an utterance, shape `(B, S)`.
        num_samples: Samples of each utterance, B integers.
        ids: A unique name for each utterance, B strings; random draws are addressed by it.
        counted: False if the batch adds nothing to the update: it only keeps this process in step with another one that
            has a batch more.
        transcripts: The transcript of each utterance, B strings over a `Vocabulary`; None in pretraining.
        starts: First sample of each crop in its utterance, at 16 kHz, B integers; None if it is not known.
        utterance_samples: Samples of each utterance before it was cropped, at 16 kHz, B integers; None if not known.
        clean: The utterances that are mixed with others, without the mixing: their targets follow from this audio. None
            if no utterance of the batch is mixed.
        corpus_seconds: In a mixture of corpora, seconds of each corpus in the batch, 0 for one without an utterance in
            it; None without a mixture.
        update: On the first micro-batch of an update, all micro-batches of that update on this process, in host
            memory; None on the others. With `data.fuse_seconds`, all batches of the loader in that update.
        parts: The micro-batches that are fused in this batch, in the order of its rows; None if it is one by itself.
        others: Batches of other lengths that belong to the same training step, so that nothing is padded much.
    """

    waveform: Tensor
    num_samples: tuple[int, ...]
    ids: tuple[str, ...]
    counted: bool = True
    transcripts: tuple[str, ...] | None = None
    starts: tuple[int, ...] | None = None
    utterance_samples: tuple[int, ...] | None = None
    clean: CleanAudio | None = None
    corpus_seconds: dict[str, Seconds] | None = None
    update: tuple[AudioBatch, ...] | None = None
    parts: tuple[MicroBatch, ...] | None = None
    others: tuple[AudioBatch, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def seconds(self) -> Seconds:
        """The audio in the batch without padding, in seconds."""
        return sum(self.num_samples) / SAMPLE_RATE

    @property
    def passes(self) -> tuple[AudioBatch, ...]:
        """The batches of the training step, each of which is computed at once."""
        return (replace(self, others=(), update=None), *self.others) if self.others else (self,)

    def micro_batches(self) -> list[AudioBatch]:
        """Returns the micro-batches of `parts`, each as it is apart: with no more padding than it needs."""
        if self.parts is None:
            return [self]
        ends = [0, *accumulate(part.size for part in self.parts)]
        ranges = [slice(*pair) for pair in pairwise(ends)]
        sizes = [max(self.num_samples[rows]) for rows in ranges]
        cleans = [None] * len(sizes) if self.clean is None else self.clean.micro_batches(ends[:-1], sizes)
        found = []
        for part, rows, size, clean in zip(self.parts, ranges, sizes, cleans, strict=True):
            one = AudioBatch(
                waveform=self.waveform[rows, :size],
                num_samples=self.num_samples[rows],
                ids=self.ids[rows],
                counted=self.counted,
                transcripts=None if self.transcripts is None else self.transcripts[rows],
                starts=None if self.starts is None else self.starts[rows],
                utterance_samples=None if self.utterance_samples is None else self.utterance_samples[rows],
                clean=clean,
                parts=(part,),
            )
            found.append(one)
        return found

    @property
    def of_targets(self) -> AudioBatch:
        """The batch from whose audio targets follow: the same one, unless some of its utterances are mixed."""
        if self.clean is None:
            return self
        waveform = self.waveform.index_copy(0, self.clean.rows, self.clean.batch.waveform)
        return replace(self, waveform=waveform, clean=None)

    def to(self, *args: Any, **kwargs: Any) -> AudioBatch:
        """Moves the waveforms like `Tensor.to`; Lightning calls it."""
        clean = None if self.clean is None else self.clean.to(*args, **kwargs)
        others = tuple(other.to(*args, **kwargs) for other in self.others)
        return replace(self, waveform=self.waveform.to(*args, **kwargs), clean=clean, others=others)

    def pin_memory(self) -> AudioBatch:
        """Pins the waveforms; the `DataLoader` calls it."""
        clean = None if self.clean is None else self.clean.pin_memory()
        others = tuple(other.pin_memory() for other in self.others)
        return replace(self, waveform=self.waveform.pin_memory(), clean=clean, others=others)


@dataclass(kw_only=True)
class CleanAudio:
    """The utterances of a batch that are mixed with others, without the mixing.

    Attributes:
        batch: These utterances, M of B, padded to the same length S.
        rows: Which utterances of the batch they are, int64, shape `(M,)`.
    """

    batch: AudioBatch
    rows: Tensor

    def micro_batches(self, firsts: Sequence[int], sizes: Sequence[int]) -> list[CleanAudio | None]:
        """Returns those of each micro-batch of a fused batch, whose `parts` have all micro-batches; None without any.

        Args:
            firsts: First row of each micro-batch in the fused batch.
            sizes: Samples of a row of each micro-batch.
        """
        batch, found, start = self.batch, list[CleanAudio | None](), 0
        assert batch.parts is not None, "what belongs to a fused batch is fused"
        for part, first, size in zip(batch.parts, firsts, sizes, strict=True):
            rows = slice(start, start + part.size)
            one = AudioBatch(
                waveform=batch.waveform[rows, :size],
                num_samples=batch.num_samples[rows],
                ids=batch.ids[rows],
                starts=None if batch.starts is None else batch.starts[rows],
                utterance_samples=None if batch.utterance_samples is None else batch.utterance_samples[rows],
            )
            found.append(CleanAudio(batch=one, rows=self.rows[rows] - first) if part.size else None)
            start = rows.stop
        return found

    def to(self, *args: Any, **kwargs: Any) -> CleanAudio:
        """Moves the tensors like `Tensor.to`; the rows stay integers."""
        batch = self.batch.to(*args, **kwargs)
        return replace(self, batch=batch, rows=self.rows.to(batch.waveform.device, non_blocking=True))

    def pin_memory(self) -> CleanAudio:
        """Pins the tensors."""
        return replace(self, batch=self.batch.pin_memory(), rows=self.rows.pin_memory())


@dataclass(frozen=True, kw_only=True)
class RandomAddress:
    """The seed of a random draw, in place of a generator whose state would have to be kept.

    The same address gives the same numbers in a resumed run and on another number of processes.

    Attributes:
        seed: The seed of the run.
        update: Optimiser updates done before this one.
        ids: Utterances of the batch.
        stream: Separates the draws of training, validation and other uses.
    """

    seed: int
    update: int
    ids: tuple[str, ...]
    stream: str = "train"

    def generators(self, purpose: str) -> list[np.random.Generator]:
        """Returns a new generator for each utterance; generators of different purposes (`"mask"`) are independent."""
        keys = (f"{self.stream}/{purpose}/{name}".encode() for name in self.ids)
        digests = (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys)
        return [np.random.default_rng((self.seed, self.update, digest)) for digest in digests]
