"""The sounds of augmentations, such as noises: a prepared corpus that is read at random places."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from w2vlab.data.batches.crops import Window
from w2vlab.data.batches.reading import read_or_reason
from w2vlab.data.corpora.manifests import Manifest
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.corpora.utterances import BYTES, num_samples, utterance_key
from w2vlab.types import RunError
from w2vlab.utils.messages import count

Audio = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)


class ManifestSounds:
    """The sounds of a prepared manifest. Only their places in the manifest are in memory.

    Args:
        corpus: Name or path of the corpus, for messages.
        manifest: The manifest.

    Attributes:
        digest: Hash of all sounds; independent of the path of the corpus.
        skipped: Sounds that could not be read, in this process.
    """

    def __init__(self, corpus: str, manifest: Manifest) -> None:
        self.skipped = Tally()
        self._corpus = corpus
        self._path = manifest.cuts
        places, known = array("q"), hashlib.blake2b(digest_size=8)
        with self._open() as file:
            place = 0
            for line in file:
                places.append(place)
                place += len(line)
                cut = json.loads(line)
                sizes = (cut.get("custom") or {}).get(BYTES)
                known.update(utterance_key(cut["id"], cut["start"], cut["duration"], sizes).to_bytes(8, "little"))
        self._places = np.array(places, dtype=np.int64)
        self.digest = known.hexdigest()

    def _open(self) -> BinaryIO:
        try:
            return Path(self._path).open("rb")
        except FileNotFoundError:
            raise RunError(
                f"The manifest {self._path} must exist while a run reads it, but has been removed. Resume from the "
                "last checkpoint: the corpus is then scanned again."
            ) from None

    def _cut(self, index: int) -> Cut:
        with self._open() as file:
            file.seek(self._places[index])
            cut: Cut = deserialize_item(json.loads(file.readline()))
        return cut

    def __len__(self) -> int:
        return len(self._places)

    def num_samples(self, index: int) -> int:
        """Returns the samples of a sound at 16 kHz, at least 1."""
        return max(1, num_samples(self._cut(index)))

    def read(self, index: int, start: int, length: int) -> Audio | None:
        """Reads a part of a sound at 16 kHz, `(length,)`; None if its file is damaged, which is counted and logged."""
        cut = self._cut(index)
        audio = read_or_reason(cut, Window(start, length))  # (length,)
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
                name,
                reason,
            )
