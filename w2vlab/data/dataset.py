"""Reads the audio of a planned batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from lhotse.cut import Cut
from torch.utils.data import Dataset

from w2vlab.data.audio_files import UnusableAudioError
from w2vlab.data.crops import Window, choose_windows
from w2vlab.data.reading import read_window
from w2vlab.data.sampling import BatchPlan
from w2vlab.data.tally import Tally
from w2vlab.data.transcripts import Transcripts
from w2vlab.data.utterances import num_samples
from w2vlab.types import AudioBatch, RandomAddress
from w2vlab.wording import count

logger = logging.getLogger(__name__)


class SpeechDataset(Dataset[AudioBatch]):
    """Turns a `BatchPlan` into an `AudioBatch`, reading of a file its window, and what its decoder needs.

    An utterance that cannot be read, or holds NaN or infinite samples, is left out of its batch and counted in a
    warning. When nothing of a batch is left, the batch before it takes its place: all processes must go on making the
    same number of steps.

    Args:
        max_samples: The longest window, at 16 kHz.
        crop_to_shortest: Whether the windows of a batch are all as long as its shortest.
        seed: The run's seed.
        random: Whether windows are drawn anew each epoch; otherwise they are the middles.
        transcripts: What is said in each utterance, for batches to bring it; None for none.
    """

    def __init__(
        self,
        max_samples: int,
        crop_to_shortest: bool,
        seed: int,
        random: bool,
        transcripts: Transcripts | None = None,
    ) -> None:
        self.max_samples = max_samples
        self.crop_to_shortest = crop_to_shortest
        self.seed = seed
        self.random = random
        self.transcripts = transcripts
        self.skipped = Tally()  # of this worker process

    def __getitem__(self, plan: BatchPlan) -> AudioBatch:
        """Reads one batch.

        Raises:
            RuntimeError: Neither of two batches could be read.
        """
        for cuts in (plan.cuts, plan.substitute):
            batch = self.read(cuts, plan.epoch)
            if batch is not None:
                return replace(batch, counted=plan.counted)
        raise RuntimeError(
            f"Two whole batches could not be read ({self.skipped}). Check that the disk that holds the corpus is there."
        )

    def read(self, cuts: Sequence[Cut], epoch: int = 0) -> AudioBatch | None:
        """Reads the windows of `cuts`; None where none of them can be read."""
        ids = tuple(cut.id for cut in cuts)
        address = RandomAddress(seed=self.seed, update=epoch, ids=ids, stream="train") if self.random else None
        sizes = [num_samples(cut) for cut in cuts]
        windows = choose_windows(sizes, self.max_samples, self.crop_to_shortest, address)
        read = [self._read(cut, window) for cut, window in zip(cuts, windows, strict=True)]
        usable = [(name, audio) for name, audio in zip(ids, read, strict=True) if audio is not None]
        if not usable:
            return None
        lengths = tuple(len(audio) for _, audio in usable)
        waveform = torch.zeros(len(usable), max(lengths))  # (B, S)
        for row, (_, audio) in zip(waveform, usable, strict=True):
            row[: len(audio)] = torch.from_numpy(audio)
        names = tuple(name for name, _ in usable)
        said = None if self.transcripts is None else tuple(self.transcripts.of(name) or "" for name in names)
        return AudioBatch(waveform=waveform, num_samples=lengths, ids=names, transcripts=said)

    def _read(self, cut: Cut, window: Window) -> npt.NDArray[np.float32] | None:
        try:
            audio = read_window(cut, window)  # (S,)
        except UnusableAudioError as error:
            self._skip(str(error), cut.id)
            return None
        # Decoders and lhotse's own checks fail in many ways, and no single file may end a run of days.
        except Exception as error:
            self._skip(f"unreadable ({type(error).__name__})", cut.id)
            return None
        if not np.isfinite(audio).all():
            self._skip("with NaN or infinite samples", cut.id)
            return None
        return audio

    def _skip(self, reason: str, name: str) -> None:
        self.skipped.add(reason, name)
        total = self.skipped.total
        # At 1, 2, 4, 8, …: a broken disk must be seen, and not fill the log with one line a file.
        if total & (total - 1) == 0:
            logger.warning(
                "Left %s out of their batches in this process so far: %s; the last was %s (%s).",
                count(total, "utterance"),
                self.skipped,
                name,
                reason,
            )
