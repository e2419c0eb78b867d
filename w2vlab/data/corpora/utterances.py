"""The utterances of a run: those of prepared manifests, filtered by length, exclusion and transcripts."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse.cut import Cut
from lhotse.utils import compute_num_samples, fastcopy

from w2vlab.data.corpora.manifest_file import ManifestFile
from w2vlab.data.corpora.splitting import position
from w2vlab.data.corpora.tally import Tally
from w2vlab.data.labels.transcripts import Transcripts
from w2vlab.data.shards.found import BYTES, SHARD
from w2vlab.types import SAMPLE_RATE, Seconds


class Utterances:
    """Utterances of one or several corpora; in memory are numbers alone, and cuts are read from disk one by one.

    Args:
        manifest: Path of the prepared cuts.
        min_samples: Utterances of fewer samples at 16 kHz are left out.
        excluded: Returns True for the ids of utterances to leave out; None excludes none.
        max_samples: Utterances of more samples at 16 kHz are left out; None for no limit.
        transcripts: Utterances without a transcript are left out; None if transcripts are not needed.
        name: Name of the corpus in a mixture; the ids of its utterances are then `name/id`. None without a mixture.

    Attributes:
        positions: `splitting.position` of each utterance, which depends on its id in its own corpus.
        durations: Duration of each utterance in seconds.
        keys: Hash of each utterance: of its id, start and duration, file sizes and transcript, but not of its path.
        corpora: Number of the corpus of each utterance.
        shards: Number of the shard of each utterance, an index of `shard_names`; -1 for an utterance in its own file.
        shard_names: Path or URL of each shard.
        names: Name of each corpus.
        uses: How many times an epoch uses each corpus; 1.0 if it is not part of a mixture.
        left_out: Utterances that were left out, by reason.
        num_excluded: Number of utterances that `excluded` left out.
        transcripts: The transcripts of each corpus; None if they are not needed.
    """

    def __init__(
        self,
        manifest: Path,
        min_samples: int,
        excluded: Callable[[str], bool] | None = None,
        max_samples: int | None = None,
        transcripts: Transcripts | None = None,
        name: str | None = None,
    ) -> None:
        self.left_out = Tally()
        self.num_excluded = 0
        self.names: tuple[str | None, ...] = (name,)
        self.uses: tuple[float, ...] = (1.0,)
        self._transcripts: tuple[Transcripts | None, ...] = (transcripts,)
        self._manifests: tuple[ManifestFile, ...] = (ManifestFile(manifest),)
        offsets, positions, durations, keys, shards = array("q"), array("d"), array("d"), array("Q"), array("q")
        names: dict[str, int] = {}
        for offset, cut in self._manifests[0]:
            utterance = cut["id"]
            if excluded is not None and (excluded(utterance) or (name is not None and excluded(f"{name}/{utterance}"))):
                self.num_excluded += 1
                continue
            transcript = None if transcripts is None else transcripts.get(utterance)
            reason = _skip_reason(compute_num_samples(cut["duration"], SAMPLE_RATE), min_samples, max_samples) or (
                "without a transcript" if transcripts is not None and transcript is None else None
            )
            if reason is not None:
                self.left_out.add(reason, utterance)
                continue
            custom = cut.get("custom") or {}
            offsets.append(offset)
            positions.append(position(utterance))
            durations.append(cut["duration"])
            keys.append(utterance_key(utterance, cut["start"], cut["duration"], custom.get(BYTES), transcript))
            shards.append(names.setdefault(custom[SHARD], len(names)) if SHARD in custom else -1)
        self.keys: npt.NDArray[np.uint64] = np.array(keys, dtype=np.uint64)
        self.positions: npt.NDArray[np.float64] = np.array(positions, dtype=np.float64)
        self.durations: npt.NDArray[np.float64] = np.array(durations, dtype=np.float64)
        self.corpora: npt.NDArray[np.int64] = np.zeros(len(offsets), dtype=np.int64)
        self._offsets: npt.NDArray[np.int64] = np.array(offsets, dtype=np.int64)
        # Numbered by name, so that the order of an epoch does not depend on which utterance is the first of its shard.
        self.shard_names: tuple[str, ...] = tuple(sorted(names))
        by_name = np.array([names[shard] for shard in self.shard_names], dtype=np.int64).argsort()
        self.shards: npt.NDArray[np.int64] = np.array(shards, dtype=np.int64)
        if names:
            self.shards = np.where(self.shards < 0, -1, by_name[self.shards])

    @classmethod
    def joined(cls, parts: Sequence[Utterances], uses: Sequence[float] | None = None) -> Utterances:
        """Returns the utterances of several corpora, one after the other.

        Args:
            parts: Utterances of the corpora.
            uses: How many times an epoch uses each corpus of each part; None for once.
        """
        other = cls.__new__(cls)
        other.left_out, other.num_excluded = Tally(), sum(part.num_excluded for part in parts)
        other.names = tuple(name for part in parts for name in part.names)
        other.uses = tuple(use for part in parts for use in part.uses) if uses is None else tuple(uses)
        other._transcripts = tuple(transcripts for part in parts for transcripts in part._transcripts)
        other._manifests = tuple(manifest for part in parts for manifest in part._manifests)
        other.shard_names = tuple(shard for part in parts for shard in part.shard_names)
        for field in ("keys", "positions", "durations", "_offsets"):
            setattr(other, field, np.concatenate([getattr(part, field) for part in parts]))
        first_corpus = np.cumsum([0, *(len(part.names) for part in parts)])
        other.corpora = np.concatenate([part.corpora + first_corpus[number] for number, part in enumerate(parts)])
        first_shard = np.cumsum([0, *(len(part.shard_names) for part in parts)])
        shifted = [np.where(part.shards < 0, -1, part.shards + first_shard[n]) for n, part in enumerate(parts)]
        other.shards = np.concatenate(shifted)
        return other

    def between(self, first: float, last: float) -> Utterances:
        """Returns the utterances whose position is in `[first, last)`."""
        part = copy(self)
        inside = (self.positions >= first) & (self.positions < last)
        for field in ("keys", "positions", "durations", "corpora", "shards", "_offsets"):
            setattr(part, field, getattr(self, field)[inside])
        return part

    def __getitem__(self, index: int) -> Cut:
        """Returns an utterance.

        Raises:
            RunError: The manifest has been removed.
        """
        corpus = int(self.corpora[index])
        cut = self._manifests[corpus].cut(int(self._offsets[index]))
        name = self.names[corpus]
        return cut if name is None else fastcopy(cut, id=f"{name}/{cut.id}")

    def __iter__(self) -> Iterator[Cut]:
        """Yields the utterances in the order of the manifest."""
        return (self[index] for index in range(len(self)))

    def __len__(self) -> int:
        return len(self.durations)

    def mark_as_used(self) -> None:
        """Updates the time of the last use of the manifests.

        Raises:
            RunError: A manifest has been removed.
        """
        for manifest in self._manifests:
            manifest.mark_as_used()

    @property
    def transcripts(self) -> Callable[[str], str | None] | None:
        """Returns the transcript of an id, None for one without; None if transcripts are not needed."""
        return None if self._transcripts[0] is None else self._transcript

    def _transcript(self, utterance: str) -> str | None:
        for name, transcripts in zip(self.names, self._transcripts, strict=True):
            if transcripts is not None and (name is None or utterance.startswith(f"{name}/")):
                return transcripts.get(utterance if name is None else utterance.removeprefix(f"{name}/"))
        return None

    def iter_transcripts(self) -> Iterator[str]:
        """Yields the transcripts; none if transcripts are not needed."""
        if self._transcripts[0] is not None:
            yield from filter(None, (self._transcript(cut.id) for cut in self))

    @property
    def digest(self) -> str:
        """Hash of all utterances; independent of the paths of the corpora."""
        return _digest(self.keys, "" if self.names == (None,) else repr(self.names))

    @property
    def keys_in_mixture(self) -> npt.NDArray[np.uint64]:
        """Hash of each utterance and the name of its corpus: two corpora of a mixture may have equal utterances."""
        names = np.array([0 if name is None else short_hash(name) for name in self.names], np.uint64)
        keys: npt.NDArray[np.uint64] = self.keys ^ names[self.corpora]
        return keys

    @property
    def digests(self) -> dict[str, str]:
        """Hash of the utterances of each corpus of a mixture, by its name; empty without a mixture."""
        names = () if self.names == (None,) else enumerate(self.names)
        return {str(name): _digest(self.keys[self.corpora == corpus]) for corpus, name in names}

    @property
    def seconds(self) -> Seconds:
        """Total duration in seconds."""
        return float(self.durations.sum())

    def cropped_seconds(self, max_seconds: Seconds) -> Seconds:
        """Returns the audio of one epoch: the total duration after cropping to `max_seconds`, times the uses."""
        cropped = np.minimum(self.durations, max_seconds)
        if set(self.uses) == {1.0}:
            return float(cropped.sum())
        return float(np.bincount(self.corpora, cropped, len(self.uses)) @ np.array(self.uses))


def _digest(keys: npt.NDArray[np.uint64], text: str = "") -> str:
    return hashlib.blake2b(keys.tobytes() + text.encode(), digest_size=16).hexdigest()


def _skip_reason(samples: int, min_samples: int, max_samples: int | None) -> str | None:
    if samples < min_samples:
        return f"shorter than {min_samples / SAMPLE_RATE:g} s"
    if max_samples is not None and samples > max_samples:
        return f"longer than {max_samples / SAMPLE_RATE:g} s"
    return None


def num_samples(cut: Cut) -> int:
    """Returns the number of samples of `cut` at 16 kHz."""
    return int(compute_num_samples(cut.duration, SAMPLE_RATE))


def utterance_key(utterance: str, start: Seconds, duration: Seconds, sizes: Any, transcript: str | None = None) -> int:
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
