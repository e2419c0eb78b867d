"""The utterances of a prepared manifest that a run uses."""

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

from w2vlab.data.splitting import position
from w2vlab.data.tally import Tally
from w2vlab.data.transcripts import Transcripts
from w2vlab.types import SAMPLE_RATE, RunError, Seconds

BYTES = "bytes"
"""Name of the sizes of an utterance's files, among what a cut of a prepared manifest has beside its audio."""


class Utterances:
    """Cuts of a prepared manifest, read from disk on every pass: those of a large corpus do not fit in memory.

    Args:
        manifest: The prepared cuts.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        excluded: Tells by an id that its utterance is left out; None for none.
        max_samples: Those of more are, too; None for no limit.
        transcripts: Those that have none are, too; None where none are needed.

    Attributes:
        positions: `splitting.position` of each.
        durations: Seconds of each.
        keys: A hash of what each is: id, place in its recording, sizes of its files, transcript; not where it lies.
        left_out: Those that cannot be used, by reason.
        num_excluded: How many `excluded` left out.
        transcripts: What is said in each; None where nobody asked.
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
        self._excluded = excluded or _nothing
        self._first, self._last = 0.0, 1.0
        positions, durations, keys = [], [], []
        for cut in CutSet.from_jsonl_lazy(manifest):
            if self._excluded(cut.id):
                self.num_excluded += 1
            elif (reason := self._reason_against(cut)) is not None:
                self.left_out.add(reason, cut.id)
            else:
                positions.append(position(cut.id))
                durations.append(cut.duration)
                keys.append(self._key(cut))
        self.keys: npt.NDArray[np.uint64] = np.array(keys, dtype=np.uint64)
        self.positions: npt.NDArray[np.float64] = np.array(positions)
        self.durations: npt.NDArray[np.float64] = np.array(durations)

    def between(self, first: float, last: float) -> Utterances:
        """Returns the utterances whose position is at least `first` and below `last`."""
        part = copy(self)
        part._first, part._last = first, last
        inside = (self.positions >= first) & (self.positions < last)
        part.positions, part.durations = self.positions[inside], self.durations[inside]
        part.keys = self.keys[inside]
        return part

    def __iter__(self) -> Iterator[Cut]:
        """Yields them, in the order of the manifest.

        Raises:
            RunError: The manifest is gone.
        """
        if not self._manifest.is_file():
            raise RunError(
                f"The list of utterances {self._manifest} must stay as long as a run reads it, but is gone. Go on from "
                "the last checkpoint; the corpus is then scanned again."
            )
        with suppress(OSError):  # in a cache that may be read-only; what is not used for long is removed
            os.utime(self._manifest)
        for cut in CutSet.from_jsonl_lazy(self._manifest):
            inside = self._first <= position(cut.id) < self._last and not self._excluded(cut.id)
            if inside and self._reason_against(cut) is None:
                yield cut

    def _reason_against(self, cut: Cut) -> str | None:
        samples = num_samples(cut)
        if samples < self._min_samples:
            return f"shorter than {self._min_samples / SAMPLE_RATE:g} s"
        if self._max_samples is not None and samples > self._max_samples:
            return f"longer than {self._max_samples / SAMPLE_RATE:g} s"
        if self.transcripts is not None and self.transcripts.of(cut.id) is None:
            return "without a transcript"
        return None

    def _key(self, cut: Cut) -> int:
        said = None if self.transcripts is None else self.transcripts.of(cut.id)
        sizes = (getattr(cut, "custom", None) or {}).get(BYTES)
        content = repr((cut.id, round(cut.start, 6), round(cut.duration, 6), sizes, said))
        return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "little")

    @property
    def digest(self) -> str:
        """A hash of what all of them are, the same wherever the corpus is."""
        return hashlib.blake2b(self.keys.tobytes(), digest_size=16).hexdigest()

    def spoken(self) -> Iterator[str]:
        """Yields the transcript of each, where there are transcripts."""
        if self.transcripts is not None:
            yield from filter(None, (self.transcripts.of(cut.id) for cut in self))

    def __len__(self) -> int:
        return len(self.durations)

    @property
    def seconds(self) -> Seconds:
        """Audio in all of them."""
        return float(self.durations.sum())

    def seconds_in(self, max_seconds: Seconds) -> Seconds:
        """Returns the audio in one window of up to `max_seconds` of each: what an epoch hears."""
        return float(np.minimum(self.durations, max_seconds).sum())


def num_samples(cut: Cut) -> int:
    """Returns how many samples `cut` has at 16 kHz."""
    return int(compute_num_samples(cut.duration, SAMPLE_RATE))


def _nothing(utterance_id: str) -> bool:
    return False
