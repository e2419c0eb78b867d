"""The audio of a micro-batch, or of several that are computed as one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from w2vlab.batch.draws import Draws

Seconds = float
Hertz = int

SAMPLE_RATE: Hertz = 16_000
"""The sampling rate of all models, in Hz; the data layer resamples all audio to it."""


@dataclass(kw_only=True)
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
        draws: The random draws for the batch, if they were made with it; a model uses them if they are those that it
            would make itself.
        parts: The micro-batches that are fused in this batch, in the order of its rows; None if it is one by itself.
        others: Batches of other lengths that belong to the same training step, so that little is padded.
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
    draws: Draws | None = None
    parts: tuple[MicroBatch, ...] | None = None
    others: tuple[AudioBatch, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def seconds(self) -> Seconds:
        """The audio of the training step without padding, in seconds: of this batch and of `others`."""
        return sum(sum(batch.num_samples) for batch in (self, *self.others)) / SAMPLE_RATE

    @property
    def passes(self) -> tuple[AudioBatch, ...]:
        """The batches of the training step, each of which is computed at once."""
        return (replace(self, others=(), update=None), *self.others) if self.others else (self,)

    @property
    def num_micro_batches(self) -> int:
        """Number of micro-batches that are computed at once."""
        return 1 if self.parts is None else len(self.parts)

    @property
    def of_targets(self) -> AudioBatch:
        """The batch from whose audio targets follow: the same one, unless some of its utterances are mixed."""
        if self.clean is None:
            return self
        waveform = self.waveform.index_copy(0, self.clean.rows, self.clean.batch.waveform)
        return replace(self, waveform=waveform, clean=None)

    def to(self, *args: Any, **kwargs: Any) -> AudioBatch:
        """Moves the waveforms like `Tensor.to`, and the draws to the same device; Lightning calls it.

        Pinned memory is copied asynchronously. `update` stays in host memory.
        """
        if len(args) < 2 and self.waveform.is_pinned():
            kwargs.setdefault("non_blocking", True)
        waveform = self.waveform.to(*args, **kwargs)
        clean = None if self.clean is None else self.clean.to(*args, **kwargs)
        draws = None if self.draws is None else self.draws.to(waveform.device)
        others = tuple(other.to(*args, **kwargs) for other in self.others)
        return replace(self, waveform=waveform, clean=clean, draws=draws, others=others)

    def pin_memory(self) -> AudioBatch:
        """Pins the tensors; the `DataLoader` calls it."""
        clean = None if self.clean is None else self.clean.pin_memory()
        draws = None if self.draws is None else self.draws.pin_memory()
        others = tuple(other.pin_memory() for other in self.others)
        return replace(self, waveform=self.waveform.pin_memory(), clean=clean, draws=draws, others=others)


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
