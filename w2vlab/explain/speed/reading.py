"""How fast a run's workers read its corpus."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from w2vlab.data import SpeechDataModule
from w2vlab.data.corpora.sample_corpora import is_downloaded
from w2vlab.data.mixtures.sources import read_sources
from w2vlab.types import AudioBatch, Seconds


@dataclass(frozen=True)
class Reading:
    """Measurement of the data workers of one process, without training beside them.

    Attributes:
        rate: Seconds of audio a second.
        workers: Processes that read; 0 if the training process reads.
        batches: Batches that were read.
    """

    rate: float
    workers: int
    batches: int

    def waiting(self, audio: Seconds, step: Seconds) -> Seconds:
        """Returns how long training waits for a micro-batch.

        Args:
            audio: Audio of the micro-batch.
            step: Time of its training step, during which workers read.
        """
        reading = audio / self.rate
        return max(0.0, reading - step) if self.workers else reading


def measure_reading(data: SpeechDataModule, budget: Seconds, advance: Callable[[Seconds], None]) -> Reading:
    """Reads training batches as fast as the workers deliver them.

    Args:
        data: The data module of the run; `require` was called.
        budget: Longest time to read, after the first batches.
        advance: Called with the time that has passed since its last call.

    Raises:
        ValueError: The corpus cannot be used, or would have to be downloaded.
        RunError: Workers have died.
    """
    for source in read_sources(data.corpus, "data.corpus"):
        if not is_downloaded(source.path, data.cache):
            raise ValueError(f"{source.path} has not been downloaded; `w2vlab fit` does that")
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    num_workers: int = loader.num_workers
    batches = iter(loader)
    start = last = time.perf_counter()
    audio, read = 0.0, 0

    def take() -> AudioBatch | None:
        nonlocal last
        batch = next(batches, None)
        now = time.perf_counter()
        advance(now - last)
        last = now
        return batch

    # The first batch of each worker includes its start. If the corpus has no more, it counts.
    for _ in range(max(1, num_workers)):
        batch = take()
        audio, read = (audio, read) if batch is None else (audio + batch.seconds, read + 1)
    first = time.perf_counter()
    while last - first < budget and (batch := take()) is not None:
        if start != first:
            start, audio, read = first, 0.0, 0
        audio, read = audio + batch.seconds, read + 1
    return Reading(audio / max(last - start, 1e-9), num_workers, read)
