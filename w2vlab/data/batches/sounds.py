"""The sounds of augmentations, such as noises: a prepared corpus that is read at random places."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_or_reason
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpora.utterances import Utterances
from w2vlab.types import SAMPLE_RATE
from w2vlab.utils.messages import count, one_line

Audio = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


class CorpusSounds:
    """The sounds of a corpus.

    Args:
        corpus: Name or path of the corpus, for messages.
        utterances: Its files; a manifest of cuts may have parts of files.

    Attributes:
        skipped: Sounds that could not be read, in this process.
    """

    def __init__(self, corpus: str, utterances: Utterances) -> None:
        self.skipped = Tally()
        self._corpus = corpus
        self._utterances = utterances

    def __len__(self) -> int:
        return len(self._utterances)

    def num_samples(self, index: int) -> int:
        """Returns the samples of a sound at 16 kHz, at least 1."""
        return max(1, int(self._utterances.durations[index] * SAMPLE_RATE))

    def read(self, index: int, start: int, length: int) -> Audio | None:
        """Reads a part of a sound at 16 kHz, `(length,)`; None if its file is damaged, which is counted and logged."""
        cut = self._utterances[index]
        audio = read_or_reason(cut, Window(start, length))
        if isinstance(audio, str):
            self._skip(audio, cut.id)
            return None
        return audio

    def _skip(self, reason: str, name: str) -> None:
        self.skipped.add(reason, name)
        if self.skipped.is_at_a_power_of_two:
            logger.warning(
                "Could not mix in %s of %s in this process so far: %s; the last one was %s (%s).",
                count(self.skipped.total, "sound"),
                self._corpus,
                self.skipped,
                one_line(name),
                reason,
            )
