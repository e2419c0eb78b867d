"""Filters the utterances of a prepared manifest by length, exclusion and transcripts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut, CutSet
from lhotse.utils import compute_num_samples

from w2vlab.data.corpora.splitting import position
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.labels.transcripts import Transcripts
from w2vlab.types import SAMPLE_RATE, RunError, Seconds

BYTES = "bytes"
"""Custom field of a cut in a prepared manifest that has the sizes of the utterance's files."""


class Utterances:
    """Cuts of a prepared manifest, read from disk in every iteration because those of a large corpus need much memory.

    Args:
        manifest: Path of the prepared cuts.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        excluded: Returns True for the ids of utterances to leave out; None excludes none.
        max_samples: Utterances of more samples at 16 kHz are left out; None for no limit.
        transcripts: Utterances without a transcript are left out; None if transcripts are not needed.

    Attributes:
        positions: `splitting.position` of each utterance.
        durations: Duration of each utterance in seconds.
        keys: Hash of each utterance: of its id, start and duration, file sizes and transcript, but not of its path.
        left_out: Utterances that were left out, by reason.
        num_excluded: Number of utterances that `excluded` left out.
        transcripts: The transcripts; None if they are not needed.
    """

    def __init__(
        self,
        manifest: Path,
        min_samples: int,
        excluded: Callable[[str], bool] | None = None,
        max_samples: int | None = None,
        transcripts: Transcripts | None = None,
    ) -> None:
        self.left_out = Tally()
        self.num_excluded = 0
        self.transcripts = transcripts
        self._manifest = manifest
        self._min_samples = min_samples
        self._max_samples = max_samples
        self._excluded = excluded or _is_never_excluded
        self._first, self._last = 0.0, 1.0
        positions, durations, keys = [], [], []
        for cut in CutSet.from_jsonl_lazy(manifest):
            if self._excluded(cut.id):
                self.num_excluded += 1
            elif (reason := self._skip_reason(cut)) is not None:
                self.left_out.add(reason, cut.id)
            else:
                positions.append(position(cut.id))
                durations.append(cut.duration)
                keys.append(self._key(cut))
        self.keys: npt.NDArray[np.uint64] = np.array(keys, dtype=np.uint64)
        self.positions: npt.NDArray[np.float64] = np.array(positions)
        self.durations: npt.NDArray[np.float64] = np.array(durations)

    def between(self, first: float, last: float) -> Utterances:
        """Returns the utterances whose position is in `[first, last)`."""
        part = copy(self)
        part._first, part._last = first, last
        inside = (self.positions >= first) & (self.positions < last)
        part.positions, part.durations = self.positions[inside], self.durations[inside]
        part.keys = self.keys[inside]
        return part

    def __iter__(self) -> Iterator[Cut]:
        """Yields the cuts in the order of the manifest.

        Raises:
            RunError: The manifest has been removed.
        """
        if not self._manifest.is_file():
            raise RunError(
                f"The manifest {self._manifest} must exist while a run reads it, but has been removed. Resume from the "
                "last checkpoint: the corpus is then scanned again."
            )
        with suppress(OSError):  # a cache may be read-only
            os.utime(self._manifest)  # otherwise it could be removed as unused
        for cut in CutSet.from_jsonl_lazy(self._manifest):
            inside = self._first <= position(cut.id) < self._last and not self._excluded(cut.id)
            if inside and self._skip_reason(cut) is None:
                yield cut

    def _skip_reason(self, cut: Cut) -> str | None:
        samples = num_samples(cut)
        if samples < self._min_samples:
            return f"shorter than {self._min_samples / SAMPLE_RATE:g} s"
        if self._max_samples is not None and samples > self._max_samples:
            return f"longer than {self._max_samples / SAMPLE_RATE:g} s"
        if self.transcripts is not None and self.transcripts.get(cut.id) is None:
            return "without a transcript"
        return None

    def _key(self, cut: Cut) -> int:
        sizes = (getattr(cut, "custom", None) or {}).get(BYTES)
        transcript = None if self.transcripts is None else self.transcripts.get(cut.id)
        return utterance_key(cut.id, cut.start, cut.duration, sizes, transcript)

    @property
    def digest(self) -> str:
        """Hash of all utterances; independent of the path of the corpus."""
        return hashlib.blake2b(self.keys.tobytes(), digest_size=16).hexdigest()

    def iter_transcripts(self) -> Iterator[str]:
        """Yields the transcripts; none if transcripts are not needed."""
        if self.transcripts is not None:
            yield from filter(None, (self.transcripts.get(cut.id) for cut in self))

    def __len__(self) -> int:
        return len(self.durations)

    @property
    def seconds(self) -> Seconds:
        """Total duration in seconds."""
        return float(self.durations.sum())

    def cropped_seconds(self, max_seconds: Seconds) -> Seconds:
        """Returns the total duration after cropping to `max_seconds`: the audio of one epoch, in seconds."""
        return float(np.minimum(self.durations, max_seconds).sum())


def num_samples(cut: Cut) -> int:
    """Returns the number of samples of `cut` at 16 kHz."""
    return int(compute_num_samples(cut.duration, SAMPLE_RATE))


def utterance_key(
    utterance: str, start: Seconds, duration: Seconds, sizes: object, transcript: str | None = None
) -> int:
    """Returns a hash of an utterance, 64 bits.

    Args:
        utterance: Its id.
        start: Where it begins in its recording, in seconds.
        duration: Its duration in seconds.
        sizes: Sizes of its files in bytes.
        transcript: Its transcript; None if it is not needed.
    """
    return short_hash(repr((utterance, round(start, 6), round(duration, 6), sizes, transcript)))


def short_hash(text: str) -> int:
    """Returns a hash of a text, 64 bits."""
    encoded = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _is_never_excluded(utterance_id: str) -> bool:
    return False
