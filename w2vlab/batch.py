"""The input of a model: the audio of a micro-batch, and the address of its random draws."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

Seconds = float
Hertz = int

SAMPLE_RATE: Hertz = 16_000
"""The sampling rate of all models, in Hz; the data layer resamples all audio to it."""


@dataclass(kw_only=True)
class AudioBatch:
    """The utterances of a micro-batch.

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
            memory; None on the others.
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

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def seconds(self) -> Seconds:
        """The audio in the batch without padding, in seconds."""
        return sum(self.num_samples) / SAMPLE_RATE

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
        return replace(self, waveform=self.waveform.to(*args, **kwargs), clean=clean)

    def pin_memory(self) -> AudioBatch:
        """Pins the waveforms; the `DataLoader` calls it."""
        clean = None if self.clean is None else self.clean.pin_memory()
        return replace(self, waveform=self.waveform.pin_memory(), clean=clean)


@dataclass(kw_only=True)
class CleanAudio:
    """The utterances of a batch that are mixed with others, without the mixing.

    Attributes:
        batch: These utterances, M of B, padded to the same length S.
        rows: Which utterances of the batch they are, int64, shape `(M,)`.
    """

    batch: AudioBatch
    rows: Tensor

    def to(self, *args: Any, **kwargs: Any) -> CleanAudio:
        """Moves the tensors like `Tensor.to`; the rows stay integers."""
        batch = self.batch.to(*args, **kwargs)
        return CleanAudio(batch=batch, rows=self.rows.to(batch.waveform.device, non_blocking=True))

    def pin_memory(self) -> CleanAudio:
        """Pins the tensors."""
        return CleanAudio(batch=self.batch.pin_memory(), rows=self.rows.pin_memory())


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
